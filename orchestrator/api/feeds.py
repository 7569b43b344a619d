"""What is streamed: snapshots, events, logs. A slow reader is dropped, never waited for."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator
from typing import Any

from orchestrator.api.answers import encoded
from orchestrator.api.snapshots import Snapshots
from orchestrator.control.bus import Bus, Subscription
from orchestrator.core.event import Event, is_transient
from orchestrator.core.successor import base_of
from orchestrator.runtime.logs import Logs, tail
from orchestrator.runtime.state import Store

COALESCE = 0.05
"""Seconds in which a burst of events becomes one snapshot."""

EACH_TAKES = 0.004
"""Seconds that a burst lasts longer for each reader: a crowd of them is not to hold up the loop."""

PAGE = 200
"""Stored events that are read and sent at once."""

HEARTBEAT = 15.0
LOG_POLL = 0.1
"""Seconds between two looks at a followed log: files give no notice worth its price here."""

LOG_LIMIT = 8 << 20
"""Bytes of the end of a log that are looked at."""

_REMEMBERED = 256


class Feeds:
    """All that is streamed of one daemon: what goes to many is put into bytes once."""

    def __init__(self, bus: Bus, store: Store, snapshots: Snapshots) -> None:
        self._bus = bus
        self._store = store
        self._snapshots = snapshots
        self._readers = 0
        self._framed: dict[int, bytes] = {}

    @property
    def _burst(self) -> float:
        return COALESCE + EACH_TAKES * max(self._readers - 10, 0)

    @contextlib.contextmanager
    def _subscribed(self) -> Generator[Subscription]:
        subscription = self._bus.subscribe()
        self._readers += 1
        try:
            yield subscription
        finally:
            self._readers -= 1
            self._bus.unsubscribe(subscription)

    async def snapshots(
        self, *, after: int, refresh: float, frame: Callable[[bytes], bytes]
    ) -> AsyncGenerator[bytes]:
        """One snapshot at once, then one for each burst of events: `{"status", "events"}`.

        `refresh` (seconds, 0 for never) repeats it though nothing happens, for memory and CPU.
        """
        with self._subscribed() as subscription:
            bus = self._bus
            fresh = self._store.events(after=after) if after < bus.last_id else []
            newest = max((event["id"] for event in fresh), default=after)
            while True:
                events = encoded(fresh)
                yield frame(b'{"status":%b,"events":%b}' % (self._snapshots.json(), events))
                if bus.over:
                    break
                came = await _next(subscription, refresh or HEARTBEAT)
                if came:
                    await asyncio.sleep(self._burst)
                    came += subscription.pending()
                if subscription.lost:
                    break
                fresh = [event.as_json() for event in came if event.id > newest]
                newest = max((event.id for event in came), default=newest)

    async def events(
        self, *, after: int, recent: int, instance: str, follow: bool
    ) -> AsyncGenerator[bytes]:
        """Server-sent events: what is stored (after an id, or the recent ones), then what comes."""
        with self._subscribed() as subscription:
            # An id that was never given is from before the store was lost.
            resumes = 0 <= after <= self._bus.last_id
            begin = after if resumes else self._store.id_before(recent, instance=instance)
            newest = 0
            at: int | None = begin
            while at is not None:
                stored, at = self._store.event_page(after=at, instance=instance, most=PAGE)
                newest = max((event["id"] for event in stored), default=newest)
                # At once, even when nothing has happened: whoever listens sees that it does.
                yield b"".join(_sse(event) for event in stored) or b": nothing yet\n\n"
                # The loop turns between two pages: ten thousand at once would hold it up.
                await asyncio.sleep(0)
            while follow and not self._bus.over:
                came = await _next(subscription, HEARTBEAT)
                if came and self._burst > COALESCE:
                    await asyncio.sleep(self._burst)
                    came += subscription.pending()
                if subscription.lost:
                    # There is a gap now: whoever resumes after the last one finds what is in it.
                    break
                wanted = [e for e in came if e.id > newest and _is_about(e, instance)]
                if wanted:
                    newest = wanted[-1].id
                    yield b"".join(self._as_sse(event) for event in wanted)
                elif not came:
                    yield b": still here\n\n"

    def _as_sse(self, event: Event) -> bytes:
        framed = self._framed.get(event.id)
        if framed is None:
            while len(self._framed) >= _REMEMBERED:
                del self._framed[next(iter(self._framed))]
            framed = self._framed[event.id] = _sse(event.as_json())
        return framed


def as_line(body: bytes) -> bytes:
    """A snapshot on a line of its own."""
    return body + b"\n"


def as_sse(body: bytes) -> bytes:
    """A snapshot as a server-sent event. It is no place to resume from: it is all there is."""
    return b"event: status\ndata: %b\n\n" % body


async def _next(subscription: Subscription, seconds: float) -> list[Event]:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            return await subscription.next()
    return []


def _sse(event: dict[str, Any]) -> bytes:
    # What is not kept is no place to resume from: the next daemon may give its id again.
    mark = (
        b""
        if is_transient(event["type"], event["reason"], event["data"])
        else b"id: %d\n" % event["id"]
    )
    return b"%bevent: %b\ndata: %b\n\n" % (mark, event["type"].encode(), encoded(event))


async def log(
    logs: Logs, bus: Bus, name: str, *, pid: int | None, lines: int, back: int, follow: bool
) -> AsyncIterator[bytes]:
    """The end of a log, then what is added to it; a new run's file is gone over to."""
    fd = logs.open_for_reading(name, back=back, pid=pid)
    try:
        if fd is not None:
            yield tail(fd, lines, limit=LOG_LIMIT)
        while follow and not bus.over:
            chunk = os.read(fd, 65536) if fd is not None else b""
            if chunk:
                yield chunk
                continue
            fd = _reopened(logs, name, fd)
            await asyncio.sleep(LOG_POLL)
    finally:
        if fd is not None:
            os.close(fd)


def _reopened(logs: Logs, name: str, fd: int | None) -> int | None:
    """The descriptor of what is the log now: another file after a restart, a shorter one after
    a rotation."""
    try:
        now = os.stat(logs.path(name))
    except OSError:
        return fd
    if fd is None:
        return logs.open_for_reading(name)
    have = os.fstat(fd)
    if (now.st_ino, now.st_dev) != (have.st_ino, have.st_dev):
        # What the old file still gained between our last read and its end comes first.
        if os.lseek(fd, 0, os.SEEK_CUR) < have.st_size:
            return fd
        os.close(fd)
        return logs.open_for_reading(name)
    if now.st_size < os.lseek(fd, 0, os.SEEK_CUR):
        os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _is_about(event: Event, instance: str) -> bool:
    """What is beside an instance is about it, too."""
    return instance in ("", event.instance, base_of(event.instance))
