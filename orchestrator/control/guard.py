"""What goes on for as long as the daemon lives, whatever happens in one of its rounds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from orchestrator.control.bus import Bus
from orchestrator.core.event import Event, EventType

PAUSE = 5.0
"""Seconds until it is tried again after it has failed."""

SAID_FOR = 600.0
"""Seconds without that failure after which it is worth saying again."""


async def going_on(rounds: Callable[[], Awaitable[None]], name: str, bus: Bus) -> None:
    """`rounds`, begun anew each time that it raises, until it is cancelled.

    What it raises becomes a `bug` event: once, however often it comes again.
    """
    said: dict[str, float] = {}
    while True:
        try:
            await rounds()
        except Exception as error:  # noqa: BLE001 - a task boundary: the bug becomes an event
            now = time.monotonic()
            said = {told: at for told, at in said.items() if now - at < SAID_FOR}
            message = f"{name}: {error!r}"
            if message not in said:
                bus.post(Event(EventType.BUG, message=message))
            said[message] = now
        await asyncio.sleep(PAUSE)
