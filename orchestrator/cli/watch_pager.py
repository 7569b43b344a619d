"""Text that is longer than the screen, and may grow: logs, events, help. It can be searched."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from orchestrator.cli.cells import cut, folded
from orchestrator.cli.render import inert

KEPT = 5000
"""Lines kept: the oldest go when more come."""
LONGEST = 4000
"""Characters of a line: what is longer is cut, for one that never ends must not stop the screen."""

_STYLED = re.compile(r"\x1b\[[0-9;:]*m")
_FOUND, _FOUND_END = "\x1b[7m", "\x1b[27m"


class Pager:
    """Lines, and which of them are seen. `paint` colours a piece of one, without widening it."""

    def __init__(
        self, *, follow: bool = False, fold: bool = True, paint: Callable[[str], str] = str
    ) -> None:
        self.follow = follow
        """Whether the end is shown, however it grows."""
        self.fold = fold
        """Whether a line that is too long goes on in the next row, or is cut."""
        self.wanted = ""
        """What is searched for."""
        self._paint = paint
        self._lines: list[str] = []
        self._open = b""
        self._rows: list[tuple[int, str]] = []
        self._folded = 0
        self._shape: tuple[int, bool] = (80, fold)
        self._height = 1
        self._top = 0
        self._found_at: int | None = None
        """The line that was found last, until one moves elsewhere."""

    # --- what is in it -------------------------------------------------------------------------

    def clear(self) -> None:
        """As if nothing had come yet; the search stays."""
        self._lines, self._open = [], b""
        self._rows, self._folded, self._top = [], 0, 0
        self._found_at = None

    def feed(self, data: bytes) -> None:
        """What a program wrote. A line without an end is shown once its end comes."""
        *whole, self._open = (self._open + data).split(b"\n")
        if len(self._open) > LONGEST:
            whole.append(self._open)
            self._open = b""
        self.add(written(line) for line in whole)

    def add(self, lines: Iterable[str]) -> None:
        """More lines, which are `inert`."""
        self._lines += (line[:LONGEST] for line in lines)
        excess = len(self._lines) - KEPT
        if excess > 0:
            del self._lines[:excess]
            gone = sum(number < excess for number, _ in self._rows)
            self._rows = [(number - excess, row) for number, row in self._rows[gone:]]
            self._folded = max(self._folded - excess, 0)
            self._top = max(self._top - gone, 0)
            if self._found_at is not None:
                self._found_at -= excess

    # --- what is seen --------------------------------------------------------------------------

    def rows(self, columns: int, height: int) -> list[str]:
        """What fits on so much of the screen."""
        self._lay_out(columns)
        self._height = max(height, 1)
        last = max(len(self._rows) - self._height, 0)
        if self.follow or self._top > last:
            self._top = last
        seen = self._rows[self._top : self._top + self._height]
        return [self._highlighted(row) for _, row in seen]

    def place(self) -> str:
        """Where in the text this is, in a word."""
        total = len(self._rows)
        if total <= self._height:
            return "all"
        below = self._top + self._height
        return "end" if below >= total else f"{100 * below // total} %"

    def _lay_out(self, columns: int) -> None:
        shape = (columns, self.fold)
        if shape != self._shape:
            first = self._rows[self._top][0] if self._top < len(self._rows) else 0
            self._shape, self._rows, self._folded = shape, [], 0
            self._lay_out(columns)
            self._top = next((i for i, (n, _) in enumerate(self._rows) if n >= first), 0)
            return
        for number in range(self._folded, len(self._lines)):
            line = self._lines[number]
            pieces = folded(line, columns) if self.fold else [cut(line, columns)]
            self._rows += ((number, piece) for piece in pieces)
        self._folded = len(self._lines)

    def _highlighted(self, row: str) -> str:
        if not self.wanted:
            return self._paint(row)
        return self._pattern().sub(lambda found: f"{_FOUND}{found[0]}{_FOUND_END}", row)

    # --- moving --------------------------------------------------------------------------------

    def key(self, key: str) -> bool:
        """Move as the key says; whether it is one for that."""
        page = max(self._height - 1, 1)
        steps = {
            "up": -1,
            "k": -1,
            "down": 1,
            "j": 1,
            "page-up": -page,
            "b": -page,
            "page-down": page,
            " ": page,
            "u": -(page // 2),
            "d": page // 2,
            "home": -len(self._rows),
            "g": -len(self._rows),
            "end": len(self._rows),
            "G": len(self._rows),
        }
        if key not in steps:
            return False
        last = max(len(self._rows) - self._height, 0)
        self._top = min(max(self._top + steps[key], 0), last)
        self.follow = steps[key] > 0 and self._top == last
        self._found_at = None
        return True

    # --- searching -----------------------------------------------------------------------------

    def search(self, wanted: str) -> str:
        """Look for text, the newest first where the end is shown; what to say of it.

        Capital letters count if there are any in it.
        """
        self.wanted = wanted
        if not wanted:
            return ""
        return self.next(backward=self.follow, begin=True)

    def next(self, *, backward: bool, begin: bool = False) -> str:
        """The next place where it is, round the end; what to say of it."""
        if not self.wanted:
            return "nothing is searched for: / begins"
        self._lay_out(self._shape[0])
        pattern = self._pattern()
        found = [n for n, line in enumerate(self._lines) if pattern.search(line)]
        if not found:
            return f"not found: {self.wanted}"
        at = self._nearest(found, backward=backward, begin=begin)
        self._found_at = found[at]
        row = next(i for i, (number, _) in enumerate(self._rows) if number >= found[at])
        last = max(len(self._rows) - self._height, 0)
        self.follow = False
        self._top = min(row, last)
        return f"{at + 1} of {len(found)} lines with {self.wanted}"

    def _nearest(self, found: list[int], *, backward: bool, begin: bool) -> int:
        """Which of these lines comes next, from the one that was found last or the first seen."""
        if begin and self.follow:
            return len(found) - 1
        here = self._rows[min(self._top, len(self._rows) - 1)][0] if self._rows else 0
        if self._found_at is not None and not begin:
            here = self._found_at
        if backward:
            return next((i for i in range(len(found))[::-1] if found[i] < here), len(found) - 1)
        least = here if begin or self._found_at is None else here + 1
        return next((i for i, n in enumerate(found) if n >= least), 0)

    def _pattern(self) -> re.Pattern[str]:
        flags = re.IGNORECASE if self.wanted == self.wanted.lower() else re.NOFLAG
        return re.compile(re.escape(self.wanted), flags)


def written(line: bytes) -> str:
    """A line of a program's output as it would stand on a screen, unable to steer it."""
    text = line.decode("utf-8", "replace").rstrip("\r")
    # What a bar that is drawn over itself showed at last.
    text = _STYLED.sub("", text.rpartition("\r")[2])
    return inert(text.expandtabs(8))
