"""What is known of each model of one running instance, posted as it changes.

The rows that people see are folded from these events; this is only what was said last.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Any

from msgspec import to_builtins
from msgspec.structs import replace

from orchestrator.control.bus import Bus
from orchestrator.core.event import Event, EventType
from orchestrator.core.status import ModelState, ModelStatus

QUIET = 0.25
"""Seconds between two lines of progress about one model."""
SPEED_OVER = 3.0
"""Seconds that a shown speed is the mean of."""
STALLED = 10.0
NO_BYTES = {"bytes_done": 0, "bytes_total": 0}
"""Of a row about which nothing is under way."""


class Board:
    """One row for each model, by name."""

    def __init__(self, name: str, start_id: str, bus: Bus) -> None:
        self._instance = name
        self._start_id = start_id
        self._bus = bus
        self.rows: dict[str, ModelStatus] = {}

    def row(self, name: str) -> ModelStatus:
        return self.rows.get(name, ModelStatus(name))

    def say(self, name: str, what: str, words: str, **changes: Any) -> None:
        """Something happened to a model: an event of the timeline. `changes` are of its row."""
        self._post(EventType.MODEL, name, what, words, **changes)

    def show(self, name: str, **changes: Any) -> None:
        """A model is seen otherwise than before, which is no event by itself."""
        row = self.rows.get(name)
        if row is None or replace(row, **changes) != row:
            self._post(EventType.MODEL_PROGRESS, name, "", changes.get("message", ""), **changes)

    def gone(self, name: str, message: str) -> None:
        """Nothing of it is left, or wanted."""
        self._post(EventType.MODEL, name, "gone", message)
        self.rows.pop(name, None)

    def looked(self) -> None:
        """What there is was looked at, and all that was seen of it is said."""
        data = {"start_id": self._start_id}
        self._bus.post(Event(EventType.LOOKED, self._instance, data=data))

    def again(self, name: str) -> None:
        """Say once more what is known: the row may have been put in question."""
        if name in self.rows:
            self._post(EventType.MODEL_PROGRESS, name, "", self.rows[name].message)

    def _post(self, kind: EventType, name: str, what: str, words: str, **changes: Any) -> None:
        row = replace(self.row(name), **changes)
        self.rows[name] = row
        data = {"start_id": self._start_id, "model": to_builtins(row)}
        shown = f"{name}: {words}" if words else name
        self._bus.post(Event(kind, self._instance, reason=what, message=shown, data=data))


class Meter:
    """Bytes of one piece of work on a model, as a row that moves."""

    def __init__(self, board: Board, name: str, state: ModelState) -> None:
        self._board = board
        self._name = name
        self._state = state
        self._loop = asyncio.get_running_loop()
        self._told = 0.0
        self._seen: deque[tuple[float, int]] = deque()
        self._rose_at = time.monotonic()
        self.done = 0
        self.moved = False
        """Whether any bytes came since the work began."""
        self._over = False

    def close(self) -> None:
        """The work has ended: what a thread of it still tells is not heard."""
        self._over = True

    def words(self, message: str) -> None:
        """What is being done, where bytes do not tell."""
        self._seen.clear()
        self._board.show(self._name, state=self._state, message=message, reason="")

    def at(self, done: int, total: int, verb: str = "") -> None:
        """So many bytes of so many."""
        if self._over:
            return
        now = time.monotonic()
        if done > self.done:
            self._rose_at = now
            # What was there before it began has not moved.
            self.moved = self.moved or bool(self._seen)
        self.done = done
        if self._seen and done < self._seen[-1][1]:
            self._seen.clear()
        self._seen.append((now, done))
        while now - self._seen[0][0] > SPEED_OVER and len(self._seen) > 2:
            self._seen.popleft()
        if now - self._told < QUIET:
            return
        self._told = now
        self._board.show(
            self._name,
            state=self._state,
            bytes_done=done,
            bytes_total=total,
            message=f"{verb}{self._amount(done, total, now)}",
            reason="",
        )

    def from_thread(self, verb: str = "") -> Any:
        """A function that another thread may tell bytes to."""
        told = 0.0

        def tell(done: int, total: int) -> None:
            nonlocal told
            now = time.monotonic()
            if now - told >= QUIET:
                told = now
                self._loop.call_soon_threadsafe(self.at, done, total, verb)

        return tell

    def _amount(self, done: int, total: int, now: float) -> str:
        amount = of_total(done, total)
        began, first = self._seen[0]
        if now - self._rose_at >= STALLED:
            return f"{amount}, nothing for {now - self._rose_at:.0f} s"
        if now - began < QUIET:
            return amount
        return f"{amount}, {size((done - first) / (now - began))}/s"


def size(count: float) -> str:
    """`12.3 MB`: decimal, as Ollama and registries count."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.95:
            return f"{count:.1f} {unit}" if unit != "B" else f"{count:.0f} B"
        count /= 1000
    return f"{count:.2f} TB"


def of_total(done: int, total: int) -> str:
    """`12.3 of 40.0 MB`."""
    whole, part = size(total), size(done)
    same = whole.split()[1] == part.split()[1]
    return f"{part.split()[0] if same else part} of {whole}"
