"""The processes in which an Ollama server has its models: which of them live, and when one ends.

The server itself does not notice that a runner was killed until it is asked for its model.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import Callable

_BLOB = re.compile(rb"sha256-([0-9a-f]{64})")


class Runners:
    """The children of one server. `ended` is called when one that was seen has ended."""

    def __init__(self, pid: Callable[[], int | None], ended: Callable[[], None]) -> None:
        self._pid = pid
        self._ended = ended
        self._watched: dict[int, int] = {}
        self._known: set[str] | None = None

    def forget(self) -> None:
        """There may be others now."""
        self._known = None

    def blobs(self) -> set[str] | None:
        """What living runners were started for (hex digits); None where that cannot be told.

        Those that were found last, unless one of them has ended since, or all were forgotten.
        """
        if self._known is None:
            self._known = self._find()
        return self._known

    def _find(self) -> set[str] | None:
        pid = self._pid()
        children = _children(pid) if pid is not None else None
        if children is None:
            return None
        found: set[str] = set()
        for child in children:
            command = _command(child)
            blobs = {match.decode() for match in _BLOB.findall(command)}
            if command and not blobs:
                # A runner of another kind, or something else: who knows.
                return None
            if blobs:
                self._watch(child)
            found |= blobs
        return found

    def close(self) -> None:
        for pid in list(self._watched):
            self._let_go(pid)

    def _watch(self, pid: int) -> None:
        if pid in self._watched:
            return
        with contextlib.suppress(OSError):
            descriptor = os.pidfd_open(pid)
            self._watched[pid] = descriptor
            loop = asyncio.get_running_loop()
            loop.add_reader(descriptor, self._has_ended, pid)

    def _has_ended(self, pid: int) -> None:
        self._let_go(pid)
        self.forget()
        self._ended()

    def _let_go(self, pid: int) -> None:
        descriptor = self._watched.pop(pid)
        asyncio.get_running_loop().remove_reader(descriptor)
        os.close(descriptor)


def _children(pid: int) -> list[int] | None:
    """Of all its threads: each has those that it started."""
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                found += map(int, file.read().split())
    except OSError:
        return None
    return found


def _command(pid: int) -> bytes:
    """Empty once it has ended."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read()
    except OSError:
        return b""
