"""Plain columns for lists: as wide as their content, no wider than the terminal."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence

import click

GAP = "  "


def table(
    head: Sequence[str], rows: Sequence[Sequence[str]], *, width: int | None = None
) -> list[str]:
    """The lines of a table; what does not fit on a terminal (or in `width`) is cut, in a pipe
    nothing is."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    limit = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    first, *others = [_line(row, widths, width or limit) for row in (head, *rows)]
    return [click.style(first, bold=True), *others]


def fields(pairs: Sequence[tuple[str, str]], *, indent: str = "  ") -> list[str]:
    """`name  value` lines, the values in one column."""
    width = max((len(name) for name, _ in pairs), default=0)
    return [f"{indent}{name:<{width}}{GAP}{value}".rstrip() for name, value in pairs]


def counted(number: int, what: str) -> str:
    """`1 model`, `2 models`."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def _line(cells: Sequence[str], widths: Sequence[int], limit: int) -> str:
    padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
    text = GAP.join(padded).rstrip()
    return text if not limit or len(text) <= limit else text[: max(limit - 1, 0)] + "…"
