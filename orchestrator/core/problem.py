"""What is wrong with a profile, and exactly where: collected, never raised one by one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any

from msgspec import Struct

Path = tuple[str | int, ...]
"""Keys and indexes from the root of a document, as in `("instances", "coder", "port")`."""


class Place(Struct, frozen=True):
    """A position in a file. `line` and `column` count from 1; `source` is the whole line."""

    file: str
    line: int
    column: int
    source: str = ""


class Problem(Struct, frozen=True):
    """One error of one file. `hint` says what to do."""

    message: str
    place: Place
    path: Path = ()
    hint: str = ""

    def as_json(self) -> dict[str, Any]:
        """The shape of `validate --json`."""
        return {
            "file": self.place.file,
            "line": self.place.line,
            "column": self.place.column,
            "path": ".".join(str(part) for part in self.path),
            "message": self.message,
            "hint": self.hint,
            "source": self.place.source,
        }

    def shown(self) -> dict[str, Any]:
        """For everybody who asks: without the line itself, which may hold a secret."""
        return {key: value for key, value in self.as_json().items() if key != "source"}


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`did you mean 'port'?` when something known is near, else an empty string."""
    near = get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}?" if near else ""


def listing(words: Sequence[str], *, limit: int = 8) -> str:
    """`a, b, c and 4 more`: never floods a message."""
    shown = ", ".join(words[:limit])
    return shown if len(words) <= limit else f"{shown} and {len(words) - limit} more"
