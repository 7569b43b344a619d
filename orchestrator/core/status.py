"""What is: the phase of every instance, the models that it has, and what is known of each.

Only data. `fold` is what makes a new `InstanceStatus` out of an old one. Instants named `*_at` are
seconds of the boot clock, which never jumps; `since` is wall time, for people only.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal

from msgspec import Struct

from orchestrator.core.cause import Mending
from orchestrator.core.spec import InstanceSpec, ModelFacts


class Phase(StrEnum):
    """Where an instance is. Only the reconciler moves it, by folding an event.

    ```
             starting ----------> ready <-------> unready
               |  ^                 |                |
        exited |  | plan: start     | exited, hung   |
               v  |                 v                |
             backoff <------------------------------+    (too many) --> failed
               any alive phase -- plan: stop/replace --> stopping --> stopped
    ```
    `pending` is no phase: it is derived, for what is desired and not yet observed.
    """

    STARTING = "starting"
    READY = "ready"
    UNREADY = "unready"
    BACKOFF = "backoff"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"


ALIVE = frozenset({Phase.STARTING, Phase.READY, Phase.UNREADY, Phase.STOPPING})
"""Phases in which a process exists, or may."""

SERVING = frozenset({Phase.STARTING, Phase.READY, Phase.UNREADY})
"""Alive, and meant to stay so."""


class ProcessRef(Struct, frozen=True):
    """Which process, for good: a pid alone may be somebody else's tomorrow.

    `start_ticks` is field 22 of `/proc/PID/stat`, raw: unlike a time, it does not move with the
    clock.
    """

    pid: int
    start_ticks: int
    boot_id: str


EVICTED = "evicted"
"""The reason of a model that another one has pushed out of memory."""


class ModelState(StrEnum):
    """Where a declared model of an instance is."""

    MISSING = "missing"
    PULLING = "pulling"
    BUILDING = "building"
    PRESENT = "present"
    FAILED = "failed"


class ModelStatus(Struct, frozen=True):
    """One model of an instance as observed. `loaded`: in the memory of its server.

    `bytes_done` of `bytes_total` are of what is under way. `rested`: it was preloaded, and has
    left memory by its own `keep_alive`, as declared. `facts` is what its server says of it.
    """

    name: str
    state: ModelState = ModelState.MISSING
    loaded: bool = False
    bytes_done: int = 0
    bytes_total: int = 0
    reason: str = ""
    message: str = ""
    rested: bool = False
    facts: ModelFacts | None = None

    @property
    def given_up(self) -> bool:
        """True when only time, or somebody's word, brings another try."""
        return self.state is ModelState.FAILED or self.reason == EVICTED

    @property
    def under_way(self) -> bool:
        """True while something is being done about it."""
        return self.state in (ModelState.PULLING, ModelState.BUILDING)


class Health(Struct, frozen=True):
    """What the last inference probe found, and the seconds that it took."""

    kind: Literal["healthy", "slow", "down"]
    latency_s: float

    def as_json(self) -> dict[str, Any]:
        return {"class": self.kind, "latency_s": self.latency_s}


class Alert(Struct, frozen=True):
    """Something about an instance that somebody should know, as long as it is so."""

    kind: str
    message: str

    def as_json(self) -> dict[str, Any]:
        return {"alert": self.kind, "message": self.message}


class AttachedTo(Struct, frozen=True):
    """A server that somebody else runs: what can be seen of it. It is never signalled.

    `pid` and `start_ticks` (as in `ProcessRef`) are None where its process is not visible.
    """

    pid: int | None = None
    owner: str = ""
    version: str = ""
    start_ticks: int | None = None
    boot_id: str = ""


class Rejected(Struct, frozen=True):
    """A change that did not come up, and why: not tried again until it changes."""

    spec: InstanceSpec
    cause: str
    message: str


class InstanceStatus(Struct, frozen=True):
    """One instance as observed. `spec` is what runs, or what was last tried."""

    name: str
    phase: Phase
    spec: InstanceSpec
    start_id: str = ""
    process: ProcessRef | None = None
    reason: str = ""
    message: str = ""
    since: float = 0.0
    started_at: float | None = None
    ready_at: float | None = None
    ready_after_s: float | None = None
    exit_code: int | None = None
    restarts: int = 0
    failures: tuple[float, ...] = ()
    streak: int = 0
    retry_at: float | None = None
    held: bool = False
    hurry: bool = False
    """Its stop is to wait no longer: the plan kills it."""
    condemned: str = ""
    """`hung` or `timeout`: it runs, but must be ended; the plan stops it."""
    rests: bool = False
    """Nobody has asked for it since it was ended, or nobody uses it any more: on demand, it is
    stopped and stays so."""
    redo: bool = False
    """Somebody asked for a new process, or for another try: the next start or replace clears it."""
    guessed: bool = False
    """Adopted by its mark alone: `spec` is no more than what the process table tells."""
    attached: AttachedTo | None = None
    """Whose server it is, where it is not ours."""
    models: tuple[ModelStatus, ...] = ()
    redo_models: bool = False
    """Somebody asked for another try of the models that failed."""
    looking: bool = False
    """Somebody asked which models there are: until the server was looked at, nobody knows."""
    health: Health | None = None
    alerts: tuple[Alert, ...] = ()
    fallback: InstanceSpec | None = None
    """What was ready before what is tried now, or before what was rejected."""
    rejected: Rejected | None = None
    mending: Mending | None = None
    """What it hangs on that it is `failed`: as that was, so that a change is seen."""

    @property
    def managed(self) -> bool:
        """False for a server that was attached to."""
        return self.attached is None

    @property
    def drain(self) -> float:
        """Seconds that requests under way have before it is stopped: what is ended because it does
        not answer, or takes too much, is not waited for."""
        return 0.0 if self.condemned else self.spec.stop.drain

    @property
    def has_models(self) -> bool:
        """Whether it serves models that somebody could have removed from its server."""
        holds = self.spec.holds
        return self.phase in SERVING and holds is not None and bool(holds.models)

    @property
    def doubted(self) -> bool:
        """Whether its models are being looked at: what is known of them may not be so now."""
        return self.looking and self.has_models


Observed = dict[str, InstanceStatus]


def lost_its_port(status: InstanceStatus) -> bool:
    """True when a stranger has the port that was chosen for it: another is about to be chosen."""
    taken = status.phase is Phase.BACKOFF and status.reason == "port-taken"
    return taken and status.spec.auto_port
