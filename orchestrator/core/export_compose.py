"""A compose file that runs the daemon with some profiles. Pure.

Inside, every folder lies where it lies outside: so a profile means the same in both worlds, and
saving it outside is an edit inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml
from msgspec import Struct, field

from orchestrator.core.exported import Exported

STATE = "/state"
"""Where the image keeps what has to outlive a container."""


class Mounts(Struct, frozen=True):
    """What is mounted, all of it read-only: folders by where they lie inside; and the variables
    that say so to discovery."""

    folders: dict[str, str] = field(default_factory=dict[str, str])
    env: dict[str, str] = field(default_factory=dict[str, str])


def render_compose(
    exported: Exported, mounts: Mounts, *, image: str, name: str, user: str = ""
) -> str:
    """The text of a compose file; the same for the same profiles.

    `user` is `uid:gid` of who may read what is mounted, empty for the account of the image.
    """
    document: dict[str, Any] = {
        "services": {name: _service(exported, mounts, image, user)},
        "volumes": {"state": {}},
    }
    files = ", ".join(profile.file.rpartition("/")[2] for profile in exported.profiles)
    shown = "".join(character if character.isprintable() else "?" for character in files)
    head = f"# Made by `orchestrate export compose`. Runs {shown}, and takes up edits of it.\n"
    return head + yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=1000)


def _service(exported: Exported, mounts: Mounts, image: str, user: str) -> dict[str, Any]:
    names = [name for name, _ in exported.variables]
    settings = [f"{key}={_plain(value)}" for key, value in sorted(mounts.env.items())]
    service: dict[str, Any] = {
        "image": _plain(image),
        "command": [_plain(profile.file) for profile in exported.profiles],
        "restart": "unless-stopped",
        "stop_grace_period": f"{exported.grace:g}s",
    }
    if user:
        service["user"] = user
    if names or settings:
        # Without a value: taken from the shell, or from a file `.env`, when it is brought up.
        service["environment"] = [*names, *settings]
    if exported.ports:
        # Where they are reached on this machine today, and from nowhere else.
        service["ports"] = [f"127.0.0.1:{port}:{port}" for _, port in exported.ports]
    service.update(_hardening())
    service["volumes"] = [
        *(_bound(source, target) for target, source in sorted(mounts.folders.items())),
        {"type": "volume", "source": "state", "target": STATE},
    ]
    if exported.limit is not None:
        service["mem_limit"] = exported.limit
    if exported.reserved is not None:
        service["mem_reservation"] = _least(exported.reserved, exported.limit)
    if exported.wants_gpus:
        service["deploy"] = {"resources": {"reservations": {"devices": [_gpus(exported.gpus)]}}}
    return service


def _hardening() -> dict[str, Any]:
    return {
        "read_only": True,
        "tmpfs": ["/tmp"],
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
    }


def _bound(source: str, target: str) -> dict[str, Any]:
    return {
        "type": "bind",
        "source": _plain(source),
        "target": _plain(target),
        "read_only": True,
    }


def _least(reserved: int, limit: int | None) -> int:
    """Docker takes no reservation above the limit."""
    return reserved if limit is None else min(reserved, limit)


def _gpus(indices: Sequence[int] | None) -> dict[str, Any]:
    """All of them: indices inside are those outside only where none is left out before them."""
    wanted = "all" if indices is None else max(indices) + 1
    return {"driver": "nvidia", "count": wanted, "capabilities": ["gpu"]}


def _plain(text: str) -> str:
    """A dollar is a variable of compose, wherever it stands."""
    return text.replace("$", "$$")
