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
from typing import Any

from msgspec import Struct, field

from orchestrator.gateway.affinity import Key
from orchestrator.gateway.choice import Choice, Turns
from orchestrator.gateway.table import Aim, Table, Target

UNKNOWN_SLOTS = 64
"""Requests at once to a server that does not say how many it takes."""

SHUNNED = 1.0
"""Seconds for which nothing is sent to a process that has just broken a connection. Whether it has
ended the daemon knows sooner: then the next process is what is waited for."""

FOR_EACH_SLOT = 64
"""How many may wait for each slot of a target, where nothing else is said."""

LONGEST_LINE = 8192
"""How many may wait in all: each has its request in memory."""

PACE = 0.2
"""How much the last request says of how long the next one takes."""


class FullError(Exception):
    """Too many wait already."""


class LateError(Exception):
    """Its turn did not come in time."""


class HopelessError(Exception):
    """Nothing that it waits for can come: `targets` say why."""

    def __init__(self, targets: Sequence[Target]) -> None:
        super().__init__()
        self.targets = targets


Wants = Callable[[Table], Sequence[Choice]]
"""What a request could be served by, by the table in force."""


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


class _Waiter(Struct, eq=False):
    client: str
    priority: int
    arrived: int
    wants: Wants
    key: Key | None
    line: frozenset[str]
    """The targets that it waits for."""
    turn: asyncio.Future[Seat]


class Seat(Struct):
    """What a request holds while it is served."""

    aim: Aim
    target: Target
    client: str
    since: float
    """When it was taken."""
    light: bool = False
    """It is only looked at, which is no use of it."""


class Room(Struct):
    """One for the gateway. `size` bounds who waits for one target, None: by its slots; `deadline`
    (seconds) for how long."""

    size: int | None = None
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
    _looks: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    """Those of them that are `light`: they take no slot of it."""
    _of_client: Counter[str] = field(default_factory=Counter[str])
    _waiting: list[_Waiter] = field(default_factory=list[_Waiter])
    _shunned: dict[tuple[str, str], asyncio.TimerHandle] = field(
        default_factory=dict[tuple[str, str], asyncio.TimerHandle]
    )
    _numbers: itertools.count[int] = field(default_factory=itertools.count)
    _turns: Turns = field(default_factory=Turns)
    _pace: dict[str, float] = field(default_factory=dict[str, float])
    """Seconds that a request to a target takes."""

    async def take(
        self,
        wants: Wants,
        *,
        client: str,
        priority: int = 0,
        deadline: float | None = None,
        light: bool = False,
        key: Key | None = None,
    ) -> Seat:
        """A seat at one of what is wanted, now or when one is free; alike `key`s go to the same.
        `light`: it only asks how the target is, so it waits for no slot, and starts nothing.

        Raises `HopelessError` when none of it can come, `FullError`, `LateError`.
        """
        choices = wants(self.table)
        if light and (there := self._there(choices)):
            return self._seat(there, client, light=True)
        # Whoever waits has been looked at since the last seat came free: this takes nobody's.
        if free := self._free(choices, key):
            return self._seat(free, client)
        self._check(wants)
        if self._is_full(choices):
            raise FullError
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[Seat] = loop.create_future()
        line = frozenset(target.name for _, target in choices)
        waiter = _Waiter(client, priority, next(self._numbers), wants, key, line, turn)
        self._waiting.append(waiter)
        self.on_wait()
        try:
            return await self._turn(waiter, deadline)
        except BaseException:
            self._give_up(waiter)
            raise

    async def _turn(self, waiter: _Waiter, deadline: float | None) -> Seat:
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
        if seat.light:
            _less(self._looks, seat.target.seats)
        else:
            took = asyncio.get_running_loop().time() - seat.since
            known = self._pace.get(seat.target.name, took)
            self._pace[seat.target.name] = known + PACE * (took - known)
            self.used_at[seat.target.name] = _boot_clock()
        self._call_one(seat.target.name)
        self.on_leave(seat.target)

    def shun(self, target: Target) -> None:
        """It broke a connection: others first, and where there are none, it is given a moment."""
        loop, seats = asyncio.get_running_loop(), target.seats
        if (before := self._shunned.pop(seats, None)) is not None:
            before.cancel()
        self._shunned[seats] = loop.call_later(SHUNNED, self._forgive, seats)

    def _forgive(self, seats: tuple[str, str]) -> None:
        del self._shunned[seats]
        self._call_next()

    def update(self, table: Table) -> None:
        """Another table is in force: some may go on now, others need not wait any more."""
        self.table = table
        self._pace = {name: pace for name, pace in self._pace.items() if name in table.targets}
        for waiter in list(self._waiting):
            waiter.line = frozenset(target.name for _, target in waiter.wants(table))
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
            counts.update(waiter.line)
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

    def again_after(self, choices: Sequence[Choice]) -> float | None:
        """Seconds in which who waits for the quickest of these is likely to be served; None where
        nobody knows."""
        waiting = self.waiting_for()
        known = [
            (waiting[target.name] + 1) * self._pace[target.name] / (target.slots or UNKNOWN_SLOTS)
            for _, target in choices
            if target.name in self._pace and target.serves
        ]
        return min(known, default=None)

    def bound(self, target: Target) -> int:
        """How many may wait for it."""
        return FOR_EACH_SLOT * (target.slots or 1) if self.size is None else self.size

    def _is_full(self, choices: Sequence[Choice]) -> bool:
        """Whether as many wait for each of these as may; one that waits for several counts for
        each."""
        if len(self._waiting) >= LONGEST_LINE:
            return True
        if len(self._waiting) < min(self.bound(target) for _, target in choices):
            return False
        waiting = self.waiting_for()
        return all(waiting[target.name] >= self.bound(target) for _, target in choices)

    def _check(self, wants: Wants) -> None:
        choices = wants(self.table)
        if not any(target.serves or target.comes for _, target in choices):
            raise HopelessError([target for _, target in choices])

    def _give_up(self, waiter: _Waiter) -> None:
        if waiter in self._waiting:
            self._waiting.remove(waiter)
        elif waiter.turn.done() and not waiter.turn.cancelled() and not waiter.turn.exception():
            # Its turn came in the very moment.
            self.leave(waiter.turn.result())

    def _call_next(self) -> None:
        """Seat whoever can be seated, in the order of priority, fairness and arrival."""
        while self._waiting:
            # Each that is seated changes the order.
            if not any(map(self._call, sorted(self._waiting, key=self._rank))):
                return

    def _call_one(self, target: str) -> None:
        """Seat the next of those that wait for this target: one seat of it is free."""
        line = [waiter for waiter in self._waiting if target in waiter.line]
        while line:
            waiter = min(line, key=self._rank)
            if not self._call(waiter) or not waiter.turn.cancelled():
                return
            line.remove(waiter)

    def _call(self, waiter: _Waiter) -> bool:
        """Seat it, if there is one for it."""
        free = self._free(waiter.wants(self.table), waiter.key)
        if free is None:
            return False
        self._waiting.remove(waiter)
        if not waiter.turn.done():
            waiter.turn.set_result(self._seat(free, waiter.client))
        return True

    def _rank(self, waiter: _Waiter) -> tuple[int, int, int]:
        return -waiter.priority, self._of_client[waiter.client], waiter.arrived

    def _seat(self, choice: Choice, client: str, *, light: bool = False) -> Seat:
        aim, target = choice
        self.under_way[target.seats] += 1
        self._of_client[client] += 1
        if light:
            self._looks[target.seats] += 1
        return Seat(aim, target, client, asyncio.get_running_loop().time(), light)

    def _there(self, choices: Sequence[Choice]) -> Choice | None:
        """The first that serves. Raises `HopelessError` where nothing would but for being asked."""
        if choices and all(target.rests for _, target in choices):
            raise HopelessError([target for _, target in choices])
        return next((choice for choice in choices if choice[1].serves), None)

    def _free(self, choices: Sequence[Choice], key: Key | None) -> Choice | None:
        """One that serves and has a free slot, and has not just broken a connection."""
        serving = [one for one in choices if one[1].serves and one[0].weight > 0]
        if self._shunned:
            serving = [one for one in serving if one[1].seats not in self._shunned]
        return self._turns.choose(serving, self._load, key)

    def _load(self, target: Target) -> float:
        works = self.under_way[target.seats] - self._looks[target.seats]
        return works / (target.slots or UNKNOWN_SLOTS)
