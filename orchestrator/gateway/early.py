"""Streams that begin before anybody serves them: comments while an instance starts, so that no
client gives up meanwhile. From then on the status is told, so an error has to be one of its events.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any, cast

from orchestrator.gateway import answers
from orchestrator.gateway.call import Call
from orchestrator.gateway.inbound import Inbound
from orchestrator.gateway.message import Headers, head_bytes
from orchestrator.gateway.outbound import Head, Outbound
from orchestrator.gateway.room import Room, Seat

EVERY = 5.0
"""Seconds of silence that a client of a stream is left in while it waits for a start."""

MOST = 64 << 10
"""Bytes of an instance's error that are looked into."""

EVENTS = b"text/event-stream"


def has_comments(call: Call) -> bool:
    """Whether the client has asked for a stream that may begin with comments."""
    streams = call.body is not None and call.body.get("stream") is True
    return streams and call.protocol in ("openai", "anthropic")


async def kept_open(
    inbound: Inbound,
    call: Call,
    room: Room,
    taking: Coroutine[Any, Any, Seat],
    starting: Callable[[], str],
) -> Seat:
    """The seat that is being taken; while `starting` names an instance, the client hears of it."""
    task = asyncio.get_running_loop().create_task(taking)
    try:
        while True:
            done, _ = await asyncio.wait({task}, timeout=EVERY)
            if done:
                return task.result()
            if name := starting():
                begin(inbound, call)
                say(inbound, call, f": waiting for {name} to start\n\n".encode())
    except BaseException:
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled() and task.exception() is None:
            # It came in the very moment.
            room.leave(task.result())
        raise


def begin(inbound: Inbound, call: Call) -> None:
    """Send the head of a stream, once."""
    if call.begun:
        return
    call.begun = True
    call.record.status = 200
    headers: Headers = [
        (b"content-type", EVENTS),
        (b"cache-control", b"no-cache"),
        *call.record.marks,
    ]
    if call.request.chunked_is_known:
        headers.append((b"transfer-encoding", b"chunked"))
    else:
        call.request.keep_alive = False
    if not call.request.keep_alive:
        headers.append((b"connection", b"close"))
    inbound.say(head_bytes(200, headers))


def say(inbound: Inbound, call: Call, piece: bytes) -> None:
    """A piece of a stream that has begun."""
    inbound.write(b"%x\r\n%s\r\n" % (len(piece), piece) if call.request.chunked_is_known else piece)


def fail(
    inbound: Inbound, call: Call, status: int, code: str, message: str, hint: str = ""
) -> None:
    """End a stream that has begun with an error."""
    call.record.status = status
    say(inbound, call, answers.error_event(call.protocol, message, status, code, hint))
    if call.request.chunked_is_known:
        inbound.write(b"0\r\n\r\n")


def fits(head: Head) -> bool:
    """Whether an answer can be the rest of a stream that has begun."""
    return head.status == 200 and head.header(b"content-type").partition(b";")[0].strip() == EVENTS


async def fail_as_told(
    inbound: Inbound, call: Call, outbound: Outbound, head: Head, name: str
) -> None:
    """End it with what an instance has answered instead of a stream. Raises `LostError`."""
    pieces: list[bytes] = []

    def keep(piece: bytes) -> None:
        if sum(map(len, pieces)) < MOST:
            pieces.append(piece)

    await outbound.relay(keep)
    said = _said(b"".join(pieces)) or f"{name} has answered {head.status}, and no stream"
    fail(inbound, call, head.status if head.status >= 400 else 502, "refused", said)


def _said(body: bytes) -> str:
    """The message of an error as engines write it; empty where there is none."""
    try:
        whole: object = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    error = cast("dict[str, object]", whole).get("error") if isinstance(whole, dict) else None
    text = cast("dict[str, object]", error).get("message") if isinstance(error, dict) else error
    return text if isinstance(text, str) else ""
