"""What failed is looked after: what brings another try, what does not, and looks that fail."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from orchestrator.control import guard, second_look
from orchestrator.control.bus import Bus
from orchestrator.control.gauges import Gauges
from orchestrator.core.cause import Mending, Seen
from orchestrator.core.event import Event, EventType
from orchestrator.core.spec import Awaited, Command, Endpoint, InstanceSpec, RestartPolicy
from orchestrator.core.status import InstanceStatus, ModelState, ModelStatus, Phase
from orchestrator.runtime import oom, ports
from orchestrator.runtime.marks import mark_of
from tests.world import PATIENCE


def a_spec(name: str = "a", **changes: Any) -> InstanceSpec:
    command = Command(("/bin/false",), {}, "/")
    return InstanceSpec(name, "llama-server", command, Endpoint("127.0.0.1", 1), **changes)


def failed(name: str, mending: Mending, **changes: Any) -> InstanceStatus:
    spec = a_spec(name, **changes)
    return InstanceStatus(name, Phase.FAILED, spec, "s1", mending=mending)


class Daemon:
    """What the looks see of one, and what they post."""

    def __init__(self, *statuses: InstanceStatus) -> None:
        self.bus = Bus()
        self.observed = {status.name: status for status in statuses}
        self.desired: dict[str, InstanceSpec] = {}
        self.events: list[Event] = []
        self.refreshed = 0

    async def refresh(self, *, anew: bool) -> None:
        assert anew
        self.refreshed += 1

    def heard(self) -> list[Event]:
        self.events += [item for item in self.bus.drain() if isinstance(item, Event)]
        return self.events

    def of(self, kind: EventType) -> list[Event]:
        return [event for event in self.heard() if event.type is kind]

    @contextlib.asynccontextmanager
    async def looked_after(self) -> AsyncGenerator[None]:
        me = cast(Any, self)
        tasks = [asyncio.create_task(look) for look, _ in second_look.looks(self.bus, me, me)]
        try:
            yield
            assert not any(task.done() for task in tasks), "a look has ended"
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not holds():  # noqa: ASYNC110 - what is waited for is no event
            await asyncio.sleep(0.005)


class Count:
    """Something of the machine, and how often it was asked for."""

    def __init__(self, answer: Callable[[], Any]) -> None:
        self.answer, self.calls = answer, 0

    def __call__(self, *_: object) -> Any:
        self.calls += 1
        return self.answer()

    async def more(self, count: int) -> None:
        """Until it was asked so many times more."""
        wanted = self.calls + count
        await until(lambda: self.calls >= wanted)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(second_look, "LOOK_EVERY", 0.01)
    monkeypatch.setattr(guard, "PAUSE", 0.01)


def scarce() -> None:
    raise OSError(24, "Too many open files")


def test_a_look_that_fails_says_so_once_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    table = Count(scarce)
    monkeypatch.setattr(ports, "listeners", table)
    waiting = InstanceStatus("a", Phase.BACKOFF, a_spec(), "s1", reason="port-taken")

    async def story() -> None:
        daemon = Daemon(waiting)
        async with daemon.looked_after():
            await table.more(5)
            [bug] = daemon.of(EventType.BUG)
            assert "Too many open files" in bug.message
            # As soon as it can see again, it does its work.
            seen = [SimpleNamespace(port=1, host="127.0.0.1")]
            table.answer = lambda: seen
            await table.more(2)
            seen.clear()
            await until(lambda: daemon.of(EventType.MENDED))

    asyncio.run(story())


def test_gauges_that_fail_say_so_once_and_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    daemon = Daemon()
    gauges = Gauges(daemon.bus, cast(Any, daemon))
    look = Count(scarce)
    monkeypatch.setattr(gauges, "look", look)

    async def story() -> None:
        running = asyncio.create_task(gauges.run())
        await look.more(5)
        running.cancel()
        assert len(daemon.of(EventType.BUG)) == 1

    asyncio.run(story())


def test_a_port_that_nobody_was_seen_on_is_not_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    table = Count(list[Any])
    monkeypatch.setattr(ports, "listeners", table)
    waiting = InstanceStatus("a", Phase.BACKOFF, a_spec(), "s1", reason="port-taken")

    async def story() -> None:
        daemon = Daemon(waiting)
        async with daemon.looked_after():
            await table.more(4)
            assert daemon.heard() == []

    asyncio.run(story())


def test_memory_is_let_out_one_by_one_and_not_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    room = Count(lambda: 15)
    monkeypatch.setattr(oom, "available", room)
    two = [failed(name, Mending(memory=10)) for name in "ab"]

    async def story() -> None:
        daemon = Daemon(*two)
        async with daemon.looked_after():
            await until(lambda: daemon.of(EventType.MENDED))
            [first] = daemon.of(EventType.MENDED)
            assert first.data["memory"]
            # It starts, and has not taken its memory yet: that is not there for the other.
            begun = InstanceStatus(first.instance, Phase.STARTING, a_spec(first.instance), "s2")
            daemon.observed = {**daemon.observed, first.instance: begun}
            await room.more(6)
            assert daemon.of(EventType.MENDED) == [first]
            room.answer = lambda: 25
            await until(lambda: len(daemon.of(EventType.MENDED)) == 2)
            assert {event.instance for event in daemon.events} == {"a", "b"}

    asyncio.run(story())


def test_memory_that_is_there_for_a_moment_only_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [5, 15]
    room = Count(lambda: answers[room.calls % 2])
    monkeypatch.setattr(oom, "available", room)

    async def story() -> None:
        daemon = Daemon(failed("a", Mending(memory=10)))
        async with daemon.looked_after():
            await room.more(8)
            assert daemon.heard() == []
            room.answer = lambda: 15
            await until(lambda: daemon.of(EventType.MENDED))

    asyncio.run(story())


def test_what_is_never_to_be_tried_again_is_not_looked_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marks = Count(lambda: "another")
    monkeypatch.setattr(second_look, "mark_of", marks)
    path = str(tmp_path / "m")
    hangs_on = Mending((Seen(path, mark_of(path)),))

    async def story() -> None:
        never = failed("a", hangs_on, restart=RestartPolicy("never"))
        daemon = Daemon(never, failed("b", hangs_on))
        async with daemon.looked_after():
            await until(lambda: daemon.of(EventType.MENDED))
            assert {event.instance for event in daemon.events} == {"b"}

    asyncio.run(story())


def test_a_promise_is_looked_into_once_each_time_it_changes() -> None:
    async def story() -> None:
        daemon = Daemon()
        awaited = Awaited("o", "tiny:latest")
        daemon.desired = {"a": a_spec(awaits=awaited)}
        there = ModelStatus("tiny:latest", ModelState.PRESENT)
        having = InstanceStatus("o", Phase.READY, a_spec("o"), models=(there,))
        async with daemon.looked_after():
            for _ in range(3):
                daemon.observed = {"o": having}
                await _shown(daemon)
            assert daemon.refreshed == 1
            daemon.observed = {}
            await _shown(daemon)
            daemon.observed = {"o": having}
            await _shown(daemon)
            assert daemon.refreshed == 2

    asyncio.run(story())


async def _shown(daemon: Daemon) -> None:
    """A batch of events comes, and every look has seen it."""
    for _ in range(20):
        await asyncio.sleep(0)
    daemon.bus.publish([])
    for _ in range(20):
        await asyncio.sleep(0)
