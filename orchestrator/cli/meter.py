"""How far one long piece of work is: a bar with bytes and speed on a terminal, lines in a pipe."""

from __future__ import annotations

import shutil
import sys
import time
from collections import deque
from typing import Protocol

import click

from orchestrator.cli.cells import cut
from orchestrator.cli.render import duration, inert, size

STEP = 0.1
"""Seconds between two looks at a bar that moves."""
QUIET = 5.0
"""Seconds between two lines about the same thing."""

_BAR = 20
_WINDOW = 5.0
"""Seconds over which a speed is taken."""
_SOON = 0.5
"""Seconds that must have been seen before there is a speed."""


class Meter(Protocol):
    """Told what is being done and how many bytes of it; `close` leaves the screen clean."""

    def show(self, what: str, done: int, total: int) -> None: ...
    def close(self) -> None: ...


def meter(*, as_json: bool) -> Meter:
    """The kind that fits where stderr goes; none where JSON says it all."""
    if as_json:
        return Silent()
    return Bar() if sys.stderr.isatty() else Lines()


class Speed:
    """Bytes a second, from what was seen lately."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def at(self, now: float, done: int) -> float | None:
        """None until it is known, and while nothing moves."""
        if self._seen and done < self._seen[-1][1]:
            self._seen.clear()
        self._seen.append((now, done))
        while len(self._seen) > 2 and self._seen[1][0] < now - _WINDOW:
            self._seen.popleft()
        seconds, count = now - self._seen[0][0], done - self._seen[0][1]
        return count / seconds if seconds >= _SOON and count else None


def spent(seconds: float) -> str:
    """What something took, to a tenth of a second while that matters."""
    return f"{seconds:.1f} s" if seconds < 60 else duration(seconds)


class Silent:
    """Nothing at all."""

    def show(self, what: str, done: int, total: int) -> None:
        del what, done, total

    def close(self) -> None:
        return


class Lines:
    """A line when something else is done, and now and then while bytes move."""

    def __init__(self) -> None:
        self._speed = Speed()
        self._what = ""
        self._said = 0.0

    def show(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        rate = self._speed.at(now, done)
        if what == self._what and now - self._said < QUIET:
            return
        self._what, self._said = what, now
        click.echo(f"{inert(what)} {_bytes(done, total, rate)}".rstrip(), err=True)

    def close(self) -> None:
        return


class Bar:
    """One line of the terminal, drawn over itself."""

    def __init__(self) -> None:
        self._speed = Speed()
        self._what = ""
        self._drawn = 0.0

    def show(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if what == self._what and now - self._drawn < STEP:
            return
        rate = self._speed.at(now, done)
        self._what, self._drawn = what, now
        share = min(done / total, 1.0) if total else 0.0
        full = round(share * _BAR)
        bar = f"{'█' * full}{'░' * (_BAR - full)} {share:4.0%}  " if total else ""
        text = f"{inert(what)}  {bar}{_bytes(done, total, rate)}".rstrip()
        sys.stderr.write(f"\r\x1b[2K{cut(text, shutil.get_terminal_size().columns - 1)}")
        sys.stderr.flush()

    def close(self) -> None:
        sys.stderr.write("\r\x1b[2K")
        sys.stderr.flush()


def _bytes(done: int, total: int, rate: float | None) -> str:
    if not total:
        return ""
    parts = [f"{size(done)} of {size(total)}"]
    parts += [f"{size(rate)}/s"] if rate else []
    parts += [f"{duration((total - done) / rate)} left"] if rate and done < total else []
    return ", ".join(parts)
