"""The SHA-256 of files, remembered by path, size, mtime and inode: 40 GB are read once."""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
from collections.abc import Callable
from typing import Any

from orchestrator.core.spec import FileIdentity
from orchestrator.runtime.files import identity_of
from orchestrator.runtime.json_file import read_document, write_document

CHUNK = 1 << 22
KEPT = 4096
"""Files that are remembered; the oldest go first."""

Progress = Callable[[int, int], None]
"""Told how many bytes of how many are done; may be called from another thread."""


class FileChangedError(Exception):
    """Somebody writes to the file: what was read is neither its old nor its new content."""


class Digests:
    """Asked for the same file twice at once, it is read once. One for each cache file."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._known: dict[str, Any] | None = None
        self._reading: dict[str, asyncio.Lock] = {}

    async def of(self, path: str, progress: Progress) -> str:
        """Hex digits. Raises OSError, and `FileChangedError`."""
        async with self._reading.setdefault(path, asyncio.Lock()):
            identity = await asyncio.to_thread(identity_of, path)
            found = self._lookup(path, identity)
            if found is None:
                found, identity = await self._read(path, progress)
                self._remember(path, identity, found)
            return found

    def known(self, path: str) -> str | None:
        """Hex digits, if the file was read as it is now."""
        return self._lookup(path, identity_of(path))

    async def _read(self, path: str, progress: Progress) -> tuple[str, FileIdentity]:
        # A thread cannot be cancelled: it is told to stop, and looks after each chunk.
        stop = threading.Event()
        try:
            return await asyncio.to_thread(_digest, path, progress, stop)
        finally:
            stop.set()

    def _lookup(self, path: str, identity: FileIdentity | None) -> str | None:
        if self._known is None:
            self._known = read_document(self._path)
        row = self._known.get(path)
        if identity is None or not isinstance(row, list) or len(row) != 4:  # pyright: ignore[reportUnknownArgumentType]
            return None
        return row[3] if row[:3] == _key(identity) else None  # pyright: ignore[reportUnknownVariableType]

    def _remember(self, path: str, identity: FileIdentity, digest: str) -> None:
        # Another process may have written meanwhile: what it knows is kept.
        known = read_document(self._path) | {path: [*_key(identity), digest]}
        self._known = dict(list(known.items())[-KEPT:])
        write_document(self._path, self._known)


def _key(identity: FileIdentity) -> list[int]:
    return [identity.size, identity.mtime_ns, identity.inode]


def _digest(path: str, progress: Progress, stop: threading.Event) -> tuple[str, FileIdentity]:
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(CHUNK))
    done = 0
    with open(path, "rb", buffering=0) as file:
        before = _identity(file.fileno())
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
            done += count
            progress(done, before.size)
            if stop.is_set():
                raise InterruptedError("nobody waits for it any more")
        if _identity(file.fileno()) != before:
            raise FileChangedError(f"{path} was written to while it was read")
    return digest.hexdigest(), before


def _identity(descriptor: int) -> FileIdentity:
    now = os.fstat(descriptor)
    return FileIdentity(now.st_size, now.st_mtime_ns, now.st_ino)
