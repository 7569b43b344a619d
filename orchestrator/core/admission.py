"""Whether there is memory for one more: what is promised to whom, and what is left. Pure.

A level, not a reservation: the ledger is written anew for every plan, from what runs and from what
the machine says now. An estimate may be wrong, so it counts only as far as it is beyond doubt; an
instance of which nothing is known is never held up.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

from msgspec import Struct, field
from msgspec.structs import replace

from orchestrator.core.spec import Demand, Desired, InstanceSpec
from orchestrator.core.status import ALIVE, SERVING, InstanceStatus, Observed, Phase
from orchestrator.core.units import format_size

DOUBT = 0.15
"""How far an estimate may be off: so much of it is not counted."""

HOST = -1
"""The place that is the machine's own memory; the others are indices of GPUs."""

_NOTHING: Mapping[str, int] = {}
_ROUNDING = 1e-3
"""Bytes: what is exactly enough is enough, however it was added up."""

LOOK_AGAIN = 1.0
"""Seconds between two looks while something waits for memory."""


class Room(Struct, frozen=True):
    """Bytes of one place: all of it, and what is free now. `limit` names what sets the total."""

    total: int
    free: int
    limit: str = ""


class Budget(Struct, frozen=True):
    """What there is, by place. `taken` is what instances have of the machine's memory already, for
    themselves alone, by name: it is not free any more."""

    rooms: Mapping[int, Room] = field(default_factory=dict[int, Room])
    taken: Mapping[str, int] = field(default_factory=dict[str, int])


class Excess(Struct, frozen=True):
    """A set that cannot fit even when all of it is ours: `instance` is the first too many."""

    instance: str
    message: str
    hint: str


class Ledger:
    """What one plan may still start. Each start that is admitted counts for those after it."""

    def __init__(self, observed: Observed, budget: Budget | None) -> None:
        self._budget = budget
        self._observed = observed
        self._held: dict[str, Demand] = {}
        self._loading: set[str] = set()
        self._own = self._growth = 0.0
        self._mapped: dict[str, float] = {}
        self._on_gpus: dict[int, float] = {}
        self._coming: dict[int, float] = {}
        if budget is not None:
            for status in observed.values():
                if status.phase in ALIVE and status.managed and status.spec.demand is not None:
                    self._enter(status.name, status.spec.demand, status.phase, budget.taken)

    def _enter(self, name: str, demand: Demand, phase: Phase, taken: Mapping[str, int]) -> None:
        """Count what an instance has and will have."""
        self._held[name] = demand
        own, has = _counted(demand, demand.host), taken.get(name, 0)
        self._own += max(own, has)
        if phase in SERVING:
            self._growth += max(own - has, 0)
        for path, size in demand.mapped.items():
            self._mapped[path] = max(_counted(demand, size), self._mapped.get(path, 0))
        for gpu, size in demand.gpus.items():
            self._on_gpus[gpu] = self._on_gpus.get(gpu, 0) + _counted(demand, size)
            if phase is Phase.STARTING:
                self._coming[gpu] = self._coming.get(gpu, 0) + _counted(demand, size)
        if phase is Phase.STARTING:
            self._loading.add(name)

    def objection(self, spec: InstanceSpec) -> str | None:
        """Why this one cannot be started now, with the arithmetic; None when it can, and then it
        counts as started."""
        demand, budget = spec.demand, self._budget
        if demand is None or budget is None:
            return None
        for place, room in budget.rooms.items():
            message = self._shortage(demand, place, room)
            if message is not None:
                return message
        message = self._rivalry(demand) if demand.fits_itself else None
        if message is None:
            self._enter(spec.name, demand, Phase.STARTING, _NOTHING)
        return message

    def objection_to_replacing(self, spec: InstanceSpec) -> str | None:
        """As `objection`, for one whose predecessor would be gone by then; nothing is counted."""
        return self.objection_without(spec, [spec.name])

    def objection_without(self, spec: InstanceSpec, gone: Collection[str]) -> str | None:
        """As `objection`, if these had given back what they have; nothing is counted."""
        budget = self._budget
        if spec.demand is None or budget is None:
            return None
        others = {name: one for name, one in self._observed.items() if name not in gone}
        for name in gone:
            budget = _without(budget, self._observed.get(name))
        return Ledger(others, budget).objection(spec)

    def _rivalry(self, demand: Demand) -> str | None:
        """Two that look at the same time how much of a GPU is free would both take it."""
        for name in self._loading:
            shared = self._held[name].gpus.keys() & demand.gpus.keys()
            if self._held[name].fits_itself and shared:
                return f"{name} is choosing its share of GPU {min(shared)}: one after the other"
        return None

    def _shortage(self, demand: Demand, place: int, room: Room) -> str | None:
        needs = self._needs(demand, place, room)
        free = self._free(place, room)
        if needs <= 0 or _counted(demand, needs) <= free + _ROUNDING:
            return None
        about = "" if demand.declared else "about "
        where = f" on GPU {place}" if place != HOST else ""
        message = f"needs {about}{_size(needs)} of memory{where}, "
        message += f"{_size(max(free, 0))} of {_size(room.total)} are free"
        held = {name: _at(one, place) for name, one in self._held.items()}
        message += _listed(held, ": {} has {}")
        if place == HOST and demand.least is not None:
            message += "; with a ctx-size below the model's own it needs less"
        return message

    def _needs(self, demand: Demand, place: int, room: Room) -> int:
        """What a start would add: a file that is mapped already costs nothing more."""
        if place != HOST:
            # One that chooses for itself takes no more than there is.
            return 0 if demand.fits_itself else demand.gpus.get(place, 0)
        needs = demand.host + sum(
            size for path, size in demand.mapped.items() if path not in self._mapped
        )
        if demand.least is not None:
            # It would look for itself, and take what there is in all: not more.
            return min(needs, max(demand.least, room.total))
        return needs

    def _free(self, place: int, room: Room) -> float:
        """What is free, less what those that run have not taken yet, but will.

        What they map stays reclaimable, so the kernel says that it is free; but without it
        everything crawls.
        """
        if place != HOST:
            coming, held = self._coming.get(place, 0), self._on_gpus.get(place, 0)
            return min(room.free - coming, room.total - held)
        return min(room.free - self._growth, room.total - self._own) - sum(self._mapped.values())


def _without(budget: Budget, gone: InstanceStatus | None) -> Budget:
    """What there would be if an instance had given back what it has."""
    if gone is None:
        return budget
    back = {HOST: budget.taken.get(gone.name, 0)}
    demand = gone.spec.demand
    if demand is not None:
        back |= {gpu: round(_counted(demand, size)) for gpu, size in demand.gpus.items()}
    rooms = {
        place: replace(room, free=min(room.free + back.get(place, 0), room.total))
        for place, room in budget.rooms.items()
    }
    return replace(budget, rooms=rooms)


def excesses(desired: Desired, budget: Budget) -> list[Excess]:
    """Where what is declared is clearly too much, were nothing else there: in each place, those
    that are too large by themselves, else all together that are always to run, else those with one
    that runs on demand."""
    found: list[Excess] = []
    known = {name: spec.demand for name, spec in desired.items() if spec.demand is not None}
    stay = {name: one for name, one in known.items() if desired[name].on_demand is None}
    for place, room in budget.rooms.items():
        alone = {name: _sum([demand], place) for name, demand in known.items()}
        large = [
            _excess(name, {name: int(size)}, place, room)
            for name, size in alone.items()
            if size > room.total
        ]
        found += large or _together(stay, place, room) or _each_beside(stay, known, place, room)
    return found


def _each_beside(
    stay: Mapping[str, Demand], known: Mapping[str, Demand], place: int, room: Room
) -> list[Excess]:
    """Those on demand for which nobody can make enough room."""
    return [
        excess
        for name, demand in known.items()
        if name not in stay
        for excess in _together({**stay, name: demand}, place, room)
    ]


def _together(known: Mapping[str, Demand], place: int, room: Room) -> list[Excess]:
    added: list[Demand] = []
    if _sum(known.values(), place) <= room.total:
        return []
    for name, demand in known.items():
        added.append(demand)
        if _sum(added, place) > room.total and _certain(demand, place):
            shares = {other: _at(one, place) for other, one in known.items()}
            return [_excess(name, shares, place, room)]
    return []


def _excess(name: str, shares: Mapping[str, int], place: int, room: Room) -> Excess:
    whose = f"GPU {place}" if place != HOST else room.limit or "this machine"
    more = f"more than the {_size(room.total)} of {whose}"
    if len(shares) == 1:
        message = f"{name} needs {_size(shares[name])} of memory, {more}"
    else:
        message = f"together these instances need {_size(sum(shares.values()))} of memory, {more}"
        message += _listed(shares, ": {} {}")
    hint = "a smaller ctx-size or fewer instances; `resources: {memory: ...}` where the estimate "
    return Excess(name, message, hint + "is wrong; --force to try all the same")


def _sum(demands: Iterable[Demand], place: int) -> float:
    """What is beyond doubt of several demands: each mapped file once."""
    total = 0.0
    mapped: dict[str, float] = {}
    for demand in demands:
        certain = _certain(demand, place)
        if place == HOST and demand.least is None:
            for path, size in demand.mapped.items():
                mapped[path] = max(_counted(demand, size), mapped.get(path, 0.0))
            certain -= _counted(demand, sum(demand.mapped.values()))
        total += certain
    return total + sum(mapped.values())


def _certain(demand: Demand, place: int) -> float:
    """What it takes at the least."""
    if place != HOST:
        return 0.0 if demand.fits_itself else _counted(demand, demand.gpus.get(place, 0))
    if demand.least is not None:
        return _counted(demand, demand.least)
    return _counted(demand, _at(demand, place))


def _counted(demand: Demand, count: int) -> float:
    return count if demand.declared else count * (1.0 - DOUBT)


def _at(demand: Demand, place: int) -> int:
    if place != HOST:
        return demand.gpus.get(place, 0)
    return demand.host + sum(demand.mapped.values())


def _listed(shares: Mapping[str, int], form: str) -> str:
    """The largest shares first, as in `: coder has 8.2GiB, chat has 2GiB`."""
    largest = sorted(((size, name) for name, size in shares.items() if size), reverse=True)
    head, each = form[:2], form[2:]
    words = [each.format(name, _size(size)) for size, name in largest[:4]]
    if len(largest) > 4:
        words.append(f"{len(largest) - 4} more {_size(sum(size for size, _ in largest[4:]))}")
    return head + ", ".join(words) if words else ""


def _size(count: float) -> str:
    return format_size(round(count))


BudgetNow = Callable[[Observed], Budget | None]
"""Reads what there is now, for what is observed; None where it cannot be read."""
