"""Which model of which store was made from what: a record in the cache folder.

It is the only thing that tells a model that is as declared from one that merely has its name. It
may be lost: that costs making each model once more, of parts that are all there.
"""

from __future__ import annotations

from typing import Any, cast

from msgspec import Struct
from msgspec.structs import asdict

from orchestrator.runtime.json_file import read_document, write_document

KEPT = 4096


class Made(Struct, frozen=True):
    """What came of it (`digest`, of the manifest), of which recipe, on which base, if on one."""

    digest: str
    recipe: str
    base: str = ""


class MadeRecord:
    """By store and name. Read anew from disk before each write, for other daemons write too."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._known: dict[str, Any] | None = None

    def find(self, store: str, name: str) -> Made | None:
        if self._known is None:
            self._known = read_document(self._path)
        row = self._known.get(_key(store, name))
        if not isinstance(row, dict):
            return None
        said = cast(dict[str, Any], row)
        return Made(
            str(said.get("digest", "")), str(said.get("recipe", "")), str(said.get("base", ""))
        )

    def add(self, store: str, name: str, made: Made) -> None:
        known = read_document(self._path)
        known.pop(_key(store, name), None)
        known[_key(store, name)] = asdict(made)
        self._known = dict(list(known.items())[-KEPT:])
        write_document(self._path, self._known)


def _key(store: str, name: str) -> str:
    return f"{store} {name.casefold()}"
