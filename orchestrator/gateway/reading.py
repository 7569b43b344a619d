"""Whole requests out of the bytes of one client, in bounds."""

from __future__ import annotations

from typing import Protocol

import httptools

from orchestrator.gateway import answers
from orchestrator.gateway.clients import Clients
from orchestrator.gateway.message import Headers, Request, without_offer

MAX_HEAD = 64 << 10
MAX_HEADERS = 128
MAX_BODY = 64 << 20
"""Bytes of a request: pictures and sounds travel in JSON."""

PER_BYTE = 8
"""Bytes that a byte of a body may take on its way, in chunks of one byte each."""


class Reader(Protocol):
    """Whose requests they are."""

    @property
    def closing(self) -> bool:
        """Nothing is read any more."""
        ...

    def begun(self) -> None:
        """The first byte of a request is there."""
        ...

    def refusal(self, request: Request) -> bytes | None:
        """The last answer to a request that is not let in; its body is not there."""
        ...

    def go_on(self) -> None:
        """The client asks whether it may send the body."""
        ...

    def take(self, request: Request) -> None:
        """A request is whole."""
        ...

    def refuse(self, answer: bytes) -> None:
        """What has come is no request: this is the last answer."""
        ...


class Reading:
    """Fed with what comes. Of the requests, the bytes of their bodies are counted as held by the
    `clients`; whoever takes one gives them back."""

    # There are thousands of them.
    __slots__ = (
        "_as_it_is",
        "_asked",
        "_body",
        "_clients",
        "_headed",
        "_headers",
        "_parser",
        "_reader",
        "_target",
        "arrived",
        "idle",
        "size",
    )

    def __init__(self, reader: Reader, clients: Clients) -> None:
        self._reader = reader
        self._clients = clients
        self._parser = httptools.HttpRequestParser(self)
        self._as_it_is = b""
        self.arrived = 0
        """Bytes since the last whole request."""
        self.idle = True
        """No part of a request is there."""
        self._begin()

    def feed(self, data: bytes) -> None:
        """Some more has come."""
        self.arrived += len(data)
        while data and not self._reader.closing:
            try:
                self._parser.feed_data(data)
                break
            except httptools.HttpParserUpgrade as upgrade:
                # The parser leaves the rest to whoever is to be spoken instead. Nobody is.
                data = self._as_it_is + data[upgrade.args[0] :]
                self._as_it_is = b""
            except httptools.HttpParserError as error:
                self._refuse(400, "bad-request", f"this is no HTTP/1.1 request: {error}")
        if self.arrived - self.size * (1 + PER_BYTE) > MAX_HEAD and not self._reader.closing:
            self._refuse(431, "too-large", _HEAD_TOO_LARGE)

    def give_up(self) -> None:
        """What is there of a request is not needed."""
        self._clients.held -= self.size
        self._begin()

    # --- the parser ------------------------------------------------------------------------

    def _begin(self) -> None:
        self._target = b""
        self._headers: Headers = []
        self._asked: Request | None = None
        self._headed = False
        self._body: bytes | bytearray = b""
        self.size = 0
        """Bytes of the body so far."""

    def on_message_begin(self) -> None:
        self._begin()
        self.idle = False
        self._reader.begun()

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        # What comes behind a body is for nobody.
        if not self._headed:
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        if self._reader.closing:
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
        if refusal := self._reader.refusal(request):
            self._reader.refuse(refusal)
            return
        self._asked = request
        if length := request.header(b"content-length"):
            self._expect(int(length))
        if request.header(b"expect").lower() == b"100-continue" and not self._reader.closing:
            self._reader.go_on()

    def on_body(self, body: bytes) -> None:
        if self._reader.closing:
            return
        self._expect(self.size + len(body))
        if self._reader.closing:
            return
        self.size += len(body)
        self._clients.held += len(body)
        if not self._body:
            self._body = body
        else:
            if isinstance(self._body, bytes):
                self._body = bytearray(self._body)
            self._body += body

    def on_message_complete(self) -> None:
        if self._reader.closing or self._as_it_is or self._asked is None:
            return
        request = self._asked
        request.body = bytes(self._body)
        self._begin()
        self.arrived, self.idle = 0, True
        self._reader.take(request)

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
        elif self._clients.held + size - self.size > self._clients.most_held:
            message = "the requests under way are too large together"
            self._refuse(503, "overloaded", message, "try again later")

    def _refuse(self, status: int, code: str, message: str, hint: str = "") -> None:
        protocol = answers.protocol_of(self._request())
        self._reader.refuse(answers.error(protocol, status, code, message, hint))


def _insists(request: Request) -> bool:
    """Whether another protocol is not offered, but needed."""
    return request.method == b"CONNECT" or request.header(b"upgrade").lower() == b"websocket"


_HEAD_TOO_LARGE = f"the head has more than {MAX_HEAD:,} bytes, or {MAX_HEADERS} headers"
