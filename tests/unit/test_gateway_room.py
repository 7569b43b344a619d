"""The waiting room: slots, turns, fairness, priorities, and who need not wait any more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.gateway import room as room_module
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


def test_what_broke_a_connection_is_given_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room_module, "SHUNNED", 0.05)

    async def scene() -> None:
        room = Room(table=table(target("a", slots=9), target("b", slots=9)))
        room.shun(room.table.targets["a"])
        room.shun(room.table.targets["a"])
        names = {(await room.take(wants("a", "b"), client="x")).target.name for _ in range(5)}
        assert names == {"b"}
        # With nobody else, it is waited for.
        waiting = asyncio.create_task(room.take(wants("a"), client="x"))
        assert await waits(waiting)
        assert (await waiting).target.name == "a"
        # Another process of it has broken nothing.
        room.shun(room.table.targets["a"])
        waiting = asyncio.create_task(room.take(wants("a"), client="x"))
        assert await waits(waiting)
        room.update(table(replace(target("a"), run="next")))
        assert (await waiting).target.run == "next"
        await asyncio.sleep(0.06)

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


def test_who_only_asks_how_it_is_takes_no_slot_and_says_nothing_of_the_pace() -> None:
    async def story() -> None:
        room = Room(table=table(target("a", slots=1)))
        looks = [await room.take(wants("a"), client="x", light=True) for _ in range(3)]
        assert room.in_flight()["a"] == 3
        busy = await asyncio.wait_for(room.take(wants("a"), client="y"), 5)
        waiting = asyncio.ensure_future(room.take(wants("a"), client="y"))
        assert await waits(waiting)
        for look in looks:
            room.leave(look)
        assert await waits(waiting), "the slot is still taken"
        assert room.again_after(wants("a")(room.table)) is None
        room.leave(busy)
        room.leave(await waiting)
        assert not room.under_way

    asyncio.run(story())


# --- on demand ------------------------------------------------------------------------------------


def resting(name: str, **more: Any) -> Target:
    address = ("127.0.0.1", 1)
    row: dict[str, Any] = {"phase": "stopped", "reason": "idle", "rests": True, **more}
    return Target(name, "llama-server", address, slots=1, on_demand=True, **row)


def starting(name: str, within: float = 60.0) -> Target:
    return resting(name, phase="starting", rests=False, starts_within=within)


def test_what_is_at_rest_is_asked_for_while_somebody_waits_for_it() -> None:
    async def scene() -> None:
        told: list[str] = []
        room = Room(table=table(resting("a"), resting("b")), on_wait=lambda: told.append("waits"))
        assert room.wanted() == set()
        waiting = [asyncio.create_task(room.take(wants("a"), client=c)) for c in "xy"]
        assert await waits(waiting[0])
        assert (room.wanted(), told) == ({"a"}, ["waits", "waits"])
        # Another daemon knows nothing of it: its table says so.
        room.update(table(resting("a"), resting("b")))
        assert room.wanted() == {"a"}
        room.update(table(starting("a"), resting("b")))
        assert room.wanted() == set()
        for one in waiting:
            one.cancel()

    play(scene())


@pytest.mark.parametrize("other", [target("b"), starting("b"), target("b", phase="starting")])
def test_nothing_is_asked_for_where_another_serves_or_comes(other: Target) -> None:
    async def scene() -> None:
        room = Room(table=table(resting("a"), other))
        if other.serves:
            await room.take(wants("b"), client="x")
        waiting = asyncio.create_task(room.take(wants("a", "b"), client="x"))
        assert await waits(waiting)
        assert room.wanted() == set()
        waiting.cancel()

    play(scene())


def test_a_start_has_the_time_that_starts_have_and_only_then_the_slots_theirs() -> None:
    async def scene() -> None:
        room = Room(deadline=0.01, table=table(starting("a")))
        waiting = asyncio.create_task(room.take(wants("a"), client="x"))
        await asyncio.sleep(0.05)
        assert await waits(waiting), "longer than it would wait for a slot"
        room.update(table(target("a")))
        seat = await waiting
        late = asyncio.create_task(room.take(wants("a"), client="y"))
        with pytest.raises(LateError):
            await late
        room.leave(seat)

    play(scene())


@pytest.mark.parametrize("now", [starting("a", within=0.02), resting("a")])
def test_but_no_longer_than_a_start_may_take(now: Target) -> None:
    async def scene() -> None:
        room = Room(deadline=0.01, table=table(now))
        with pytest.raises(LateError):
            await room.take(wants("a"), client="x")

    play(scene())


def test_a_start_that_failed_is_told_at_once_though_it_is_tried_again() -> None:
    async def scene() -> None:
        room = Room(table=table(starting("a")))
        waiting = asyncio.create_task(room.take(wants("a"), client="x"))
        assert await waits(waiting)
        failing = resting("a", phase="backoff", reason="crashed", rests=False, failing=True)
        room.update(table(failing))
        with pytest.raises(HopelessError) as error:
            await waiting
        assert error.value.targets[0].reason == "crashed"

    play(scene())


def test_who_only_looks_neither_starts_it_nor_uses_it() -> None:
    async def scene() -> None:
        room = Room(table=table(resting("a")))
        with pytest.raises(HopelessError):
            await room.take(wants("a"), client="x", light=True)
        room.update(table(target("a")))
        room.leave(await room.take(wants("a"), client="x", light=True))
        assert room.used_at == {}
        room.leave(await room.take(wants("a"), client="x"))
        assert room.used_at["a"] > 0

    play(scene())
