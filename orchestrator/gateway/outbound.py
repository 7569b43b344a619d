"""Connections to instances: one request, one answer; kept for the next where both sides agree."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import deque
from collections.abc import Callable
from functools import cache
from typing import cast

import httptools
from msgspec import Struct, field

from orchestrator.core.origin import is_address, is_loopback
from orchestrator.gateway.message import Headers

KEPT = 4
"""Idle connections that are kept to one address. An engine gives each a thread of its own, of which
it has some more than slots."""

KEPT_FOR = 2.0
"""Seconds: less than the 5 s after which llama-server closes an idle one."""

MAX_HEAD = 256 << 10
"""Bytes of the head of an answer, and of what is between the pieces of its body."""

CONNECT = 5.0
"""Seconds to connect: it is this machine, or a server that is in trouble."""

UNHEARD = 60
"""Seconds after which a server elsewhere that gives no sign of life is lost: a line that is cut,
or a machine that has lost its power, closes no connection."""

Address = tuple[str, int]

Key = tuple[str, int, bool, bool]
"""An address, whether it is spoken to in TLS, and whether its certificate is looked at."""


class LostError(Exception):
    """The instance closed the connection, or answered what is no HTTP. `sent` is False where it has
    seen nothing of the request."""

    def __init__(self, message: str, *, sent: bool = True) -> None:
        super().__init__(message)
        self.sent = sent


class Head(Struct):
    """The beginning of an answer."""

    status: int
    headers: Headers

    def header(self, name: bytes) -> bytes:
        return next((value for key, value in self.headers if key == name), b"")


class Outbound(asyncio.Protocol):
    """One connection. Between `ask` and the end of the answer it belongs to one exchange."""

    # There are thousands of them.
    __slots__ = (
        "_begun",
        "_bodiless",
        "_busy",
        "_early",
        "_end",
        "_framed",
        "_head",
        "_headers",
        "_loop",
        "_on_body",
        "_parser",
        "_transport",
        "_unheeded",
        "idle_since",
        "reusable",
        "used",
    )

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self.used = False
        """It has carried an answer: the instance may have closed it in the very moment."""
        self.idle_since = 0.0
        self.reusable = False
        self._head: asyncio.Future[Head] | None = None
        """Of an answer whose head is not there yet."""
        self._end: asyncio.Future[None] = self._loop.create_future()
        self._begun: asyncio.Future[None] | None = None
        self._on_body: Callable[[bytes], None] | None = None
        self._early: list[bytes] | None = None
        self._busy = False
        self._bodiless = False
        self._framed = False
        self._unheeded = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        peer = transport.get_extra_info("peername")
        if peer and not is_loopback(str(peer[0])):
            _watch(transport.get_extra_info("socket"))

    @property
    def alive(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def ask(self, data: bytes) -> asyncio.Future[Head]:
        """Send a request; the head of its answer. Raises `LostError` there."""
        self._parser = httptools.HttpResponseParser(self)
        head = self._head = self._loop.create_future()
        self._end = self._loop.create_future()
        self._headers: Headers = []
        self._on_body = None
        self._early = None
        self._busy = True
        # Its answer has a length and no body, which the parser does not know.
        self._bodiless = data.startswith(b"HEAD ")
        self._unheeded = 0
        self.reusable = False
        if self._transport is None:
            self._fail(LostError("the connection is closed"))
        else:
            self._transport.write(data)
        return head

    async def begun(self) -> None:
        """Until something of the body is there, or its end. Raises `LostError`."""
        if self._early or self._end.done():
            return
        self._begun = self._loop.create_future()
        try:
            await asyncio.wait({self._begun, self._end}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._begun = None
        if self._end.done():
            self._end.result()

    def relay(self, on_body: Callable[[bytes], None]) -> asyncio.Future[None]:
        """Hand over the body as it comes; done at its end. Raises `LostError` there."""
        self._on_body = on_body
        early, self._early = self._early, None
        for piece in early or ():
            on_body(piece)
        return self._end

    def pause(self) -> None:
        """Let the instance wait: the client does not take what it says."""
        if self._transport is not None and self._busy:
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._transport is not None:
            self._transport.resume_reading()

    def close(self) -> None:
        """At once: an instance that generates for this connection ends it."""
        self._busy = False
        if self._transport is not None:
            self._transport.abort()

    # --- the transport and the parser ------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if not self._busy:
            # Nobody has asked: whatever that is, it is no answer to the next question.
            self.close()
            return
        self._unheeded += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(LostError(f"its answer is no HTTP: {error}"))
            self.close()
        if self._unheeded > MAX_HEAD and self._busy:
            self._fail(LostError("its answer has no end of a head"))
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._busy and self._head is None and exc is None and not self._framed:
            # Without a length, the end of the connection is the end of the answer.
            self._done()
        self._fail(LostError("the connection was closed"))

    def _fail(self, error: LostError) -> None:
        self._busy = False
        for future in (self._head, self._end):
            if future is not None and not future.done():
                future.set_exception(error)
                # Whoever gave up before is not told once more.
                future.exception()

    def on_message_begin(self) -> None:
        if not self._busy:
            # One question, one answer: what comes behind it was not asked for.
            self.close()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._head is not None:
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 100:
            # No client could read it.
            self._fail(LostError(f"its answer is no HTTP: its status is {status}"))
            self.close()
        elif status < 200:
            self._headers = []
        elif self._busy and self._head is not None:
            names = {name for name, _ in self._headers}
            self._framed = b"content-length" in names or b"transfer-encoding" in names
            if not self._head.done():
                self._head.set_result(Head(status, self._headers))
            self._head = None
            if self._bodiless:
                self._done()

    def on_body(self, body: bytes) -> None:
        self._unheeded = 0
        if not self._busy:
            return
        if self._on_body is not None:
            self._on_body(body)
        else:
            self._early = self._early or []
            self._early.append(body)
            if self._begun is not None and not self._begun.done():
                self._begun.set_result(None)

    def on_message_complete(self) -> None:
        if self._busy and self._head is None:
            # An answer to half a question: the other half would be taken for the next one.
            whole = self._transport is not None and not self._transport.get_write_buffer_size()
            self.reusable = whole and self.alive and self._parser.should_keep_alive()
            self._done()

    def _done(self) -> None:
        self._busy = False
        self.used = True
        self.resume()
        if not self._end.done():
            self._end.set_result(None)


class Pool(Struct):
    """The connections that are open and idle, by address."""

    _idle: dict[Key, deque[Outbound]] = field(default_factory=dict[Key, deque[Outbound]])

    async def connect(
        self, address: Address, *, tls: bool = False, verified: bool = False, fresh: bool = False
    ) -> Outbound:
        """A connection, kept or new; `verified`: to whom its certificate says. Raises `LostError`
        when there is none to be had."""
        loop = asyncio.get_running_loop()
        idle = self._idle.get((*address, tls, verified))
        while idle and not fresh:
            kept = idle.pop()
            if kept.alive and loop.time() - kept.idle_since < KEPT_FOR:
                return kept
            kept.close()
        try:
            async with asyncio.timeout(CONNECT):
                made = await _connected(address, tls=tls, verified=verified)
        except (OSError, TimeoutError, ssl.SSLError) as error:
            why = str(error) or "not in time"
            message = f"nothing answers at {address[0]}:{address[1]}: {why}"
            raise LostError(message, sent=False) from error
        return made

    def give_back(
        self, address: Address, used: Outbound, *, tls: bool = False, verified: bool = False
    ) -> None:
        """Keep it for the next request, if it can be."""
        idle = self._idle.setdefault((*address, tls, verified), deque())
        if not used.reusable or len(idle) >= KEPT:
            used.close()
            return
        used.idle_since = asyncio.get_running_loop().time()
        idle.append(used)

    def close(self) -> None:
        for idle in self._idle.values():
            for one in idle:
                one.close()
        self._idle.clear()


async def _connected(address: Address, *, tls: bool, verified: bool) -> Outbound:
    loop = asyncio.get_running_loop()
    if tls or not _is_address(address[0]):
        context = (_checked() if verified else _unchecked()) if tls else None
        return (await loop.create_connection(Outbound, *address, ssl=context))[1]
    # The shorter way to the same: nothing is to be looked up, and on this machine it takes no time.
    sock = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
    try:
        sock.setblocking(False)
        await loop.sock_connect(sock, address)
        return (await loop.create_connection(Outbound, sock=sock))[1]
    except BaseException:
        sock.close()
        raise


def _watch(sock: socket.socket) -> None:
    """Have the system notice that the other side is out of reach, whoever is to speak next."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, UNHEARD // 2)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, UNHEARD // 6)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNHEARD * 1000)


@cache
def _is_address(host: str) -> bool:
    return is_address(host)


@cache
def _checked() -> ssl.SSLContext:
    """By the authorities that this machine knows, or those that SSL_CERT_FILE names."""
    return ssl.create_default_context()


@cache
def _unchecked() -> ssl.SSLContext:
    """An instance of ours has a certificate of its user's making: that it is ours is known by its
    process, not by a signature."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
