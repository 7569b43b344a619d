"""What a start has to wait for: what it needs, a model that is to come, a port of ours, memory.

Pure. One gate serves one plan: what it lets pass takes its share of what is left.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from orchestrator.core.address import hosts_overlap
from orchestrator.core.admission import Budget, Ledger
from orchestrator.core.provision import same_name
from orchestrator.core.spec import Awaited, Desired, Endpoint, InstanceSpec
from orchestrator.core.status import ALIVE, ModelStatus, Observed, Phase
from orchestrator.core.successor import base_of


class Waiting(Struct, frozen=True):
    """Desired, and not startable yet: shown as `pending`."""

    reason: str
    message: str
    for_memory: bool = False


class Gate:
    """Stands before every start of one plan."""

    def __init__(self, desired: Desired, observed: Observed, budget: Budget | None) -> None:
        self._desired = desired
        self._observed = observed
        self._ledger = Ledger(observed, budget)
        self.waits_for_memory = False
        """Something does: nobody tells when there is room, so it is to be looked again."""
        self._making_room: list[str] = []

    def before_start(self, spec: InstanceSpec) -> Waiting | None:
        """Why a start has to wait; None lets it pass."""
        return self.before_successor(spec) or self._objection(self._ledger.objection(spec))

    def before_successor(self, spec: InstanceSpec) -> Waiting | None:
        """As `before_start`, for one that runs beside what it is to follow: but for memory."""
        unmet = _unmet(spec, self._desired, self._observed)
        return unmet or _port_of_ours(spec, self._desired, self._observed)

    def has_room(self, spec: InstanceSpec) -> bool:
        """Whether there is memory for one more; then it counts as started."""
        return self._ledger.objection(spec) is None

    def before_replacement(self, spec: InstanceSpec) -> Waiting | None:
        """Why what runs goes on for the time being: its successor could not be started.

        Not for a port: two that change ports with each other would wait for ever.
        """
        unmet = _unmet(spec, self._desired, self._observed)
        return unmet or self._objection(self._ledger.objection_to_replacing(spec))

    def who_makes_room(self, spec: InstanceSpec, candidates: Sequence[str]) -> list[str]:
        """Which of `candidates` have to go for a start that waits for memory, the first first;
        nobody where that would not do, or where what is on its way out is enough."""
        leaving = [s.name for s in self._observed.values() if s.phase is Phase.STOPPING]
        leaving += self._making_room
        gone: list[str] = []
        for name in ["", *candidates]:
            gone += [name] if name else []
            if self._ledger.objection_without(spec, [*leaving, *gone]) is None:
                break
        else:
            return []
        for name in list(gone):
            rest = [other for other in gone if other != name]
            if self._ledger.objection_without(spec, [*leaving, *rest]) is None:
                gone = rest
        self._making_room += gone
        return gone

    def _objection(self, message: str | None) -> Waiting | None:
        if message is None:
            return None
        self.waits_for_memory = True
        return Waiting("blocked", message, for_memory=True)


def _unmet(spec: InstanceSpec, desired: Desired, observed: Observed) -> Waiting | None:
    """What is not there yet that it needs."""
    if spec.awaits is not None:
        return Waiting("blocked", awaiting(spec.awaits, observed))
    for need in spec.needs:
        status = observed.get(need)
        if status is None or status.phase is not Phase.READY:
            phase = "pending" if status is None else status.phase.value
            held = ", held by hand" if status is not None and status.held else ""
            where = "" if need in desired else " and is not declared any more"
            return Waiting("blocked", f"needs {need}, which is {phase}{held}{where}")
    return None


def _port_of_ours(spec: InstanceSpec, desired: Desired, observed: Observed) -> Waiting | None:
    """Who of ours has its port, or will."""
    for other in observed.values():
        if (
            other.name != spec.name
            and other.phase in ALIVE
            and overlaps(other.spec.endpoint, spec.endpoint)
        ):
            holder = base_of(other.name)
            if holder == base_of(spec.name):
                holder = "the one before"
            return Waiting("blocked", f"port {spec.endpoint.port} is still held by {holder}")
    for declared in desired.values():
        if declared.name != spec.name and overlaps(declared.endpoint, spec.endpoint):
            # Only what goes back to what it was can find its port given away.
            message = f"port {spec.endpoint.port}, which it had, is {declared.name}'s by now"
            return Waiting("blocked", message)
    return None


def awaiting(awaited: Awaited, observed: Observed) -> str:
    """What it is that something waits for that another is to bring, for people."""
    model, name = awaited.model, awaited.instance
    if awaited.kept:
        return f"{name} has model {model}, but in no store that can be read from here"
    row = promised(awaited, observed)
    return f"waits for model {model}, which is {row.state if row else 'missing'} on {name}"


def promised(awaited: Awaited, observed: Observed) -> ModelStatus | None:
    """What is known of a model that somebody is to bring."""
    status = observed.get(awaited.instance)
    models = status.models if status is not None else ()
    wanted = same_name(awaited.model)
    return next((model for model in models if same_name(model.name) == wanted), None)


def overlaps(one: Endpoint, other: Endpoint) -> bool:
    """True when both cannot listen at the same time."""
    return one.port == other.port and hosts_overlap(one.host, other.host)
