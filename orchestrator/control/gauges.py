"""Measures what the instances take, and tells what passes a limit. What runs away is condemned.

One reading of the process table serves all: every few seconds where limits are declared, once a
minute for all others, whose trend alone is looked at. In between nothing wakes up for it: that a
limit is declared is an event.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque

from msgspec import Struct, field

from orchestrator.control.bus import Bus
from orchestrator.control.guard import going_on
from orchestrator.control.overview import processes
from orchestrator.control.reconciler import Reconciler
from orchestrator.core.alerts import CPU_SPAN, MEASURED, Measured, Sample, alerts, over_limit
from orchestrator.core.event import AGAIN, Event, EventType
from orchestrator.core.report import Usage
from orchestrator.core.spec import Limits
from orchestrator.core.status import SERVING, InstanceStatus
from orchestrator.runtime.beat import BEAT, until_beat
from orchestrator.runtime.identity import boot_clock
from orchestrator.runtime.usage import UsageMeter

EVERY = 2.0
"""Seconds between two readings where a limit is declared."""

TREND_EVERY = 60.0
"""Seconds between two samples of the trend."""

SETTLES = 600.0
"""Seconds of readiness before a trend counts: caches fill first."""

_NO_LIMITS = Limits()


class _Seen(Struct):
    """What was measured of one run of an instance, and of its restarts."""

    since: float
    """When it began to be measured, on the boot clock."""
    start_id: str = ""
    recent: deque[Sample] = field(
        default_factory=lambda: deque[Sample](maxlen=int(CPU_SPAN / EVERY) + 2)
    )
    trend: deque[Sample] = field(default_factory=lambda: deque[Sample](maxlen=60))
    restarts: deque[float] = field(default_factory=lambda: deque[float](maxlen=1000))
    counted: int | None = None

    def begin(self, start_id: str) -> None:
        """Another process: what the last one took says nothing of it."""
        if start_id != self.start_id:
            self.start_id = start_id
            self.end()

    def end(self) -> None:
        """What is down takes nothing, and does not grow."""
        self.recent.clear()
        self.trend.clear()

    def count(self, restarts: int, now: float) -> None:
        known = restarts if self.counted is None else self.counted
        if restarts < known:
            # A namesake, declared after this one was forgotten.
            self.restarts.clear()
        self.restarts.extend([now] * (restarts - known))
        self.counted = restarts

    def measured(self, status: InstanceStatus) -> Measured:
        known = status.started_at if status.phase in SERVING else None
        began = known if known is not None else float("inf")
        return Measured(self.recent, self.trend, self.restarts, self.since, began)


class Gauges:
    """One task, for as long as the daemon lives."""

    def __init__(self, bus: Bus, reconciler: Reconciler) -> None:
        self._bus = bus
        self._reconciler = reconciler
        self._meter = UsageMeter()
        self._seen: dict[str, _Seen] = {}
        self._trend_due = 0.0

    async def run(self) -> None:
        await going_on(self._rounds, "gauges", self._bus)

    async def _rounds(self) -> None:
        with self._bus.listening() as subscription:
            while True:
                self.look()
                if self._limited():
                    await asyncio.sleep(until_beat(EVERY, tolerance=EVERY / 2))
                    subscription.pending()
                    continue
                # A limit that is declared is an event, like all that changes what is observed.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(until_beat(self._trend_due - boot_clock())):
                        await subscription.next()

    def _limited(self) -> bool:
        observed = self._reconciler.observed
        return any(status.spec.limits != _NO_LIMITS for status in observed.values())

    def look(self) -> None:
        """One round. Costs nothing while no limit is declared and no sample is due."""
        now = boot_clock()
        observed = self._reconciler.observed
        self._seen = {name: self._seen.get(name) or _Seen(now) for name in observed}
        # Rounds keep to the beat, which may come a little early.
        sparse = now >= self._trend_due - BEAT
        if sparse:
            self._trend_due = now + TREND_EVERY
        if not sparse and not self._limited():
            # Nothing new is known; but what was told may be over with its limit, or its run.
            for status in observed.values():
                if status.alerts:
                    self._follow(status, now)
                    self._tell(status, now)
            return
        usage = self._meter.read(*processes(observed.values()))
        for name, status in observed.items():
            self._follow(status, now)
            self._take(status, usage.get(name), now=now, sparse=sparse)
            self._tell(status, now, again=sparse)

    def _follow(self, status: InstanceStatus, now: float) -> None:
        seen = self._seen[status.name]
        seen.begin(status.start_id)
        seen.count(status.restarts, now)
        if status.phase not in SERVING:
            seen.end()

    def _take(
        self, status: InstanceStatus, usage: Usage | None, *, now: float, sparse: bool
    ) -> None:
        seen = self._seen[status.name]
        if usage is None or status.phase not in SERVING:
            return
        sample = Sample(now, usage.memory_bytes, usage.cpu_percent)
        seen.recent.append(sample)
        settled = status.ready_at is not None and now - status.ready_at >= SETTLES
        if sparse and settled:
            seen.trend.append(sample)

    def _tell(self, status: InstanceStatus, now: float, *, again: bool = False) -> None:
        """What has come and what has passed; with `again`, also what is so in other words now."""
        limits, measured = status.spec.limits, self._seen[status.name].measured(status)
        raised = {one.kind: one.message for one in status.alerts if one.kind in MEASURED}
        found = alerts(limits, measured, now=now, raised=raised)
        for kind, message in found.items():
            if kind not in raised:
                self._post(EventType.ALERT, status, kind, message)
            elif again and message != raised[kind]:
                self._post(EventType.ALERT, status, kind, message, **{AGAIN: True})
        for kind, message in raised.items():
            if kind not in found:
                self._post(EventType.ALERT_OVER, status, kind, f"no longer: {message}")
        why = over_limit(limits, measured)
        if why and status.phase in SERVING and status.managed and not status.condemned:
            data = {"start_id": status.start_id}
            self._bus.post(
                Event(
                    EventType.CONDEMNED, status.name, reason="memory-limit", message=why, data=data
                )
            )

    def _post(
        self, kind: EventType, status: InstanceStatus, alert: str, message: str, **more: bool
    ) -> None:
        data = {"start_id": status.start_id, "alert": alert, **more}
        self._bus.post(Event(kind, status.name, reason=alert, message=message, data=data))
