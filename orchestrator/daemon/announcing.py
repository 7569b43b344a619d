"""What the init system is told: that we serve, what is ready, that the loop turns, the end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable

from orchestrator.core.report import summary_line
from orchestrator.daemon.ending import Ending
from orchestrator.daemon.parts import Parts
from orchestrator.runtime.notify import Notifier

SAY_AGAIN = 0.5
"""Seconds until what could not be sent is sent again."""

TRIES = 20
"""How often that is tried before whoever does not listen is left alone."""


class Announcing:
    """Tells it, if there is one."""

    def __init__(self, parts: Parts, ending: Ending, notifier: Notifier) -> None:
        self._parts = parts
        self._ending = ending
        self._notifier = notifier
        self._serves = asyncio.Event()

    def serves(self) -> None:
        """The control socket is there, and the first apply was taken up."""
        self._serves.set()

    @contextlib.asynccontextmanager
    async def reloading(self) -> AsyncGenerator[None]:
        """While the applied files are read again."""
        self._notifier.reloading()
        try:
            yield
        finally:
            await _insist(lambda: self._notifier.ready(self._line()))

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._say_what_is_ready(), name="say what is ready")
            group.create_task(self._say_the_end(), name="say the end")
            if self._notifier.watchdog is not None:
                signs = self._show_life(self._notifier.watchdog / 2)
                group.create_task(signs, name="show signs of life")

    async def _say_what_is_ready(self) -> None:
        changes = self._parts.bus.subscribe()
        try:
            await self._serves.wait()
            await _insist(lambda: self._notifier.ready(self._line()))
            told = ""
            while True:
                if (line := self._line()) != told and self._notifier.status(line):
                    told = line
                async with _within(None if line == told else SAY_AGAIN):
                    await changes.next()
        finally:
            self._parts.bus.unsubscribe(changes)

    async def _say_the_end(self) -> None:
        await self._ending.asked()
        await _insist(self._notifier.stopping)

    async def _show_life(self, every: float) -> None:
        """From the loop itself: one that does not turn shows none, and that is the point."""
        while True:
            sent = self._notifier.alive()
            await asyncio.sleep(every if sent else min(every, SAY_AGAIN))

    def _line(self) -> str:
        """One line of the status: it is what `converged` says."""
        reconciler, applied = self._parts.reconciler, self._parts.applied
        invalid = [report.file for report in applied.reports() if not report.ok]
        return summary_line(reconciler.desired or {}, reconciler.state, invalid)


async def _insist(send: Callable[[], bool]) -> None:
    for _ in range(TRIES):
        if send():
            return
        await asyncio.sleep(SAY_AGAIN)


@contextlib.asynccontextmanager
async def _within(seconds: float | None) -> AsyncGenerator[None]:
    """As `asyncio.timeout`, but that it is no error when it is over."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            yield
