"""Tells which of those that run on demand nobody has used for as long as they are to wait for that.

The gateway says when each was used last. What goes straight to an instance's port is seen by the
CPU that its processes take: more than its probes cost is use. Between two looks nothing wakes up,
and nothing at all while no instance runs that is to be stopped when it is idle.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

from msgspec import Struct

from orchestrator.control.bus import Bus
from orchestrator.control.guard import going_on
from orchestrator.control.reconciler import Reconciler
from orchestrator.control.traffic import Traffic
from orchestrator.core.event import Event, EventType
from orchestrator.core.gateway_spec import GATEWAY
from orchestrator.core.on_demand import IDLE, InUse, Use
from orchestrator.core.status import ALIVE, InstanceStatus, Phase
from orchestrator.core.successor import is_aside
from orchestrator.core.units import format_duration
from orchestrator.runtime.identity import boot_clock
from orchestrator.runtime.usage import UsageMeter

PROBES = 0.0005
"""Seconds of CPU in a second that are no use: what an instance takes for being asked how it is."""

GRAIN = 0.03
"""Seconds of CPU that are never use: the kernel counts in hundredths."""


class _Seen(Struct):
    """Of one run: until when it was in use for sure (boot clock), and its CPU seconds by then.

    `busy_at`: when the gateway was last seen to have it at work, for one that begins anew knows of
    no use.
    """

    start_id: str
    used_at: float
    cpu_seconds: float
    busy_at: float = 0.0


class Idling:
    """One task, for as long as the daemon lives."""

    def __init__(self, bus: Bus, reconciler: Reconciler, traffic: Traffic) -> None:
        self._bus = bus
        self._reconciler = reconciler
        self._traffic = traffic
        self._meter = UsageMeter()
        self._seen: dict[str, _Seen] = {}

    async def run(self) -> None:
        await going_on(self._rounds, "idling", self._bus)

    async def _rounds(self) -> None:
        with self._bus.listening() as subscription:
            self._traffic.on_figures = lambda: subscription.push(())
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self.look()):
                        await subscription.next()

    def look(self) -> float | None:
        """Post what is idle now. Seconds until another may be; None until something happens."""
        running = list(self._running())
        names = {status.name for status in running}
        self._seen = {name: seen for name, seen in self._seen.items() if name in names}
        use = self._traffic.use()
        if not running or (use is None and self._will_be_told()):
            return None
        return min(self._look_at(status, use or {}) for status in running)

    def _will_be_told(self) -> bool:
        """What the gateway is at is not known yet: it will say so, unless it is down."""
        gateway = self._reconciler.observed.get(GATEWAY)
        if gateway is None:
            return GATEWAY in (self._reconciler.desired or {})
        return gateway.phase in ALIVE

    def _running(self) -> Iterator[InstanceStatus]:
        """Those that are to be stopped once nobody uses them."""
        for status in self._reconciler.observed.values():
            on_demand = status.spec.on_demand
            serves = status.phase in (Phase.READY, Phase.UNREADY) and not status.rests
            if on_demand is None or on_demand.idle is None or is_aside(status.name):
                # What is to follow another has not been asked for anything yet.
                continue
            if serves:
                yield status

    def _look_at(self, status: InstanceStatus, use: InUse) -> float:
        """Seconds until it may be idle."""
        now, known = boot_clock(), use.get(status.name, Use())
        assert status.spec.on_demand is not None, "one of those on demand"
        limit = status.spec.on_demand.idle or 0.0
        seen = self._seen.get(status.name)
        if known.busy:
            if seen is not None and seen.start_id == status.start_id:
                seen.busy_at = now
            return limit
        if seen is None or seen.start_id != status.start_id:
            # What was before, nobody knows: at the latest, it was used just now.
            seen = self._note(status, now)
        elif (last := known.last or seen.busy_at) > seen.used_at:
            # What the gateway had it do is accounted for.
            seen = self._note(status, last)
        if now - seen.used_at < limit:
            return seen.used_at + limit - now
        if self._has_worked(status, seen, now):
            self._note(status, now)
            return limit
        message = f"nobody has used it for {format_duration(limit)}"
        data = {"start_id": status.start_id}
        self._bus.post(Event(EventType.IDLE, status.name, reason=IDLE, message=message, data=data))
        return limit

    def _note(self, status: InstanceStatus, used_at: float) -> _Seen:
        seen = _Seen(status.start_id, used_at, self._cpu_seconds(status))
        self._seen[status.name] = seen
        return seen

    def _has_worked(self, status: InstanceStatus, seen: _Seen, now: float) -> bool:
        """For somebody past the gateway. Who is asked for a token as a probe works in any case."""
        if status.spec.liveness.mode == "inference":
            return False
        took = self._cpu_seconds(status) - seen.cpu_seconds
        return took > GRAIN + PROBES * (now - seen.used_at)

    def _cpu_seconds(self, status: InstanceStatus) -> float:
        """What its processes have taken in all."""
        if status.process is None:
            return 0.0
        return self._meter.read({status.name: status.process})[status.name].cpu_seconds
