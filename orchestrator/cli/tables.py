"""Plain columns for lists: as wide as their content, no wider than the terminal."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence

import click

from orchestrator.cli.cells import cut, pad, wide

GAP = "  "


def table(
    head: Sequence[str], rows: Sequence[Sequence[str]], *, width: int | None = None
) -> list[str]:
    """The lines of a table; what does not fit on a terminal (or in `width`) is cut, in a pipe
    nothing is."""
    widths = [max(wide(row[column]) for row in (head, *rows)) for column in range(len(head))]
    limit = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    first, *others = [_line(row, widths, width or limit) for row in (head, *rows)]
    return [click.style(first, bold=True), *others]


def with_room(
    lines: Sequence[Sequence[str]],
    limit: int,
    *,
    least_wanted: Sequence[str],
    shrinking: Mapping[str, int],
    last: int = 0,
) -> list[list[str]]:
    """Rows, the head first, that fit into `limit` cells (0: any number).

    Columns go, by the names in their heads, in the order of `least_wanted`; then those of
    `shrinking` are cut, to so many cells at least. Of the last column `last` cells are enough.
    """
    made = [list(line) for line in lines]
    if not limit:
        return made
    for name in least_wanted:
        if _taken(made, last) <= limit:
            return made
        if name in made[0]:
            at = made[0].index(name)
            made = [[*line[:at], *line[at + 1 :]] for line in made]
    for name, least in shrinking.items():
        excess = _taken(made, last) - limit
        if excess > 0 and name in made[0]:
            at = made[0].index(name)
            room = max(max(wide(line[at]) for line in made) - excess, least)
            made = [[*line[:at], cut(line[at], room), *line[at + 1 :]] for line in made]
    return made


def _taken(lines: Sequence[Sequence[str]], last: int) -> int:
    widths = [max(map(wide, column)) for column in zip(*lines, strict=True)]
    if last:
        widths[-1] = min(widths[-1], last)
    return sum(widths) + len(GAP) * (len(widths) - 1)


def fields(pairs: Sequence[tuple[str, str]], *, indent: str = "  ") -> list[str]:
    """`name  value` lines, the values in one column."""
    width = max((wide(name) for name, _ in pairs), default=0)
    return [f"{indent}{pad(name, width)}{GAP}{value}".rstrip() for name, value in pairs]


def counted(number: int, what: str) -> str:
    """`1 model`, `2 models`."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def _line(cells: Sequence[str], widths: Sequence[int], limit: int) -> str:
    padded = (pad(cell, width) for cell, width in zip(cells, widths, strict=True))
    text = GAP.join(padded).rstrip()
    return cut(text, limit) if limit else text
