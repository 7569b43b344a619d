"""Text as a terminal has it: in cells, of which a character takes none, one or two.

What is measured here is `inert` already: no control characters, nothing that joins or redirects.
Lines may have colours in them (`\\x1b[...m`), which take no room.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator

STYLE = re.compile(r"(\x1b\[[0-9;]*m)")
ELLIPSIS = "…"

_JAMO = range(0x1160, 0x1200)
"""Vowels and finals of Hangul: they stand in the cell of the syllable that they end."""


def wide(text: str) -> int:
    """Cells that a line takes; colours take none."""
    if "\x1b" in text:
        text = STYLE.sub("", text)
    return len(text) if text.isascii() else sum(map(_cells, text))


def cut(text: str, limit: int) -> str:
    """No wider than `limit` cells; what is missing is marked, colours that follow are kept."""
    if wide(text) <= limit:
        return text
    if limit < 1:
        return "".join(STYLE.findall(text))
    head, style = "", ""
    room = limit - 1
    pieces = STYLE.split(text)
    for index, piece in enumerate(pieces):
        if index % 2:
            head += piece
            continue
        shown = _fitting(piece, room)
        head += shown
        room -= wide(shown)
        if len(shown) < len(piece):
            style = "".join(pieces[index + 1 :: 2])
            break
    return head + ELLIPSIS + style


def pad(text: str, columns: int) -> str:
    """At least so many cells wide."""
    return text + " " * max(columns - wide(text), 0)


def wrapped(text: str, columns: int) -> list[str]:
    """Plain text in lines of at most so many cells, broken between words where there are any."""
    columns = max(columns, 2)
    lines: list[str] = []
    rest = text
    while wide(rest) > columns:
        head = _fitting(rest, columns)
        space = rest.rfind(" ", 0, len(head) + 1)
        # A break that leaves most of a line empty is worse than one within a word.
        at = space if space > len(head) // 2 else len(head)
        lines.append(rest[:at].rstrip())
        rest = rest[at:].lstrip()
    return [*lines, rest]


def folded(text: str, columns: int) -> Iterator[str]:
    """Plain text in pieces of at most so many cells, with nothing left out: as a log is read."""
    columns = max(columns, 2)
    if text.isascii():
        yield from (text[at : at + columns] for at in range(0, len(text) or 1, columns))
        return
    begin, taken = 0, 0
    for index, character in enumerate(text):
        taken += _cells(character)
        if taken > columns:
            yield text[begin:index]
            begin, taken = index, _cells(character)
    yield text[begin:]


def _fitting(text: str, room: int) -> str:
    """As much of the beginning as fits, with the marks that belong to its last character."""
    if text.isascii():
        return text[: max(room, 0)]
    taken = 0
    for index, character in enumerate(text):
        taken += _cells(character)
        if taken > room:
            return text[:index]
    return text


@functools.lru_cache(4096)
def _cells(character: str) -> int:
    if character.isascii():
        return 1
    from unicodedata import category, east_asian_width

    if category(character) in ("Mn", "Me", "Cf") or ord(character) in _JAMO:
        return 0
    return 2 if east_asian_width(character) in "WF" else 1
