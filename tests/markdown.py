"""Pieces of Markdown that the reference is made of."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping


def pairs(words: Mapping[str, str]) -> list[tuple[str, str]]:
    """Rows of a table: words, and what they mean."""
    return [(code(word), what) for word, what in words.items()]


def code(word: str) -> str:
    """A word as it is typed."""
    return f"`{word}`"


def json_block(document: object) -> str:
    """A document in a block of its own."""
    return f"```json\n{json.dumps(document, indent=2)}\n```\n"


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A table; a bar inside a cell is escaped."""
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    lines += [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
    return "\n".join(lines) + "\n"
