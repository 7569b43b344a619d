"""What a change of each field takes: the one table that the plan, its words and the docs go by.

`live` is what the daemon alone reads: it is taken up by the running instance, whose process stays.
`restart` is what reaches the process: another one takes its place.
"""

from __future__ import annotations

from enum import StrEnum


class FieldClass(StrEnum):
    """How a change of a field takes effect."""

    LIVE = "live"
    RESTART = "restart"


LIVE, RESTART = FieldClass.LIVE, FieldClass.RESTART

SPEC_FIELDS: dict[str, FieldClass | None] = {
    "name": None,
    "engine": RESTART,
    "command": RESTART,
    "endpoint": None,
    "profiles": LIVE,
    "model": LIVE,
    "description": LIVE,
    "auto_port": LIVE,
    "inputs": RESTART,
    "needs": LIVE,
    "readiness": LIVE,
    "liveness": LIVE,
    "restart": LIVE,
    "stop": LIVE,
    "update": LIVE,
    "limits": LIVE,
    "attach": LIVE,
    "holds": LIVE,
    "inference": LIVE,
    "awaits": None,
    "demand": LIVE,
    "gpus": None,
    "facts": None,
    "gateway": LIVE,
    "alternate": None,
    "on_demand": LIVE,
    "replica_of": LIVE,
}
"""Every field of `InstanceSpec`; None for what only mirrors others (an address is in the command).
`inputs`, files that changed on disk, are taken up by `apply` and `restart` alone."""

PROFILE_FIELDS: dict[str, FieldClass] = {
    "engine": RESTART,
    "model": RESTART,
    "mmproj": RESTART,
    "port": RESTART,
    "host": RESTART,
    "binary": RESTART,
    "env": RESTART,
    "flags": RESTART,
    "args": RESTART,
    "settings": RESTART,
    "description": LIVE,
    "needs": LIVE,
    "replicas": LIVE,
    "readiness": LIVE,
    "liveness": LIVE,
    "restart": LIVE,
    "stop": LIVE,
    "update": LIVE,
    "limits": LIVE,
    "start": LIVE,
    "idle": LIVE,
    "pin": LIVE,
    "preload": LIVE,
    "attach": LIVE,
    "models": LIVE,
    "prune": LIVE,
    "verify": LIVE,
    "resources": LIVE,
    "resources.gpus": RESTART,
}
"""Every key of an instance in a profile, as people write it."""
