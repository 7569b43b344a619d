"""What headers said, remembered by path, size, mtime and inode: a rescan costs stat calls only.

One JSON file, replaced whole and atomically (0600). A checksum in its first line makes a torn or
alien one look like none; there is nothing in it that cannot be read anew.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from typing import Any
from zlib import crc32

from msgspec import Struct

from orchestrator.core.catalog import Metadata
from orchestrator.core.spec import FileIdentity
from orchestrator.discovery.gguf_header import HeaderError
from orchestrator.discovery.gguf_metadata import Facts, read_facts

FORMAT = 1
"""Raise it when the same file would be read otherwise than before."""
MAX_BYTES = 1 << 28

_COLUMNS = Metadata.__struct_fields__
_MAGIC = f"orchestrate headers {FORMAT} {','.join(_COLUMNS)}"


class Unreadable(Struct, frozen=True):
    """Why a file is no use. It is remembered like everything else: its bytes will not change."""

    message: str


class HeaderCache:
    """Facts of files, from memory where a file is as it was, else read. Not for several threads."""

    def __init__(self, path: str | None) -> None:
        self._path = path
        self._rows: dict[str, list[Any]] = _load(path) if path else {}
        self._fresh: dict[str, list[Any]] = {}
        self._changed = False

    def facts(self, path: str, identity: FileIdentity, *, complete: bool) -> Facts | Unreadable:
        """What `path` is. With `complete=False` what is known already may be complete anyway."""
        row = self._rows.get(path)
        if row is not None and row[:3] == [identity.size, identity.mtime_ns, identity.inode]:
            self._fresh[path] = row
            return _from_row(row)
        try:
            found: Facts | Unreadable = read_facts(path, complete=complete)
        except HeaderError as error:
            found = Unreadable(str(error))
        except OSError as error:
            # Not remembered: permissions change, and the identity does not.
            return Unreadable(f"cannot be read: {error.strerror}")
        if isinstance(found, Unreadable) or found.metadata.complete:
            self._fresh[path] = _to_row(identity, found)
            self._changed = True
        return found

    def save(self) -> None:
        """Write what is known of files that still exist, if any of it is news."""
        if self._path is None:
            return
        kept = dict(self._fresh)
        for path, row in self._rows.items():
            if path in kept:
                continue
            # Not of this scan: another scan's, or gone.
            if os.path.exists(path):
                kept[path] = row
            else:
                self._changed = True
        if self._changed:
            _write(self._path, kept)


def _load(path: str) -> dict[str, list[Any]]:
    try:
        with open(path, "rb") as file:
            raw = file.read(MAX_BYTES)
    except OSError:
        return {}
    head, _, body = raw.partition(b"\n")
    if head != _head(body):
        return {}
    return json.loads(body)


def _write(path: str, rows: dict[str, list[Any]]) -> None:
    body = json.dumps(rows, separators=(",", ":")).encode("ascii")
    # A name of its own, so that two scans at once never write into one file.
    temporary = f"{path}.{os.getpid()}-{time.monotonic_ns()}"
    try:
        os.makedirs(os.path.dirname(path) or ".", mode=0o700, exist_ok=True)
        with open(temporary, "xb", opener=_private) as file:
            file.write(_head(body) + b"\n" + body)
        os.replace(temporary, path)
    except OSError:
        # A full or read-only disk costs the next scan its speed, nothing else.
        with suppress(OSError):
            os.unlink(temporary)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _head(body: bytes) -> bytes:
    return f"{_MAGIC} {crc32(body):08x}".encode("ascii")


def _to_row(identity: FileIdentity, found: Facts | Unreadable) -> list[Any]:
    key = [identity.size, identity.mtime_ns, identity.inode]
    if isinstance(found, Unreadable):
        return [*key, found.message]
    values = [getattr(found.metadata, name) for name in _COLUMNS]
    return [*key, "", found.kind, found.projects_to, *values]


def _from_row(row: list[Any]) -> Facts | Unreadable:
    if row[3]:
        return Unreadable(row[3])
    return Facts(kind=row[4], projects_to=row[5], metadata=Metadata(*row[6:]))
