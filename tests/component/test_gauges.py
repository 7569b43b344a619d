"""Alerts come and go with what is known: not with the daemon, and not with nobody looking."""

from __future__ import annotations

import asyncio
import os
from types import SimpleNamespace
from typing import Any, cast

import pytest
from msgspec.structs import replace

from orchestrator.control import gauges
from orchestrator.control.bus import Bus
from orchestrator.control.gauges import Gauges
from orchestrator.core.event import Event, EventType
from orchestrator.core.fold import fold
from orchestrator.core.spec import Command, Endpoint, InstanceSpec, Limits
from orchestrator.core.status import Alert, InstanceStatus, Phase, ProcessRef

LIMITS = Limits(memory_warn=1, restarts_warn=2, restarts_window=60.0)
SPEC = InstanceSpec(
    "a", "llama-server", Command(("true",), {}, "/"), Endpoint("127.0.0.1", 1), limits=LIMITS
)

PATIENCE = 20.0

OURS = ProcessRef(os.getpgrp(), 0, "")
"""A group that takes some memory: that of this test."""


class Clock:
    now = 1000.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> type[Clock]:
    monkeypatch.setattr(Clock, "now", 1000.0)
    monkeypatch.setattr(gauges, "boot_clock", lambda: Clock.now)
    return Clock


class Looks:
    """A daemon's gauges, and one instance."""

    def __init__(self, status: InstanceStatus) -> None:
        self.bus = Bus()
        self._reconciler = SimpleNamespace(observed={})
        self._gauges = Gauges(self.bus, cast(Any, self._reconciler))
        self.status = status

    def events(self) -> list[Event]:
        self._reconciler.observed = {"a": self.status}
        self._gauges.look()
        return [one for one in self.bus.drain() if isinstance(one, Event)]

    def told(self) -> list[tuple[str, str]]:
        return [(one.type.value, one.reason) for one in self.events()]


def test_a_restarts_alert_outlives_the_daemon_that_raised_it(clock: type[Clock]) -> None:
    alert = Alert("restarts", "was restarted 3 times within 1m")
    looks = Looks(InstanceStatus("a", Phase.READY, SPEC, restarts=7, alerts=(alert,)))
    assert looks.told() == []
    clock.now += 59
    assert looks.told() == []
    clock.now += 2
    assert looks.told() == [("alert-over", "restarts")]


def test_what_is_down_takes_nothing(clock: type[Clock]) -> None:
    looks = Looks(InstanceStatus("a", Phase.READY, SPEC, process=OURS))
    assert looks.told() == [("alert", "memory")]
    alert = Alert("memory", "takes too much")
    looks.status = replace(looks.status, alerts=(alert,))
    clock.now += 2
    assert looks.told() == []
    looks.status = replace(looks.status, phase=Phase.STOPPED, process=None)
    clock.now += 2
    assert looks.told() == [("alert-over", "memory")]


def test_what_is_told_of_a_run_is_over_with_it(clock: type[Clock]) -> None:
    """Also where one ends and the next begins between two looks."""
    busy = Alert("cpu", "takes 100% of a core for a minute")
    first = InstanceStatus("a", Phase.READY, SPEC, start_id="1", process=OURS, alerts=(busy,))
    looks = Looks(replace(first, spec=CALM, started_at=10.0))
    assert looks.told() == []
    clock.now += 2
    next_run = Event(
        EventType.STARTING, "a", reason="restart", data={"start_id": "2"}, spec=CALM, at=clock.now
    )
    looks.status = fold({"a": looks.status}, next_run)["a"]
    assert looks.told() == [("alert-over", "cpu")]


def test_with_the_last_limit_goes_its_alert_at_once(clock: type[Clock]) -> None:
    alert = Alert("memory", "takes too much")
    looks = Looks(InstanceStatus("a", Phase.READY, SPEC, process=OURS, alerts=(alert,)))
    looks.told()
    clock.now += 2
    looks.status = replace(looks.status, spec=UNLIMITED)
    assert looks.told() == [("alert-over", "memory")]


def test_an_alert_says_what_is_so_by_now_once_a_minute(clock: type[Clock]) -> None:
    old = Alert("memory", "takes what it took then")
    looks = Looks(InstanceStatus("a", Phase.READY, SPEC, process=OURS))
    assert looks.told() == [("alert", "memory")]
    looks.status = replace(looks.status, alerts=(old,))
    clock.now += 2
    assert looks.told() == []
    clock.now += 60
    [event] = looks.events()
    assert (event.type, event.reason) == (EventType.ALERT, "memory")
    # It is shown, and fills no timeline.
    assert event.transient
    looks.status = fold({"a": looks.status}, event)["a"]
    assert looks.status.alerts[0].message.startswith("takes ")
    assert looks.status.alerts != (old,)


def test_restarts_of_a_namesake_are_not_those_of_this_one(clock: type[Clock]) -> None:
    limited = replace(SPEC, limits=Limits(restarts_warn=2, restarts_window=60.0))
    looks = Looks(InstanceStatus("a", Phase.READY, limited, restarts=1))
    assert looks.told() == []
    looks.status = replace(looks.status, restarts=2)
    clock.now += 2
    assert looks.told() == []
    # Forgotten and declared again between two looks, and then restarted once.
    looks.status = replace(looks.status, restarts=0)
    clock.now += 2
    assert looks.told() == []
    looks.status = replace(looks.status, restarts=1)
    clock.now += 2
    assert looks.told() == []


UNLIMITED = replace(SPEC, limits=Limits())
CALM = replace(SPEC, limits=Limits(cpu_warn=1e9))


class Counting(Gauges):
    """Counts its rounds, and wakes whoever waits for one."""

    def __init__(self, bus: Bus, reconciler: Any) -> None:
        super().__init__(bus, reconciler)
        self.rounds = 0
        self.looked = asyncio.Event()

    def look(self) -> None:
        super().look()
        self.rounds += 1
        self.looked.set()

    async def after_next_round(self) -> None:
        self.looked.clear()
        async with asyncio.timeout(PATIENCE):
            await self.looked.wait()


def test_nothing_wakes_up_while_nothing_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until a limit is declared, which is an event; then the rounds are quick."""
    monkeypatch.setattr(gauges, "EVERY", 0.02)

    async def story() -> None:
        bus = Bus()
        reconciler = SimpleNamespace(observed={"a": InstanceStatus("a", Phase.READY, UNLIMITED)})
        counting = Counting(bus, reconciler)
        task = asyncio.create_task(counting.run())
        await counting.after_next_round()
        # As long as ten rounds of what has a limit would take: nothing is to be waited for.
        await asyncio.sleep(0.2)
        assert counting.rounds == 1
        reconciler.observed = {"a": InstanceStatus("a", Phase.READY, SPEC)}
        bus.publish([Event(EventType.UPDATED, "a")])
        for _ in range(5):
            await counting.after_next_round()
        reconciler.observed = {}
        await counting.after_next_round()
        before = counting.rounds
        await asyncio.sleep(0.2)
        assert counting.rounds == before
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(story())
