"""Which files of Ollama stores were whole when they were last looked at: a record in the cache.

A file is told from what it was by size, mtime and inode. The record may be lost: then what is there
is taken for whole once more.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from orchestrator.core.spec import FileIdentity
from orchestrator.runtime.json_file import read_document, write_document

KEPT = 4096
"""Files that are remembered; the oldest go first."""


class WholeRecord:
    """By path. Read anew from disk before each write, for other daemons write too."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._known: dict[str, Any] | None = None

    def find(self, path: str) -> FileIdentity | None:
        """The file as it was when it was known to be whole; None when nothing is known of it."""
        if self._known is None:
            self._known = read_document(self._path)
        row = self._known.get(path)
        if not isinstance(row, list) or not all(isinstance(one, int) for one in cast(Any, row)):
            return None
        numbers = cast(list[int], row)
        return FileIdentity(*numbers) if len(numbers) == 3 else None

    def add(self, files: Mapping[str, FileIdentity]) -> None:
        """These are whole."""
        news = {path: [one.size, one.mtime_ns, one.inode] for path, one in files.items()}
        if all(self.find(path) == one for path, one in files.items()):
            return
        known = {p: row for p, row in read_document(self._path).items() if p not in news} | news
        self._known = dict(list(known.items())[-KEPT:])
        write_document(self._path, self._known)
