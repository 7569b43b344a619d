"""The ways to an end: a signal, `down`, `daemon stop`, a part that failed.

However the daemon ends, instances go on unless somebody asked otherwise.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Generator, Iterable

from orchestrator.control.applied import AppliedSet
from orchestrator.control.bus import Bus, NewDesired
from orchestrator.control.reconciler import Reconciler
from orchestrator.core.event import Event, EventType
from orchestrator.core.status import ALIVE
from orchestrator.errors import OrchestrateError

_SUPERSEDED = "superseded by a later apply: its instances run"


class Ending:
    """Knows whether the daemon is to end, and what becomes of the instances then."""

    def __init__(
        self, bus: Bus, reconciler: Reconciler, applied: AppliedSet, *, stops_instances: bool
    ) -> None:
        self._bus = bus
        self._reconciler = reconciler
        self._applied = applied
        self._stops_instances = stops_instances
        self._asked = asyncio.Event()

    async def reached(self, tasks: Iterable[asyncio.Task[None]]) -> None:
        """Until somebody asks for the end; a task that fails ends all, loudly."""
        asked = asyncio.create_task(self._asked.wait(), name="ending")
        done, _ = await asyncio.wait({asked, *tasks}, return_when=asyncio.FIRST_COMPLETED)
        for task in done - {asked}:
            if error := task.exception():
                asked.cancel()
                raise error
        while self._stops_instances:
            await self._applied.clear()
            if await self._instances_gone():
                break

    async def asked(self) -> None:
        """Until somebody asks for the end."""
        await self._asked.wait()

    def ask(self) -> None:
        """A signal came."""
        if self._asked.is_set() and self._stops_instances:
            # The second one: no more grace for anybody.
            for name in self._reconciler.observed:
                self._bus.post(Event(EventType.HELD, name, reason="kill", data={"hurry": True}))
        self._asked.set()

    async def down(self, keep_daemon: bool) -> None:
        """Stop every instance and forget the applied set; True keeps the daemon."""
        await self._applied.clear()
        await self._stopped()
        if not keep_daemon:
            self._asked.set()

    async def leave(self, with_instances: bool) -> None:
        """End the daemon; True stops the instances first, and remembers them all the same."""
        self._stops_instances = False
        if with_instances:
            await self._stopped()
        self._asked.set()

    async def _stopped(self) -> None:
        if not await self._instances_gone():
            raise OrchestrateError(_SUPERSEDED, hint="orchestrate status")

    async def _instances_gone(self) -> bool:
        """Every instance stops, and is forgotten but for a hold: that outlives this daemon.

        What is applied stays on record unless it was cleared before. False when another set of
        files was applied meanwhile: then that is in force.
        """
        number = self._applied.number
        subscription = self._bus.subscribe()
        try:
            while self._applied.number == number:
                if self._reconciler.number == number and self._at_rest(number):
                    return True
                await subscription.next()
        finally:
            self._bus.unsubscribe(subscription)
        return False

    def _at_rest(self, number: int) -> bool:
        """True when only what is held is left; an edit in between is put right again."""
        observed = self._reconciler.observed
        held = {name for name, status in observed.items() if status.held}
        desired = self._reconciler.desired
        kept = {name: spec for name, spec in (desired or {}).items() if name in held}
        if desired != kept:
            self._bus.post(NewDesired(kept, renew=False, number=number))
            return False
        return all(name in kept and status.phase not in ALIVE for name, status in observed.items())


@contextlib.contextmanager
def signals(end: Callable[[], None], hangup: Callable[[], None]) -> Generator[None]:
    """Signals only tell the loop; it acts."""
    loop = asyncio.get_running_loop()
    acts = {signal.SIGTERM: end, signal.SIGINT: end, signal.SIGHUP: hangup}
    for number, act in acts.items():
        loop.add_signal_handler(number, act)
    # Whoever started us may have blocked them: what came meanwhile comes now.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, acts)
    try:
        yield
    finally:
        for number in acts:
            loop.remove_signal_handler(number)
