"""What is streamed: snapshots, events, logs. A slow reader is dropped, never waited for."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator
from typing import Any

from orchestrator.control.bus import Bus, Subscription
from orchestrator.control.overview import Overview
from orchestrator.core.event import Event, is_transient
from orchestrator.runtime.logs import Logs, tail
from orchestrator.runtime.state import Store

COALESCE = 0.05
"""Seconds in which a burst of events becomes one snapshot."""

HEARTBEAT = 15.0
LOG_POLL = 0.1
"""Seconds between two looks at a followed log: files give no notice worth its price here."""


async def snapshots(
    bus: Bus, store: Store, overview: Overview, *, after: int, refresh: float
) -> AsyncIterator[bytes]:
    """One JSON line at once, then one for each burst of events: `{"status", "events"}`.

    `refresh` (seconds, 0 for never) repeats it though nothing happens, for memory and CPU.
    """
    subscription = bus.subscribe()
    try:
        fresh = store.events(after=after) if after < bus.last_id else []
        newest = max((event["id"] for event in fresh), default=after)
        while True:
            body = {"status": overview.status(), "events": fresh}
            yield json.dumps(body, separators=(",", ":")).encode() + b"\n"
            events = await _next(subscription, refresh or HEARTBEAT)
            if events:
                await asyncio.sleep(COALESCE)
                events += await _next(subscription, 0)
            if subscription.lost:
                break
            fresh = [event.as_json() for event in events if event.id > newest]
            newest = max((event.id for event in events), default=newest)
    finally:
        bus.unsubscribe(subscription)


async def _next(subscription: Subscription, seconds: float) -> list[Event]:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            return await subscription.next()
    return []


async def events(
    bus: Bus, store: Store, *, after: int, recent: int, instance: str, follow: bool
) -> AsyncIterator[bytes]:
    """Server-sent events: what is stored (after an id, or the recent ones), then what comes."""
    subscription = bus.subscribe()
    try:
        # An id that was never given is from before the store was lost.
        stored = (
            store.events(after=after, instance=instance)
            if 0 <= after <= bus.last_id
            else store.events(last=recent, instance=instance)
        )
        newest = max((event["id"] for event in stored), default=0)
        for event in stored:
            yield _sse(event)
        while follow:
            came = await _next(subscription, HEARTBEAT)
            if subscription.lost:
                # There is a gap now: whoever resumes after the last one finds what is in it.
                break
            if not came:
                yield b": still here\n\n"
            for event in came:
                if event.id > newest and instance in ("", event.instance):
                    newest = event.id
                    yield _sse(event.as_json())
    finally:
        bus.unsubscribe(subscription)


def _sse(event: dict[str, Any]) -> bytes:
    data = json.dumps(event, separators=(",", ":"))
    # What is not kept is no place to resume from: the next daemon may give its id again.
    mark = (
        ""
        if is_transient(event["type"], event["reason"], event["data"])
        else f"id: {event['id']}\n"
    )
    return f"{mark}event: {event['type']}\ndata: {data}\n\n".encode()


async def log(
    logs: Logs, name: str, *, pid: int | None, lines: int, back: int, follow: bool
) -> AsyncIterator[bytes]:
    """The end of a log, then what is added to it; a new run's file is gone over to."""
    fd = logs.open_for_reading(name, back=back, pid=pid)
    try:
        if fd is not None:
            yield tail(fd, lines, limit=8 << 20)
        while follow:
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
