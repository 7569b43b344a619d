"""A client's connection: whole requests in, an answer out, one after the other."""

from __future__ import annotations

import asyncio
import contextlib
import traceback
from collections import deque
from collections.abc import Callable
from typing import Protocol, cast

import httptools

from orchestrator.gateway import answers
from orchestrator.gateway.clients import Clients
from orchestrator.gateway.message import Headers, Request, marked, without_offer

MAX_HEAD = 64 << 10
MAX_HEADERS = 128
MAX_BODY = 64 << 20
"""Bytes of a request: pictures and sounds travel in JSON."""

PER_BYTE = 8
"""Bytes that a byte of a body may take on its way, in chunks of one byte each."""

WRITE_AHEAD = 256 << 10
"""Bytes that wait for a slow client before its instance is made to wait."""

PIPELINED = 16
"""Requests that a client may send before it has its answers."""

READS = 30.0
"""Seconds in which a request must be whole, and one more for each `SLOWEST` bytes of it."""

SLOWEST = 16 << 10

IDLE = 120.0
"""Seconds after which a connection that asks nothing is closed."""

STALLS = 60.0
"""Seconds for which a client may take nothing of what waits for it."""

LINGERS = 2.0
"""Seconds that a client gets to read why it was refused, while what it still sends is dropped:
closing at once would take the answer away from it."""


class Answers(Protocol):
    """Who answers."""

    def refusal(self, request: Request) -> bytes | None:
        """The last answer on a connection whose request is not let in; its body is not there."""
        ...

    async def answer(self, inbound: Inbound, request: Request) -> None:
        """Write the whole answer."""
        ...


class Inbound(asyncio.Protocol):
    """One of `clients`; what it asks is answered by `front`."""

    def __init__(self, front: Answers, clients: Clients) -> None:
        self._front = front
        self._clients = clients
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._waiting: deque[Request] = deque()
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self._retired = False
        self._last = b""
        self._as_it_is = b""
        self._writable: asyncio.Future[None] | None = None
        self._since = self._loop.time()
        self._full_since = 0.0
        self._held = 0
        self._silent = True
        self._bodiless = False
        self.on_writable: Callable[[], None] = _nothing
        self.peer = ""
        """The client's address."""
        self._begin()
        self._arrived = 0

    @property
    def gone(self) -> bool:
        """The client has left: what is written goes nowhere."""
        return self._transport is None or self._transport.is_closing()

    @property
    def full(self) -> bool:
        """More is written than the client takes; `on_writable` is called when that has passed."""
        return self._writable is not None

    def look(self, now: float) -> None:
        """Close what is slow on purpose, or asleep."""
        stalls = self._writable is not None and now - self._full_since > STALLS
        if stalls or (self._task is None and now - self._since > self._limit()):
            self.abort()

    def _limit(self) -> float:
        if self._closing:
            return STALLS
        return READS + self._arrived / SLOWEST if self._arrived else IDLE

    # --- the transport ---------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=WRITE_AHEAD)
        self.peer = str((transport.get_extra_info("peername") or [""])[0])
        if not self._clients.admit(self):
            message, hint = "there are too many connections", "try again later"
            self._closing = True
            self.say(answers.error("openai", 503, "overloaded", message, hint))
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 (its name is asyncio's)
        self._clients.leave(self)
        self._transport = None
        self._waiting.clear()
        self._begin()
        self._release(self._held)
        self.resume_writing()
        if self._task is not None:
            # Whoever generates for nobody is stopped: its connection is closed with the task.
            self._task.cancel()

    def pause_writing(self) -> None:
        self._writable = self._loop.create_future()
        self._full_since = self._loop.time()

    def resume_writing(self) -> None:
        waiter, self._writable = self._writable, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
        self.on_writable()

    def data_received(self, data: bytes) -> None:
        self._arrived += len(data)
        while data and not self._closing:
            try:
                self._parser.feed_data(data)
                break
            except httptools.HttpParserUpgrade as upgrade:
                # The parser leaves the rest to whoever is to be spoken instead. Nobody is.
                data = self._as_it_is + data[upgrade.args[0] :]
                self._as_it_is = b""
            except httptools.HttpParserError as error:
                self._refuse(400, "bad-request", f"this is no HTTP/1.1 request: {error}")
        framing = self._arrived - self._size * (1 + PER_BYTE)
        if framing > MAX_HEAD and not self._closing:
            self._refuse(431, "too-large", _HEAD_TOO_LARGE)

    # --- the parser ------------------------------------------------------------------------

    def _begin(self) -> None:
        self._target = b""
        self._headers: Headers = []
        self._asked: Request | None = None
        self._headed = False
        self._body: bytes | bytearray = b""
        self._size = 0

    def on_message_begin(self) -> None:
        self._begin()
        if self._task is None:
            self._since = self._loop.time()

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._headed or self._closing:
            # What comes behind a body is for nobody.
            return
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        if self._closing:
            return
        self._headed = True
        size = len(self._target) + sum(len(name) + len(value) for name, value in self._headers)
        if size > MAX_HEAD or len(self._headers) > MAX_HEADERS:
            self._refuse(431, "too-large", _HEAD_TOO_LARGE)
            return
        request = self._request()
        if self._parser.should_upgrade() and not _insists(request):
            # It would rather speak otherwise, as clients of Java would, and need not.
            self._as_it_is = without_offer(request)
            return
        if refusal := self._front.refusal(request):
            self._refuse_with(refusal)
            return
        self._asked = request
        length = request.header(b"content-length")
        if length:
            self._expect(int(length))
        expects = request.header(b"expect").lower() == b"100-continue"
        # In the middle of another answer it cannot be said: the client goes on by itself.
        if expects and not self._closing and self._task is None:
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        if self._closing:
            return
        self._expect(self._size + len(body))
        if self._closing:
            return
        self._size += len(body)
        self._held += len(body)
        self._clients.held += len(body)
        if not self._body:
            self._body = body
        else:
            if isinstance(self._body, bytes):
                self._body = bytearray(self._body)
            self._body += body

    def on_message_complete(self) -> None:
        if self._closing or self._as_it_is or self._asked is None:
            return
        request = self._asked
        request.body = bytes(self._body)
        self._begin()
        self._arrived = 0
        if len(self._waiting) >= PIPELINED:
            self._refuse(429, "too-many-requests", "one request after the other, please")
            return
        self._waiting.append(request)
        if self._task is None:
            self._task = self._loop.create_task(self._work())

    def _request(self) -> Request:
        """What its head says."""
        modern = self._parser.get_http_version() != "1.0"
        return Request(
            self._parser.get_method(),
            self._target,
            self._headers,
            b"",
            # A client of HTTP/1.0 would have to be told that its connection is kept.
            modern and self._parser.should_keep_alive(),
            modern,
        )

    def _expect(self, size: int) -> None:
        """Refuse a body of so many bytes, if it is too large; there may be no room for it now."""
        if size > MAX_BODY:
            message = f"the request has more than {MAX_BODY:,} bytes"
            self._refuse(413, "too-large", message)
        elif self._clients.held + size - self._size > self._clients.most_held:
            message = "the requests under way are too large together"
            self._refuse(503, "overloaded", message, "try again later")

    # --- the answers -----------------------------------------------------------------------

    async def _work(self) -> None:
        try:
            while self._waiting:
                request = self._waiting.popleft()
                await self._one(request)
                if not request.keep_alive or self._retired:
                    self._closing = True
                    self.close()
                    return
                # An answer that is not taken is the last that waits.
                await self.drained()
        finally:
            self._task = None
            self._since = self._loop.time()
        if self._last:
            self._part()

    async def _one(self, request: Request) -> None:
        self._silent, self._bodiless = True, request.method == b"HEAD"
        try:
            await self._front.answer(self, request)
        except asyncio.CancelledError:
            if self._silent and not self.gone:
                protocol, again = answers.protocol_of(request), (b"retry-after", b"1")
                message = "the gateway ends before this was answered"
                self.say(answers.error(protocol, 503, "ended", message, "try again", again))
            raise
        except Exception as error:  # noqa: BLE001 - a task boundary: the bug is told
            traceback.print_exception(error)
            if not self._silent:
                self.abort()
                return
            request.keep_alive = False
            message = f"the gateway has a bug: {error!r}"
            self.say(answers.error(answers.protocol_of(request), 500, "bug", message))
        finally:
            self._release(len(request.body))

    def _release(self, size: int) -> None:
        size = min(size, self._held)
        self._held -= size
        self._clients.held -= size

    def _refuse(self, status: int, code: str, message: str, hint: str = "") -> None:
        protocol = answers.protocol_of(self._request())
        self._refuse_with(answers.error(protocol, status, code, message, hint))

    def _refuse_with(self, answer: bytes) -> None:
        """What is wrong with the connection itself ends it, once what was asked is answered."""
        if self._closing:
            return
        self._closing = True
        self._last = marked(answer, [(b"connection", b"close")])
        self._release(self._size)
        self._begin()
        if self._task is None:
            self._part()

    def _part(self) -> None:
        """Say the last word, and let the client read it."""
        self._bodiless = False
        self.say(self._last)
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write_eof()
            self._loop.call_later(LINGERS, self.abort)

    # --- for whoever answers ---------------------------------------------------------------

    def say(self, answer: bytes) -> None:
        """Send the beginning of an answer, or the whole of one that is there already: then no body
        goes to a client that wants none."""
        if self._bodiless:
            answer = answer[: answer.index(b"\r\n\r\n") + 4]
        self.write(answer)

    def write(self, data: bytes) -> None:
        """Send; never waits (see `drained`)."""
        self._silent = False
        if self._transport is not None:
            self._transport.write(data)

    def write_many(self, pieces: list[bytes]) -> None:
        if self._transport is not None:
            self._transport.writelines(pieces)

    async def retire(self) -> None:
        """Take no request any more, and wait for the answer to what is under way."""
        self._retired = True
        if self._task is None:
            self._closing = True
            self.close()
        else:
            await asyncio.wait({self._task})

    async def drained(self) -> None:
        """Until the client has taken most of what was written."""
        if self._writable is not None:
            await self._writable

    async def end(self) -> None:
        """Break off what is under way, which tells the client, and close."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        self.close()

    def close(self) -> None:
        """After what is written."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """At once: an answer that cannot be finished must not look finished."""
        if self._transport is not None:
            with contextlib.suppress(OSError):
                self._transport.abort()


def _insists(request: Request) -> bool:
    """Whether another protocol is not offered, but needed."""
    return request.method == b"CONNECT" or request.header(b"upgrade").lower() == b"websocket"


_HEAD_TOO_LARGE = f"the head has more than {MAX_HEAD:,} bytes, or {MAX_HEADERS} headers"


def _nothing() -> None:
    """Nobody waits."""
