"""A client's connection: whole requests in, an answer out, one after the other."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

import httptools

from orchestrator.gateway.message import Headers, Request, document

MAX_HEAD = 64 << 10
MAX_BODY = 256 << 20
"""Bytes of a request: pictures and sounds travel in JSON."""

WRITE_AHEAD = 256 << 10
"""Bytes that wait for a slow client before its instance is made to wait."""

PIPELINED = 16
"""Requests that a client may send before it has its answers."""


class Inbound(asyncio.Protocol):
    """`answer` is called with each request, and has written the whole answer when it returns."""

    def __init__(
        self,
        answer: Callable[[Inbound, Request], Coroutine[Any, Any, None]],
        clients: set[Inbound],
    ) -> None:
        self._answer = answer
        self._clients = clients
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._waiting: deque[Request] = deque()
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self._writable: asyncio.Future[None] | None = None
        self.since = self._loop.time()
        """When the last byte of an unfinished request came, or the last answer ended."""
        self.on_writable: Callable[[], None] = _nothing
        self.peer = ""
        """The client's address."""
        self._begin()

    @property
    def reads(self) -> bool:
        """True while a request is awaited or not whole yet: nobody is at work for it."""
        return self._task is None

    @property
    def in_the_middle(self) -> bool:
        """True while a part of a request is there."""
        return self._head > 0

    @property
    def gone(self) -> bool:
        """The client has left: what is written goes nowhere."""
        return self._transport is None or self._transport.is_closing()

    @property
    def full(self) -> bool:
        """More is written than the client takes; `on_writable` is called when that has passed."""
        return self._writable is not None

    # --- the transport ---------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(high=WRITE_AHEAD)
        self.peer = str((transport.get_extra_info("peername") or [""])[0])
        self._clients.add(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 (its name is asyncio's)
        self._clients.discard(self)
        self._transport = None
        self._waiting.clear()
        self.resume_writing()
        if self._task is not None:
            # Whoever generates for nobody is stopped: its connection is closed with the task.
            self._task.cancel()

    def pause_writing(self) -> None:
        self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        waiter, self._writable = self._writable, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
        self.on_writable()

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        self.since = self._loop.time()
        self._head += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as rest:
            self._stay(data[rest.args[0] :])
        except httptools.HttpParserError as error:
            self._refuse(400, "bad-request", f"this is no HTTP/1.1 request: {error}")
        else:
            if not self._headed and self._head > MAX_HEAD:
                self._refuse(431, "too-large", f"the head has more than {MAX_HEAD:,} bytes")

    def _stay(self, rest: bytes) -> None:
        """Another protocol is offered, never demanded: what is asked for is answered in this one.

        The parser takes the offer for the end of the request, so it is told it without.
        """
        method = self._parser.get_method()
        if method == b"CONNECT":
            self._refuse(400, "bad-request", "this is no proxy")
            return
        kept = [one for one in self._headers if one[0] != b"connection"]
        if not self._parser.should_keep_alive():
            kept.append((b"connection", b"close"))
        line = method + b" " + self._target + b" HTTP/" + self._parser.get_http_version().encode()
        head = b"\r\n".join((line, *(name + b": " + value for name, value in kept)))
        self._parser = httptools.HttpRequestParser(self)
        self.data_received(head + b"\r\n\r\n" + rest)

    # --- the parser ------------------------------------------------------------------------

    def _begin(self) -> None:
        self._target = b""
        self._headers: Headers = []
        self._body: list[bytes] = []
        self._size = 0
        self._head = 0
        self._headed = False

    def on_message_begin(self) -> None:
        self._begin()
        self._head = 1

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self._headed = True
        for name, value in self._headers:
            if name == b"expect" and value.lower() == b"100-continue":
                self.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            elif name == b"content-length" and int(value) > MAX_BODY:
                self._too_large()

    def on_body(self, body: bytes) -> None:
        self._size += len(body)
        if self._size > MAX_BODY:
            self._too_large()
        elif not self._closing:
            self._body.append(body)

    def on_message_complete(self) -> None:
        if self._closing or self._parser.should_upgrade():
            return
        request = Request(
            self._parser.get_method(),
            self._target,
            self._headers,
            b"".join(self._body),
            self._parser.should_keep_alive(),
            self._parser.get_http_version() != "1.0",
        )
        self._begin()
        if len(self._waiting) >= PIPELINED:
            self._refuse(429, "too-many-requests", "one request after the other, please")
            return
        self._waiting.append(request)
        if self._task is None:
            self._task = self._loop.create_task(self._work())

    async def _work(self) -> None:
        try:
            while self._waiting:
                request = self._waiting.popleft()
                await self._answer(self, request)
                if not request.keep_alive:
                    self.close()
                    return
        finally:
            self._task = None
            self.since = self._loop.time()

    def _too_large(self) -> None:
        self._refuse(413, "too-large", f"the request has more than {MAX_BODY:,} bytes")

    def _refuse(self, status: int, code: str, message: str) -> None:
        """What is wrong with the connection itself ends it."""
        if self._task is None and not self._closing:
            error = {"error": {"code": code, "message": message, "hint": ""}}
            self.write(document(status, error, (b"connection", b"close")))
        self._closing = True
        self.close()

    # --- for whoever answers ---------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Send; never waits (see `drained`)."""
        if self._transport is not None:
            self._transport.write(data)

    def write_many(self, pieces: list[bytes]) -> None:
        if self._transport is not None:
            self._transport.writelines(pieces)

    async def answered(self) -> None:
        """Until nobody is at work for this client."""
        if self._task is not None:
            await asyncio.wait({self._task})

    async def drained(self) -> None:
        """Until the client has taken most of what was written."""
        if self._writable is not None:
            await self._writable

    def close(self) -> None:
        """After what is written."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """At once: an answer that cannot be finished must not look finished."""
        if self._transport is not None:
            with contextlib.suppress(OSError):
                self._transport.abort()


def _nothing() -> None:
    """Nobody waits."""
