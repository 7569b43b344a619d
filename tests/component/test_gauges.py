"""Alerts come and go with what is known: not with the daemon, and not with nobody looking."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from orchestrator.control import gauges
from orchestrator.control.bus import Bus
from orchestrator.control.gauges import Gauges
from orchestrator.core.event import Event, EventType
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

    def told(self) -> list[tuple[str, str]]:
        self._reconciler.observed = {"a": self.status}
        self._gauges.look()
        return [(one.type.value, one.reason) for one in self.bus.drain() if isinstance(one, Event)]


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


UNLIMITED = replace(SPEC, limits=Limits())


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
