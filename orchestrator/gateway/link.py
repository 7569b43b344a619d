"""The link to the daemon: its table comes in as it changes, the figures go out.

The daemon may go and another come; the gateway serves on by the table that it has.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from typing import Any

from orchestrator.gateway.table import Table

SOCKET = "control.sock"
"""In the working folder, which is the state folder: a relative path is never too long."""

AGAIN = 0.2
"""Seconds between two tries to reach a daemon."""

HEARS_WITHIN = 5.0
"""Seconds after which a daemon that says nothing is as good as none: it may stand still."""

LIMIT = 16 << 20
"""Bytes of a table."""

_NONSENSE = (
    OSError,
    EOFError,
    asyncio.LimitOverrunError,
    # JSON, but no table.
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
)
"""What a daemon that is away, or of another make, can lead to."""


async def follow(take: Callable[[Table, dict[str, Any]], None], *, path: str = SOCKET) -> None:
    """Hand over each table, for ever. A daemon that is away, or talks nonsense, is asked again."""
    while True:
        with contextlib.suppress(*_NONSENSE):
            await _follow_one(take, path)
        await asyncio.sleep(AGAIN)


async def _follow_one(take: Callable[[Table, dict[str, Any]], None], path: str) -> None:
    reader, writer = await asyncio.open_unix_connection(path, limit=LIMIT)
    try:
        writer.write(b"GET /v1/gateway/table?follow=1 HTTP/1.0\r\nHost: localhost\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        if b" 200 " not in head.partition(b"\r\n")[0]:
            return
        while line := await reader.readline():
            body = json.loads(line)
            take(Table.of_json(body), body)
    finally:
        writer.close()


async def tell(figures: dict[str, Any], *, path: str = SOCKET) -> bool:
    """Hand the daemon what is under way. Nobody there to be told is no error; False then."""
    return await _post(b"/v1/gateway/figures", figures, path)


async def want(instance: str, *, path: str = SOCKET) -> None:
    """Ask the daemon to start it. Nobody there to be asked is no error: it is asked again."""
    await _post(b"/v1/gateway/want", {"instance": instance}, path)


async def _post(route: bytes, what: dict[str, Any], path: str) -> bool:
    body = json.dumps(what, separators=(",", ":")).encode()
    head = (
        b"POST " + route + b" HTTP/1.0\r\nHost: localhost\r\n"
        b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    )
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        async with asyncio.timeout(HEARS_WITHIN):
            reader, writer = await asyncio.open_unix_connection(path)
            try:
                writer.write(head + body)
                return b" 200 " in (await reader.read()).partition(b"\r\n")[0]
            finally:
                writer.close()
    return False
