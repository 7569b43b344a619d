"""The waiting room: who is being served where, who waits, and who is next.

A target takes as many requests at once as it has slots; the others wait here, in bounds, and the
next is the one of the highest priority whose client has the fewest under way: nobody is starved by
somebody's hundred requests.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.gateway.table import Aim, Table, Target

UNKNOWN_SLOTS = 64
"""Requests at once to a server that does not say how many it takes."""

SHUNNED = 1.0
"""Seconds for which a target that has just broken a connection is the last choice."""


class FullError(Exception):
    """Too many wait already."""


class LateError(Exception):
    """Its turn did not come in time."""


class HopelessError(Exception):
    """Nothing that it waits for can come: `targets` say why."""

    def __init__(self, targets: Sequence[Target]) -> None:
        super().__init__()
        self.targets = targets


Choice = tuple[Aim, Target]


def _nobody(_target: Target) -> None:
    """Nobody wants to know."""


def _nothing() -> None:
    """Nobody wants to know."""


def _boot_clock() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _less(counts: Counter[Any], key: object) -> None:
    counts[key] -= 1
    if counts[key] <= 0:
        del counts[key]


@dataclass(slots=True, eq=False)
class _Waiter:
    client: str
    priority: int
    arrived: int
    wants: Callable[[Table], Sequence[Choice]]
    turn: asyncio.Future[Choice]


@dataclass(slots=True)
class Seat:
    """What a request holds while it is served."""

    aim: Aim
    target: Target
    client: str


@dataclass(slots=True)
class Room:
    """One for the gateway. `size` bounds who waits in all, `deadline` (seconds) for how long."""

    size: int = 256
    deadline: float = 30.0
    table: Table = field(default_factory=Table)
    under_way: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    """Requests by whose seats they hold: `Target.seats`."""
    on_leave: Callable[[Target], None] = _nobody
    """Called when a request of a target is over."""
    on_wait: Callable[[], None] = _nothing
    """Called when a request begins to wait."""
    used_at: dict[str, float] = field(default_factory=dict[str, float])
    """When each target was at work last, by the boot clock."""
    _of_client: Counter[str] = field(default_factory=Counter[str])
    _waiting: list[_Waiter] = field(default_factory=list[_Waiter])
    _shunned: dict[str, float] = field(default_factory=dict[str, float])
    _numbers: itertools.count[int] = field(default_factory=itertools.count)
    _turns: itertools.count[int] = field(default_factory=itertools.count)

    async def take(
        self,
        wants: Callable[[Table], Sequence[Choice]],
        *,
        client: str,
        priority: int = 0,
        deadline: float | None = None,
        light: bool = False,
    ) -> Seat:
        """A seat at one of what is wanted, now or when one is free. `light`: it only asks how the
        target is, so it waits for no slot.

        Raises `HopelessError` when none of it can come, `FullError`, `LateError`.
        """
        if light and (there := self._serving(wants(self.table))):
            return self._seat(there, client)
        if not self._waiting and (free := self._free(wants(self.table))):
            return self._seat(free, client)
        self._check(wants)
        if len(self._waiting) >= self.size:
            raise FullError
        loop = asyncio.get_running_loop()
        waiter = _Waiter(client, priority, next(self._numbers), wants, loop.create_future())
        self._waiting.append(waiter)
        self._call_next()
        self.on_wait()
        try:
            choice = await self._turn(waiter, deadline)
        except BaseException:
            self._give_up(waiter)
            raise
        return Seat(*choice, client)

    async def _turn(self, waiter: _Waiter, deadline: float | None) -> Choice:
        """Its turn. Raises `LateError`; but what starts on demand has the time that starts have,
        and after that the slots may still be busy for as long as ever."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        while True:
            try:
                async with asyncio.timeout(self.deadline if deadline is None else deadline):
                    return await asyncio.shield(waiter.turn)
            except TimeoutError:
                starts = [t for _, t in waiter.wants(self.table) if t.wakes]
                within = max((t.starts_within for t in starts if t.phase == "starting"), default=0)
                if deadline is not None or loop.time() - began >= within:
                    raise LateError from None

    def leave(self, seat: Seat) -> None:
        """The request is over: the seat is the next one's."""
        _less(self.under_way, seat.target.seats)
        _less(self._of_client, seat.client)
        self.used_at[seat.target.name] = _boot_clock()
        self._call_next()
        self.on_leave(seat.target)

    def shun(self, target: str) -> None:
        """It broke a connection: others first, until the daemon says more."""
        self._shunned[target] = asyncio.get_running_loop().time() + SHUNNED

    def update(self, table: Table) -> None:
        """Another table is in force: some may go on now, others need not wait any more."""
        self.table = table
        for waiter in list(self._waiting):
            try:
                self._check(waiter.wants)
            except HopelessError as error:
                self._waiting.remove(waiter)
                if not waiter.turn.done():
                    waiter.turn.set_exception(error)
        self._call_next()

    def in_flight(self) -> Counter[str]:
        """How many are served, by target, whichever process of it."""
        counts: Counter[str] = Counter()
        for (name, _), count in self.under_way.items():
            counts[name] += count
        return counts

    @property
    def waiters(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def waiting_for(self) -> Counter[str]:
        """How many wait, by target; one that could go to several counts for each."""
        counts: Counter[str] = Counter()
        for waiter in self._waiting:
            counts.update({target.name for _, target in waiter.wants(self.table)})
        return counts

    def wanted(self) -> set[str]:
        """Those at rest that somebody waits for who waits for nothing else that may come."""
        found: set[str] = set()
        if not any(target.rests for target in self.table.targets.values()):
            return found
        for waiter in self._waiting:
            choices = [target for _, target in waiter.wants(self.table)]
            resting = [target.name for target in choices if target.rests]
            if resting and not any(one.serves or (one.comes and not one.rests) for one in choices):
                found.add(resting[0])
        return found

    def _check(self, wants: Callable[[Table], Sequence[Choice]]) -> None:
        choices = wants(self.table)
        if not any(target.serves or target.comes for _, target in choices):
            raise HopelessError([target for _, target in choices])

    def _give_up(self, waiter: _Waiter) -> None:
        if waiter in self._waiting:
            self._waiting.remove(waiter)
        elif waiter.turn.done() and not waiter.turn.cancelled() and not waiter.turn.exception():
            # Its turn came in the very moment.
            self.leave(Seat(*waiter.turn.result(), waiter.client))

    def _call_next(self) -> None:
        """Seat whoever can be seated, in the order of priority, fairness and arrival."""
        while self._waiting:
            order = sorted(self._waiting, key=self._rank)
            for waiter in order:
                free = self._free(waiter.wants(self.table))
                if free is not None:
                    self._waiting.remove(waiter)
                    if not waiter.turn.done():
                        self._seat(free, waiter.client)
                        waiter.turn.set_result(free)
                    break
            else:
                return

    def _rank(self, waiter: _Waiter) -> tuple[int, int, int]:
        return -waiter.priority, self._of_client[waiter.client], waiter.arrived

    def _seat(self, choice: Choice, client: str) -> Seat:
        aim, target = choice
        self.under_way[target.seats] += 1
        self._of_client[client] += 1
        return Seat(aim, target, client)

    def _serving(self, choices: Sequence[Choice]) -> Choice | None:
        return next((choice for choice in choices if choice[1].serves), None)

    def _free(self, choices: Sequence[Choice]) -> Choice | None:
        """The least busy that serves and has a free slot, by weight; equals take turns."""
        best: Choice | None = None
        least = (True, 0.0)
        now = asyncio.get_running_loop().time()
        turn = next(self._turns)
        for at in range(len(choices)):
            aim, target = choices[(at + turn) % len(choices)]
            busy, slots = self.under_way[target.seats], target.slots or UNKNOWN_SLOTS
            if not target.serves or busy >= slots or aim.weight <= 0:
                continue
            load = (self._shunned.get(target.name, 0.0) > now, (busy + 1) / (slots * aim.weight))
            if best is None or load < least:
                best, least = (aim, target), load
        return best
