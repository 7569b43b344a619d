"""The waiting room: slots, turns, fairness, priorities, and who need not wait any more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.gateway.choice import Choice
from orchestrator.gateway.room import (
    FullError,
    HopelessError,
    LateError,
    Room,
    Seat,
)
from orchestrator.gateway.table import Aim, Table, Target


def target(name: str, *, slots: int | None = 1, phase: str = "ready") -> Target:
    return Target(name, "llama-server", ("127.0.0.1", 1), slots=slots, phase=phase)


def table(*targets: Target) -> Table:
    return Table(targets={one.name: one for one in targets})


def wants(*names: str, weights: dict[str, int] | None = None) -> Any:
    def choices(now: Table) -> list[Choice]:
        return [
            (
                Aim(name, weight=weights[name], side=name) if weights else Aim(name),
                now.targets[name],
            )
            for name in names
            if name in now.targets
        ]

    return choices


def play(scene: Coroutine[Any, Any, None]) -> None:
    asyncio.run(scene)


async def waits(work: asyncio.Task[Seat]) -> bool:
    """Whether it is still waiting once the loop has nothing else to do."""
    for _ in range(5):
        await asyncio.sleep(0)
    return not work.done()


def test_a_free_slot_is_taken_at_once_and_the_next_waits_for_it() -> None:
    async def scene() -> None:
        room = Room(table=table(target("a")))
        first = await room.take(wants("a"), client="x")
        second = asyncio.create_task(room.take(wants("a"), client="y"))
        assert await waits(second)
        room.leave(first)
        assert (await second).target.name == "a"
        assert room.in_flight()["a"] == 1

    play(scene())


def test_of_several_the_least_busy_is_chosen_and_equals_take_turns() -> None:
    async def scene() -> None:
        room = Room(table=table(target("a", slots=4), target("b", slots=4)))
        names = [(await room.take(wants("a", "b"), client="x")).target.name for _ in range(8)]
        assert (names.count("a"), names.count("b")) == (4, 4)

    play(scene())


def test_weights_share_the_requests_out() -> None:
    async def scene() -> None:
        room = Room(table=table(target("old", slots=100), target("new", slots=100)))
        both = wants("old", "new", weights={"old": 9, "new": 1})
        names = [(await room.take(both, client="x")).target.name for _ in range(100)]
        assert names.count("old") == 90

    play(scene())


def test_one_client_with_many_requests_does_not_starve_another() -> None:
    async def scene() -> None:
        room = Room(table=table(target("a", slots=2)))
        seats = [await room.take(wants("a"), client="greedy") for _ in range(2)]
        greedy = [asyncio.create_task(room.take(wants("a"), client="greedy")) for _ in range(5)]
        assert await waits(greedy[0])
        modest = asyncio.create_task(room.take(wants("a"), client="modest"))
        assert await waits(modest)
        room.leave(seats[0])
        assert not await waits(modest), "whoever has nothing under way is next"
        assert all([await waits(one) for one in greedy])
        for one in greedy:
            one.cancel()

    play(scene())


def test_priority_comes_before_arrival() -> None:
    async def scene() -> None:
        room = Room(table=table(target("a")))
        seat = await room.take(wants("a"), client="x")
        low = asyncio.create_task(room.take(wants("a"), client="l", priority=-1))
        assert await waits(low)
        high = asyncio.create_task(room.take(wants("a"), client="h", priority=1))
        assert await waits(high)
        room.leave(seat)
        assert not await waits(high)
        assert await waits(low)
        low.cancel()

    play(scene())


def test_it_is_bounded_in_number_and_time() -> None:
    async def scene() -> None:
        room = Room(size=1, deadline=0.01, table=table(target("a")))
        await room.take(wants("a"), client="x")
        waiting = asyncio.create_task(room.take(wants("a"), client="x"))
        assert await waits(waiting)
        with pytest.raises(FullError):
            await room.take(wants("a"), client="x")
        with pytest.raises(LateError):
            await waiting
        assert room.waiting_for() == {}

    play(scene())


@pytest.mark.parametrize("phase", ["failed", "stopped"])
def test_nothing_waits_for_what_cannot_come(phase: str) -> None:
    async def scene() -> None:
        room = Room(table=table(target("a", phase=phase)))
        with pytest.raises(HopelessError) as error:
            await room.take(wants("a"), client="x")
        assert [one.phase for one in error.value.targets] == [phase]

    play(scene())


def test_a_swap_is_waited_for_and_an_end_is_told() -> None:
    async def scene() -> None:
        room = Room(table=table(target("a", phase="stopping")))
        waiting = [asyncio.create_task(room.take(wants("a"), client=c)) for c in "xy"]
        assert await waits(waiting[0])
        room.update(table(target("a", phase="starting")))
        assert await waits(waiting[0])
        room.update(table(target("a")))
        assert not await waits(waiting[0])
        assert await waits(waiting[1])
        room.update(table(target("a", phase="failed")))
        with pytest.raises(HopelessError):
            await waiting[1]

    play(scene())


def test_who_leaves_while_waiting_takes_no_slot_along() -> None:
    async def scene() -> None:
        room = Room(table=table(target("a")))
        seat = await room.take(wants("a"), client="x")
        waiting = asyncio.create_task(room.take(wants("a"), client="y"))
        assert await waits(waiting)
        # Its turn comes, and it is gone before it could know.
        room.leave(seat)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert room.under_way == {}

    play(scene())


def test_what_broke_a_connection_is_the_last_choice() -> None:
    async def scene() -> None:
        room = Room(table=table(target("a", slots=9), target("b", slots=9)))
        room.shun("a")
        names = {(await room.take(wants("a", "b"), client="x")).target.name for _ in range(5)}
        assert names == {"b"}

    play(scene())


class Crowd:
    """Requests that come, are served, leave, and lose patience."""

    def __init__(self) -> None:
        self.room = Room(size=50, deadline=60, table=table(target("a", slots=3)))
        self.waiting: list[asyncio.Task[Seat]] = []
        self.seated: list[Seat] = []

    def take(self) -> None:
        self.waiting.append(asyncio.create_task(self.room.take(wants("a"), client="x")))

    def leave(self) -> None:
        if self.seated:
            self.room.leave(self.seated.pop())

    def cancel(self) -> None:
        if self.waiting:
            self.waiting[0].cancel()

    def down(self) -> None:
        self.room.update(table(target("a", slots=3, phase="starting")))

    def up(self) -> None:
        self.room.update(table(target("a", slots=3)))

    async def settle(self) -> None:
        for _ in range(4):
            await asyncio.sleep(0)
        for task in [one for one in self.waiting if one.done()]:
            self.waiting.remove(task)
            if not task.cancelled():
                self.seated.append(task.result())


@given(st.lists(st.sampled_from([Crowd.take, Crowd.leave, Crowd.cancel, Crowd.down, Crowd.up])))
def test_no_slot_is_ever_lost_or_given_twice(acts: list[Callable[[Crowd], None]]) -> None:
    async def scene() -> None:
        crowd = Crowd()
        for act in acts:
            act(crowd)
            await crowd.settle()
            assert len(crowd.seated) == crowd.room.in_flight()["a"] <= 3
        while crowd.waiting:
            crowd.cancel()
            await crowd.settle()
        while crowd.seated:
            crowd.leave()
        assert not crowd.room.under_way

    play(scene())


def test_who_only_asks_how_it_is_waits_for_no_slot() -> None:
    async def story() -> None:
        room = Room(table=table(target("a", slots=1)))
        busy = await room.take(wants("a"), client="x")
        light = await room.take(wants("a"), client="y", light=True)
        assert light.target.name == "a"
        room.leave(light)
        assert not room.used_at
        room.leave(busy)
        assert not room.under_way
        assert "a" in room.used_at
        room.update(table(replace(target("a", phase="stopped"), on_demand=True, rests=True)))
        with pytest.raises(HopelessError):
            await room.take(wants("a"), client="y", light=True)

    asyncio.run(story())
