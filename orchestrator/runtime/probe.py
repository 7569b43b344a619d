"""Asks an instance over HTTP whether it is well, cheaply enough to ask every 10 ms.

One kept connection per instance and a few hundred bytes each time: with a full client, dozens of
instances polled while they load would eat the cores that they load on.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable, Mapping
from functools import cache
from typing import Self

from msgspec import Struct

from orchestrator.core.spec import Endpoint

MAX_ANSWER = 1 << 20
MAX_HEAD = 1 << 16

_UNWELL = (OSError, ValueError, EOFError)
"""No connection, no answer in time, or none that is HTTP."""


class HttpProbe:
    """A kept connection to one endpoint. Not for concurrent use; close it when done."""

    def __init__(self, endpoint: Endpoint, path: str) -> None:
        self._endpoint = endpoint
        self._request = (
            f"GET {endpoint.prefix}{path} HTTP/1.1\r\n"
            f"Host: {endpoint.authority}\r\n"
            "User-Agent: orchestrate\r\nAccept: */*\r\n\r\n"
        ).encode()
        self._kept: _Plain | _Streams | None = None

    async def status(self, *, within: float) -> int | None:
        """The HTTP status, or None when nobody answers within so many seconds."""
        try:
            async with asyncio.timeout(within):
                kept = self._kept is not None
                try:
                    return await self._ask()
                except _UNWELL:
                    await self.close()
                    if not kept:
                        return None
                # A kept connection may just have been closed for its age: that says nothing.
                return await self._ask()
        except _UNWELL:
            await self.close()
            return None

    async def _ask(self) -> int:
        if self._kept is None:
            self._kept = await _connection(self._endpoint)
        connection = self._kept
        await connection.send(self._request)
        answer = b""
        while b"\r\n\r\n" not in answer:
            if len(answer) > MAX_HEAD:
                raise ValueError("an endless head")
            answer += await connection.receive()
        head, _, body = answer.partition(b"\r\n\r\n")
        status = _status(head)
        length = _content_length(head)
        if length is None or length > MAX_ANSWER or b"connection: close" in head.lower():
            await self.close()
            return status
        missing = length - len(body)
        while missing > 0:
            missing -= len(await connection.receive())
        if missing < 0:
            # More than was announced: the next answer would begin with it.
            await self.close()
        return status

    async def close(self) -> None:
        """Drop the connection; the next question opens another."""
        if self._kept is not None:
            connection = self._kept
            self._kept = None
            await connection.close()


class Answer(Struct, frozen=True):
    """An HTTP answer, whole."""

    status: int
    body: bytes


async def ask(
    endpoint: Endpoint,
    method: str,
    path: str,
    *,
    within: float | None,
    body: str = "",
    headers: Mapping[str, str] | None = None,
    limit: int = MAX_ANSWER,
) -> Answer | None:
    """One question over a connection of its own; None when nobody answers within so many seconds
    (`within` None: when the connection breaks). Not much more than `limit` bytes are read.

    Asked in HTTP/1.0, so that the answer is neither in pieces nor left open.
    """
    content = body.encode()
    lines = [
        f"{method} {endpoint.prefix}{path} HTTP/1.0",
        f"Host: {endpoint.authority}",
        "User-Agent: orchestrate",
        f"Content-Length: {len(content)}",
        *(f"{name}: {value}" for name, value in (headers or {}).items()),
    ]
    if content:
        lines.append("Content-Type: application/json")
    request = "\r\n".join(lines).encode() + b"\r\n\r\n" + content
    try:
        async with asyncio.timeout(within):
            return await _exchange(endpoint, request, limit)
    except _UNWELL:
        return None


async def _exchange(endpoint: Endpoint, request: bytes, limit: int) -> Answer:
    connection = await _connection(endpoint)
    try:
        await connection.send(request)
        answer = b""
        with contextlib.suppress(EOFError):
            while len(answer) <= MAX_HEAD + limit:
                answer += await connection.receive()
                head, _, body = answer.partition(b"\r\n\r\n")
                length = _content_length(head) if body else None
                if length is not None and len(body) >= length:
                    break
    finally:
        await connection.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    return Answer(_status(head), body)


async def _connection(endpoint: Endpoint) -> _Plain | _Streams:
    host, port = endpoint.connect_host, endpoint.port
    if endpoint.scheme == "http" and _is_address(host):
        return _Plain.to(host, port)
    context = _unverified() if endpoint.scheme == "https" else None
    return _Streams(*await asyncio.open_connection(host, port, ssl=context))


class _Plain:
    """A bare socket: a quarter of the price of a stream.

    What can be done at once is not waited for: on this machine a connection is made, or refused,
    by the time that it was asked for.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._loop = asyncio.get_running_loop()

    @classmethod
    def to(cls, host: str, port: int) -> Self:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            # One that is still being made is waited for with what is sent over it.
            with contextlib.suppress(BlockingIOError):
                sock.connect((host, port))
            return cls(sock)
        except BaseException:
            sock.close()
            raise

    async def send(self, data: bytes) -> None:
        while data:
            try:
                data = data[self._sock.send(data) :]
            except BlockingIOError:
                await self._until(self._loop.add_writer, self._loop.remove_writer)

    async def receive(self) -> bytes:
        """Some bytes. Raises EOFError when there are no more."""
        while True:
            await self._until(self._loop.add_reader, self._loop.remove_reader)
            with contextlib.suppress(BlockingIOError):
                return _some(self._sock.recv(1 << 16))

    async def _until(self, look: Callable[..., None], leave: Callable[[int], bool]) -> None:
        descriptor, turned = self._sock.fileno(), self._loop.create_future()
        look(descriptor, _settle, turned)
        try:
            await turned
        finally:
            leave(descriptor)

    async def close(self) -> None:
        self._sock.close()


def _settle(turned: asyncio.Future[None]) -> None:
    if not turned.done():
        turned.set_result(None)


class _Streams:
    """For TLS, and for names, which may have several addresses."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def receive(self) -> bytes:
        """Some bytes. Raises EOFError when there are no more."""
        return _some(await self._reader.read(1 << 16))

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(OSError, TimeoutError, ssl.SSLError):
            async with asyncio.timeout(1):
                await self._writer.wait_closed()


def _some(data: bytes) -> bytes:
    if not data:
        raise EOFError("the connection was closed")
    return data


def _is_address(host: str) -> bool:
    return ":" in host or host.replace(".", "").isdigit()


def _status(head: bytes) -> int:
    """Raises ValueError when this is not HTTP."""
    words = head.partition(b"\r\n")[0].split()
    if len(words) < 2 or not words[0].startswith(b"HTTP/"):
        raise ValueError("not an HTTP status line")
    return int(words[1])


def _content_length(head: bytes) -> int | None:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            length = int(value)
            if length < 0:
                raise ValueError("a negative length")
            return length
    return None


@cache
def _unverified() -> ssl.SSLContext:
    """TLS without verification: whose socket it is was established by the kernel, not by a name."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
