"""Notices when the event loop does not turn: how long, and what it was doing meanwhile.

While the loop waits, it is idle; from the moment that it has something to do until it waits again,
it is one pass. A thread looks once a second whether a pass has gone on for too long, and keeps the
stack that it sees; the loop itself then tells, as soon as it turns again.
"""

from __future__ import annotations

import asyncio
import contextlib
import selectors
import sys
import threading
import time
from collections.abc import Callable, Generator
from types import FrameType

LIMIT = 1.0
"""Seconds that a pass may take."""

DEPTH = 12
"""Frames of a stack that are told, the innermost."""

Told = Callable[[float, list[str]], None]
"""Called in the loop with the seconds, and with the stack, the innermost call last."""


class _Timed(selectors.DefaultSelector):
    """Knows since when the loop has been busy; `waits` is called before each wait."""

    def __init__(self) -> None:
        super().__init__()
        self.busy_since: float | None = None
        self.waits: Callable[[], None] = lambda: None

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.waits()
        self.busy_since = None
        try:
            return super().select(timeout)
        finally:
            self.busy_since = time.monotonic()


class StallWatch:
    """Watches the loop that it makes."""

    def __init__(self, limit: float = LIMIT) -> None:
        self._limit = limit
        self._selector = _Timed()
        self._stack: tuple[float, list[str]] | None = None
        """What a pass did when it was found to be too long, and since when it went on then."""

    def new_loop(self) -> asyncio.AbstractEventLoop:
        """The loop to watch, for `asyncio.Runner`."""
        return asyncio.SelectorEventLoop(self._selector)

    @contextlib.contextmanager
    def watching(self, tell: Told) -> Generator[None]:
        """Tell of each pass of the running loop that is too long."""
        loop = asyncio.get_running_loop()
        over = threading.Event()

        def waits() -> None:
            # Written by the thread during a pass, read by the loop at its end; or after that, and
            # then it is not of the pass that ends now.
            found, self._stack = self._stack, None
            if found is not None and found[0] == self._selector.busy_since:
                # Wakes the loop, which is about to wait.
                loop.call_soon_threadsafe(tell, time.monotonic() - found[0], found[1])

        self._selector.waits = waits
        watcher = threading.Thread(
            target=self._watch, args=(threading.get_ident(), over), name="stall", daemon=True
        )
        watcher.start()
        try:
            yield
        finally:
            self._selector.waits = lambda: None
            over.set()
            watcher.join()

    def _watch(self, thread: int, over: threading.Event) -> None:
        seen: float | None = None
        while not over.wait(self._limit):
            since = self._selector.busy_since
            if since is None or since == seen or time.monotonic() - since < self._limit:
                continue
            seen = since
            frame = sys._current_frames().get(thread)  # pyright: ignore[reportPrivateUsage]
            lines = _innermost(frame)
            if self._selector.busy_since == since:
                self._stack = (since, lines)


def _innermost(frame: FrameType | None) -> list[str]:
    """The last calls of a stack. No source is read: the pass may be over before that is."""
    lines: list[str] = []
    while frame is not None and len(lines) < DEPTH:
        code = frame.f_code
        lines.append(f"{code.co_filename}:{frame.f_lineno} in {code.co_name}")
        frame = frame.f_back
    return lines[::-1]
