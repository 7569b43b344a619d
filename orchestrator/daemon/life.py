"""One life of the daemon: take over, apply, serve, end.

Start children first: what only serves people (API, file watching) is loaded once the first
instances are under way. However the daemon ends, instances go on unless somebody asked otherwise.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Sequence

from orchestrator.control import adoption
from orchestrator.control.applied import Accepted
from orchestrator.core.event import Event, EventType
from orchestrator.core.status import ALIVE, Phase
from orchestrator.daemon.announcing import Announcing
from orchestrator.daemon.ending import Ending, signals
from orchestrator.daemon.options import Options
from orchestrator.daemon.parts import Parts
from orchestrator.daemon.reporting import Reporting
from orchestrator.daemon.serving import Serving
from orchestrator.runtime import reaper
from orchestrator.runtime.state import AppliedSource, Store, StoreError
from orchestrator.settings import Settings

FIRST_STARTS = 0.5
"""Seconds at most that loading the API waits for the first processes to be spawned."""


class Life:
    """From the open store to its last commit."""

    def __init__(self, settings: Settings, options: Options, store: Store) -> None:
        self._options = options
        self._parts = parts = Parts(settings, store)
        self._reporting = Reporting(parts.bus, options.on_event)
        self._ending = Ending(
            parts.bus, parts.reconciler, parts.applied, stops_instances=options.stops_instances
        )
        self._announcing = Announcing(parts, self._ending, options.notifier)
        self._serving = Serving(parts, options, self._ending, self._announcing)

    async def live(self) -> None:
        """Boot, serve, end."""
        parts = self._parts
        os.chdir(parts.settings.run_dir)
        self._announce()
        recorded = parts.reconciler.observed
        desired = parts.applied.known_desired()
        strays = adoption.take_over(
            recorded, owner=parts.owner, bus=parts.bus, executor=parts.executor, desired=desired
        )
        sweep = asyncio.create_task(adoption.sweep(strays, parts.bus), name="sweep")
        vital = [
            asyncio.create_task(self._reporting.run(), name="report"),
            asyncio.create_task(parts.reconciler.run(), name="reconcile"),
        ]
        if reaper.is_first():
            vital.append(asyncio.create_task(reaper.reap(), name="reap"))
        if self._options.notifier:
            vital.append(asyncio.create_task(self._announcing.run(), name="announce"))
        try:
            # From here on: a signal during the first apply ends it as one later would.
            with signals(self._ending.ask, self._on_hangup):
                if await self._first_apply():
                    vital.append(asyncio.create_task(self._serving.run(), name="serve"))
                    await self._ending.reached(vital)
        finally:
            for task in (sweep, *vital):
                task.cancel()
            await asyncio.gather(sweep, *vital, return_exceptions=True)
            await parts.executor.let_go()
            self._take_leave()

    def tell_of_a_stall(self, took: float, stack: list[str]) -> None:
        """The loop has not turned for so many seconds: a bug, or a disk that hangs."""
        message = f"nothing was looked at for {took:.1f} s: {stack[-1]}"
        data = {"seconds": round(took, 3), "stack": stack}
        self._parts.bus.post(Event(EventType.STALLED, message=message, data=data))

    def _announce(self) -> None:
        bus, pid = self._parts.bus, os.getpid()
        bus.post(Event(EventType.DAEMON_STARTED, message=f"pid {pid}", data={"pid": pid}))
        if aside := self._parts.store.set_aside:
            note = f"the state store could not be read; it is now {aside}"
            bus.post(Event(EventType.STORE_ERROR, reason="set-aside", message=note))

    def _take_leave(self) -> None:
        parts = self._parts
        observed = parts.reconciler.observed
        running = sum(status.phase in ALIVE for status in observed.values())
        goes_on = f"{running} instances go on" if running else "nothing runs"
        event = parts.bus.stamp(Event(EventType.DAEMON_STOPPED, message=goes_on))
        with contextlib.suppress(StoreError):
            parts.store.save(observed, [event])
        self._reporting.tell_the_rest(event)

    def _on_hangup(self) -> None:
        """A terminal that closes ends what runs in it; without one, it asks to look again."""
        if self._options.has_terminal:
            self._ending.ask()
        else:
            self._serving.read_again()

    async def _first_apply(self) -> bool:
        """False when it was rejected and there is nothing else to live for."""
        options, applied = self._options, self._parts.applied
        executor, reconciler = self._parts.executor, self._parts.reconciler
        if options.first is None or self._goes_on_with(options.first):
            applied.resume(nothing_runs=executor.idle)
            return True
        # What was applied before is about to be replaced: it is not started again in between.
        # But the ports of what was adopted count: fold that first.
        await asyncio.sleep(0)
        outcome = await applied.apply(options.first, add=options.add, force=options.force)
        if options.on_applied is not None:
            options.on_applied(outcome)
        if isinstance(outcome, Accepted):
            await self._first_spawned()
            return True
        applied.resume(nothing_runs=executor.idle)
        return bool(reconciler.observed) and not options.stops_instances

    def _goes_on_with(self, sources: Sequence[AppliedSource]) -> bool:
        """The same is applied already: what is held, or broken in the meantime, stays as it is."""
        applied, forced = self._parts.applied, self._options.force
        return self._options.continues and applied.consists_of(sources, forced=forced)

    async def _first_spawned(self) -> None:
        bus, reconciler = self._parts.bus, self._parts.reconciler
        subscription = bus.subscribe()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FIRST_STARTS):
                while True:
                    await subscription.next()
                    observed = reconciler.observed.values()
                    if not any(s.phase is Phase.STARTING and s.process is None for s in observed):
                        break
        bus.unsubscribe(subscription)
