"""Where events are told: the daemon's log, or whoever watches in the foreground."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable

from orchestrator.control.bus import Bus
from orchestrator.core.event import Event, timestamp


class Reporting:
    """Tells every event of the bus, once; `on_event` is who watches, None is the log."""

    def __init__(self, bus: Bus, on_event: Callable[[Event], None] | None) -> None:
        self._told = bus.subscribe()
        self._on_event = on_event

    async def run(self) -> None:
        while True:
            self.tell(await self._told.next())

    def tell_the_rest(self, last: Event) -> None:
        """What the last passes saw, and that it is over: whoever told it was cancelled."""
        self.tell([*self._told.pending(), last])

    def tell(self, events: Iterable[Event]) -> None:
        report = self._on_event or _log
        for event in events:
            if event.transient and self._on_event is None:
                # Several a second while bytes move: the log would hold nothing else.
                continue
            # A full disk, or a terminal that was closed: no reason to end.
            with contextlib.suppress(OSError):
                report(event)


def _log(event: Event) -> None:
    words = [timestamp(event.time), event.instance or "-", event.type.value, event.reason]
    line = " ".join(word for word in words if word) + f" {event.message}"
    # It may quote what a profile or an engine says; the journal keeps nothing but text as text.
    sys.stderr.write("".join(map(_visible, line)) + "\n")
    sys.stderr.flush()


def _visible(character: str) -> str:
    """What cannot be seen is written as in a program."""
    if character.isprintable():
        return character
    return character.encode("unicode_escape").decode("ascii")
