"""What runs only on demand: when it is at rest, and which of those make room for another. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from msgspec import Struct

from orchestrator.core.gate import Gate, Waiting
from orchestrator.core.spec import Desired, InstanceSpec
from orchestrator.core.status import InstanceStatus, Observed, Phase

IDLE = "idle"
"""The reason of an instance that is stopped because nobody uses it."""


class Use(Struct, frozen=True):
    """Of one instance: when it was used last (boot clock), and whether somebody is at it, or waits
    for it."""

    last: float = 0.0
    busy: bool = False


InUse = Mapping[str, Use]
"""By name. Of an instance that is not in it, nobody has used it since it is ready."""


def is_at_rest(spec: InstanceSpec, status: InstanceStatus | None) -> bool:
    """True when it is down because nobody has asked for it: that is as declared."""
    if spec.on_demand is None:
        return False
    if status is None:
        return not spec.on_demand.preload
    return status.phase is Phase.STOPPED and status.rests and not (status.held or status.redo)


def make_room(
    waiting: Mapping[str, Waiting],
    gate: Gate,
    desired: Desired,
    observed: Observed,
    use: InUse | None,
    *,
    touched: Collection[str],
) -> dict[str, str]:
    """Who is stopped for whom: as many of those that nobody uses as let another start, and none
    where that does not; none that something else is planned for (`touched`).

    Without `use` nobody knows who is at work, so nobody goes.
    """
    gone: dict[str, str] = {}
    for name, why in waiting.items() if use is not None else ():
        if why.for_memory and _is_made_room_for(desired[name], observed.get(name)):
            candidates = _can_go(desired, observed, use or {}, {*touched, *gone})
            gone |= dict.fromkeys(gate.who_makes_room(desired[name], candidates), name)
    return gone


def _is_made_room_for(spec: InstanceSpec, status: InstanceStatus | None) -> bool:
    """Nobody goes for what is only loaded in advance."""
    return spec.on_demand is None or (status is not None and not status.rests)


def _can_go(
    desired: Desired, observed: Observed, use: InUse, touched: Collection[str]
) -> list[str]:
    """The least recently used first."""
    idle = [status for status in _ready(desired, observed) if status.name not in touched]
    found = [status for status in idle if not use.get(status.name, Use()).busy]
    return [status.name for status in sorted(found, key=lambda status: _last(status, use))]


def _ready(desired: Desired, observed: Observed) -> Iterator[InstanceStatus]:
    """Those that could go if they are idle."""
    for name, spec in desired.items():
        status = observed.get(name)
        if status is None or spec.on_demand is None or spec.on_demand.pin:
            continue
        if status.phase is Phase.READY and not status.held:
            yield status


def _last(status: InstanceStatus, use: InUse) -> float:
    return max(use.get(status.name, Use()).last, status.ready_at or 0.0)
