"""The store: one small SQLite file that outlives the daemon.

It holds what cannot be seen in the process table: what is applied, which process is which
instance's, sticky ports, and the timeline. A store that is torn, or made by a newer version, is
set aside under another name, and a new one begun; the reconciler rebuilds the rest from the
processes themselves.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import time
from collections.abc import Iterable, Mapping
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.json import Decoder, encode

from orchestrator.core.event import Event
from orchestrator.core.resolved import ResolvedFile
from orchestrator.core.status import InstanceStatus, Observed
from orchestrator.core.successor import family

SCHEMA = 1
KEEP_EVENTS = 10_000
LOCK_WAIT = 0.1
"""Seconds to wait for somebody else who has it open to write: the loop waits as long."""

_TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE instances (name TEXT PRIMARY KEY, data TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE ports (name TEXT PRIMARY KEY, port INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE events (id INTEGER PRIMARY KEY, instance TEXT NOT NULL, data TEXT NOT NULL);
CREATE INDEX events_by_instance ON events (instance, id);
"""


@cache
def _status_rows() -> Decoder[InstanceStatus]:
    """Made at its first use: most commands only look whether there is a store."""
    return Decoder(InstanceStatus)


class StoreError(Exception):
    """The store cannot be written or read now: disk full, folder gone, file torn."""


class AppliedSource(Struct, frozen=True):
    """One file or folder that was applied, with all that is needed to resolve it again.

    `env` is what the caller's shell gave; `cwd` where it stood.
    """

    path: str
    is_folder: bool
    env: dict[str, str]
    cwd: str


class Applied(Struct, frozen=True):
    """The applied set. `files` is what its files meant when they were last valid: a file that is
    broken later, or gone, changes nothing, across daemons too."""

    sources: list[AppliedSource]
    files: list[ResolvedFile]
    forced: bool = False
    """It was said that whether it fits into memory is not to be asked."""


@cache
def _applied_rows() -> Decoder[Applied]:
    return Decoder(Applied)


class Store:
    """One writer (the daemon, which holds the lock); any number of readers."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        *,
        set_aside: str | None = None,
        stands_in_for: str | None = None,
    ) -> None:
        self._db = connection
        self.set_aside = set_aside
        """Where an unreadable predecessor was put, if there was one."""
        self._stands_in_for = stands_in_for
        self._saved: Observed = {}
        self._applied: str | None = None
        self._ports: dict[str, int] = {}
        # The first events of a daemon clear up after the last one, however short it lived.
        self._inserted = KEEP_EVENTS

    @classmethod
    def open(cls, path: str) -> Store:
        """Open, or begin. An unreadable one is renamed; for a disk that takes nothing, there is a
        stand-in in memory that knows what can be read, and moves to the disk when it may.
        """
        set_aside = None
        try:
            try:
                return cls(_connect(path))
            except (sqlite3.DatabaseError, ValueError) as error:
                if _is_about_the_disk(error):
                    raise
                set_aside = _rename_all(path)
            return cls(_connect(path), set_aside=set_aside)
        except (sqlite3.Error, OSError):
            return cls(_copy_in_memory(path), set_aside=set_aside, stands_in_for=path)

    @classmethod
    def open_to_read(cls, path: str) -> Store | None:
        """For commands without a daemon: None when there is nothing (readable)."""
        try:
            return cls(_connect(path, read_only=True))
        except (sqlite3.Error, ValueError):
            return None

    def close(self) -> None:
        self._db.close()

    def observed(self) -> Observed:
        """What was last known of every instance. Unreadable rows are left out."""
        found: Observed = {}
        for name, data in self._db.execute("SELECT name, data FROM instances"):
            try:
                found[name] = _status_rows().decode(data)
            except (ValueError, TypeError):
                continue
        self._saved = dict(found)
        return found

    def save(self, observed: Observed, events: Iterable[Event] = ()) -> None:
        """Commit what changed since the last save, in one transaction. Raises `StoreError`."""
        self._commit(observed, events)
        if self._stands_in_for is not None:
            self._move_to_disk(self._stands_in_for)

    def _move_to_disk(self, path: str) -> None:
        try:
            db = _connect(path)
        except (sqlite3.Error, ValueError, OSError) as error:
            raise StoreError(str(error)) from error
        try:
            self._db.backup(db)
            _prepared(db)
        except (sqlite3.Error, ValueError) as error:
            db.close()
            raise StoreError(str(error)) from error
        self._db.close()
        self._db, self._stands_in_for = db, None

    def _commit(self, observed: Observed, events: Iterable[Event]) -> None:
        changed = [s for name, s in observed.items() if self._saved.get(name) is not s]
        gone = [name for name in self._saved if name not in observed]
        kept = [event for event in events if not event.transient]
        applied = self._applied is not None or bool(self._ports)
        if not changed and not gone and not kept and not applied:
            return
        try:
            with self._db:
                self._put_applied()
                self._db.executemany(
                    "INSERT OR REPLACE INTO instances VALUES (?, ?)",
                    [(s.name, encode(s).decode()) for s in changed],
                )
                self._db.executemany("DELETE FROM instances WHERE name = ?", [(n,) for n in gone])
                self._insert(kept)
        except (sqlite3.Error, ValueError, TypeError) as error:
            # ValueError: text that is no UTF-8. Not saved is bad, a loop that ends is worse.
            raise StoreError(str(error)) from error
        self._saved = dict(observed)
        self._applied, self._ports = None, {}

    def _put_applied(self) -> None:
        if self._applied is not None:
            self._db.execute("INSERT OR REPLACE INTO meta VALUES ('applied', ?)", (self._applied,))
        self._db.executemany("INSERT OR REPLACE INTO ports VALUES (?, ?)", self._ports.items())

    def _insert(self, events: list[Event]) -> None:
        self._db.executemany(
            "INSERT OR REPLACE INTO events VALUES (?, ?, ?)",
            [(event.id, event.instance, json.dumps(event.as_json())) for event in events],
        )
        self._inserted += len(events)
        if self._inserted >= KEEP_EVENTS // 10:
            self._inserted = 0
            self._db.execute(
                "DELETE FROM events WHERE id <= (SELECT max(id) FROM events) - ?", (KEEP_EVENTS,)
            )

    def last_event_id(self) -> int:
        return int(self._db.execute("SELECT coalesce(max(id), 0) FROM events").fetchone()[0])

    def events(
        self, *, after: int = 0, last: int | None = None, instance: str = ""
    ) -> list[dict[str, Any]]:
        """Events in order: those after an id, or only the `last` so many of them.

        Unreadable ones are left out.
        """
        rows = self._db.execute(
            "SELECT data FROM events WHERE id > ? AND (? = '' OR instance = ?)"
            " ORDER BY id DESC LIMIT ?",
            (after, instance, instance, -1 if last is None else last),
        ).fetchall()
        return _readable(data for (data,) in reversed(rows))

    def event_page(
        self, *, after: int, instance: str, most: int
    ) -> tuple[list[dict[str, Any]], int | None]:
        """The first so many events after an id, and the id to go on from; None at the end."""
        rows = self._db.execute(
            "SELECT id, data FROM events WHERE id > ? AND (? = '' OR instance IN (?, ?, ?))"
            " ORDER BY id LIMIT ?",
            (after, instance, *family(instance), most),
        ).fetchall()
        found = _readable(data for _, data in rows)
        return found, rows[-1][0] if len(rows) == most else None

    def id_before(self, last: int, *, instance: str) -> int:
        """The id after which there are the `last` so many events; 0 where there are not more."""
        row = self._db.execute(
            "SELECT id FROM events WHERE (? = '' OR instance IN (?, ?, ?))"
            " ORDER BY id DESC LIMIT 1 OFFSET ?",
            (instance, *family(instance), last),
        ).fetchone()
        return row[0] if row else 0

    def applied(self) -> Applied | None:
        """The applied set; None when nothing was ever applied, or it cannot be read."""
        row = self._db.execute("SELECT value FROM meta WHERE key = 'applied'").fetchone()
        try:
            return _applied_rows().decode(row[0]) if row else None
        except (ValueError, TypeError):
            return None

    def save_applied(self, applied: Applied, ports: Mapping[str, int]) -> None:
        """Replace the applied set, and remember ports that were chosen (others stay).

        Raises `StoreError`; then the next `save` tries again.
        """
        self._ports.update(ports)
        try:
            self._applied = encode(applied).decode()
            with self._db:
                self._put_applied()
        except (sqlite3.Error, ValueError) as error:
            raise StoreError(str(error)) from error
        self._applied, self._ports = None, {}

    def ports(self) -> dict[str, int]:
        """Sticky ports by instance name."""
        return {**dict(self._db.execute("SELECT name, port FROM ports")), **self._ports}


def _connect(path: str, *, read_only: bool = False) -> sqlite3.Connection:
    if read_only:
        db = _opened_by_uri(path, "mode=ro")
    else:
        # The umask of whoever started us must not decide who may read the environment we keep.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        db = sqlite3.connect(path, timeout=LOCK_WAIT)
    try:
        if not read_only:
            return _prepared(db)
        _check(db)
    except BaseException:
        db.close()
        raise
    return db


def _copy_in_memory(path: str) -> sqlite3.Connection:
    """What can be read of a store whose disk takes nothing; an empty one where nothing can."""
    copy = sqlite3.connect(":memory:")
    for mode in ("mode=ro", "immutable=1"):
        try:
            with contextlib.closing(_opened_by_uri(path, mode)) as db:
                _check(db)
                db.backup(copy)
                return _prepared(copy)
        except (sqlite3.Error, ValueError):
            continue
    return _prepared(copy)


def _opened_by_uri(path: str, options: str) -> sqlite3.Connection:
    return sqlite3.connect(f"{Path(path).as_uri()}?{options}", uri=True, timeout=LOCK_WAIT)


def _prepared(db: sqlite3.Connection) -> sqlite3.Connection:
    """With all tables, whole, and of our version. Raises ValueError or sqlite3.Error."""
    new = _version(db) == 0 and not _schema(db)
    if not new:
        _check(db)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = NORMAL")
    if new:
        with db:
            db.executescript(f"BEGIN; {_TABLES} PRAGMA user_version = {SCHEMA}; COMMIT;")
    return db


def _check(db: sqlite3.Connection) -> None:
    """Raises ValueError for what is not a whole store of our version."""
    db.text_factory = _text
    version = _version(db)
    if version != SCHEMA:
        raise ValueError(f"made by another version, or program: schema {version}, not {SCHEMA}")
    if _schema(db) != {line.removesuffix(";") for line in _TABLES.splitlines() if line}:
        raise ValueError("tables are missing, or others")
    if db.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
        raise ValueError("damaged")


def _text(raw: bytes) -> str:
    """What is damaged within a value is for its reader to find."""
    return raw.decode("utf-8", "replace")


def _schema(db: sqlite3.Connection) -> set[str]:
    return {row[0] for row in db.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")}


def _version(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def _is_about_the_disk(error: Exception) -> bool:
    text = str(error)
    signs = ("full", "disk I/O error", "unable to open", "readonly", "locked")
    return any(sign in text for sign in signs)


def _rename_all(path: str) -> str:
    """Put it aside, under a name that is free; that name."""
    target = base = f"{path}.unreadable-{int(time.time())}"
    for number in count(2):
        if not os.path.exists(target):
            break
        target = f"{base}-{number}"
    for suffix in ("", "-wal", "-shm"):
        if os.path.exists(path + suffix):
            os.replace(path + suffix, target + suffix)
    return target


def _readable(rows: Iterable[str]) -> list[dict[str, Any]]:
    """The events of these rows, but for those that a torn write left unreadable."""
    found: list[dict[str, Any]] = []
    for data in rows:
        with contextlib.suppress(ValueError):
            found.append(json.loads(data))
    return found
