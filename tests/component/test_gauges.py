"""Alerts come and go with what is known: not with the daemon, and not with nobody looking."""

from __future__ import annotations

import os
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from orchestrator.control import gauges
from orchestrator.control.bus import Bus
from orchestrator.control.gauges import Gauges
from orchestrator.core.event import Event
from orchestrator.core.spec import Command, Endpoint, InstanceSpec, Limits
from orchestrator.core.status import Alert, InstanceStatus, Phase, ProcessRef

LIMITS = Limits(memory_warn=1, restarts_warn=2, restarts_window=60.0)
SPEC = InstanceSpec(
    "a", "llama-server", Command(("true",), {}, "/"), Endpoint("127.0.0.1", 1), limits=LIMITS
)

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
