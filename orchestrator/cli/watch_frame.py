"""What is written so that a screen shows other lines than before: those that differ, no more."""

from __future__ import annotations

import re
from collections.abc import Sequence

import click

from orchestrator.cli.cells import STYLE, cut, pad, wide

BEGIN_AT_ONCE, END_AT_ONCE = "\x1b[?2026h", "\x1b[?2026l"
"""What is between them a terminal that offers it shows all at once."""

_COLOUR = re.compile(r"\x1b\[(?:3\d|9\d|4\d|10\d)m")
_ASCII = str.maketrans(
    {
        **dict(zip("▁▂▃▄▅▆▇█", "_.:-=+*#", strict=True)),
        "░": ".",
        "─": "-",
        "│": "|",
        "…": "~",
        "●": "*",
        "·": "|",
        "↑": "^",
        "↓": "v",
        "←": "<",
        "→": ">",
    }
)


def changes(
    before: Sequence[str], after: Sequence[str], columns: int, *, at_once: bool = False
) -> str:
    """What makes a screen that shows `before` show `after`; nothing when they are the same.

    A line that is not in `before` is written whatever stands there. Nothing is cleared before it
    is written over, so nothing flickers.
    """
    written: list[str] = []
    for row, line in enumerate(after):
        if row < len(before) and before[row] == line:
            continue
        # Behind the last column there is nothing to erase, but some terminals would do so in it.
        rest = "\x1b[m\x1b[K" if wide(line) < columns else "\x1b[m"
        written.append(f"\x1b[{row + 1};1H{line}{rest}")
    if written and at_once:
        return "".join([BEGIN_AT_ONCE, *written, END_AT_ONCE])
    return "".join(written)


def fitted(lines: Sequence[str], columns: int, rows: int) -> list[str]:
    """Exactly so many lines, none wider than the screen."""
    shown = [cut(line, columns) for line in lines[:rows]]
    return shown + [""] * (rows - len(shown))


def selected(line: str, columns: int) -> str:
    """The line that keys act on, whole and reversed, its colours kept."""
    text = pad(cut(line, columns), columns).replace("\x1b[0m", "\x1b[0;7m")
    return f"\x1b[7m{text}\x1b[0m"


def ends(left: str, right: str, columns: int) -> str:
    """Both on one line, at its ends; only the left one where there is no room for both."""
    gap = columns - wide(left) - wide(right)
    return cut(left, columns) if gap < 2 or not right else f"{left}{' ' * gap}{right}"


def dim(text: str) -> str:
    """Of less weight; in no colour, for a grey that one reads well another cannot see."""
    return click.style(text, dim=True)


def without_colour(line: str) -> str:
    """For NO_COLOR: bold, dim and reversed stay."""
    return _COLOUR.sub("", line)


def in_ascii(line: str) -> str:
    """For a terminal that speaks nothing else: signs become the most like, text a `?`."""
    if line.isascii():
        return line
    pieces = STYLE.split(line.translate(_ASCII))
    return "".join(piece if piece.isascii() else _plain(piece) for piece in pieces)


def _plain(piece: str) -> str:
    return "".join(c if c.isascii() else "?" * wide(c) for c in piece)
