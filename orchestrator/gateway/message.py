"""HTTP/1.1 messages as both sides see them, and the headers that end at each hop."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache
from http import HTTPStatus

from msgspec import Struct

Headers = list[tuple[bytes, bytes]]
"""As they came, in order; names in lower case."""

HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"content-length",
        b"expect",
    }
)
"""Headers that are of one connection, or of its framing, which each side does anew."""

NOT_SENT = HOP_BY_HOP | {b"host", b"origin", b"cookie", b"authorization", b"x-api-key"}
"""Headers of a request that are for the gateway alone. Cookies are of all servers on this machine,
and who may ask from which page was looked at already."""

_USUAL = (b"keep-alive", b"close")
"""What `Connection` says, where it names no header that ends here."""

REMEMBERED = 16 << 10
"""Bytes of a body that are kept while it is answered, which may take hours."""


class Request(Struct):
    """A whole request of a client."""

    method: bytes
    target: bytes
    headers: Headers
    body: bytes
    keep_alive: bool
    chunked_is_known: bool
    """False for HTTP/1.0, where the end of the connection is the end of an answer."""
    path: str = ""
    """The target without its query."""
    _first: dict[bytes, bytes] = {}

    def __post_init__(self) -> None:
        self.path = self.target.partition(b"?")[0].decode("latin-1")
        self._first = dict(reversed(self.headers))

    def forget(self) -> None:
        """It is answered, and will not be sent any more: what is left of it is for the log."""
        self.headers.clear()
        self._first.clear()
        self.body = self.body[:REMEMBERED]

    def header(self, name: bytes) -> bytes:
        """The first of this name, in lower case; empty where there is none."""
        return self._first.get(name, b"")


def request_bytes(request: Request, *, target: bytes, host: bytes, more: Headers) -> bytes:
    """The request as an instance is to see it. `more` are headers in place of the client's; one
    without a value is left out."""
    left_out = NOT_SENT | {name for name, _ in more}
    named = b",".join(value for name, value in request.headers if name == b"connection").lower()
    if named and named not in _USUAL:
        left_out = left_out.union(name.strip() for name in named.split(b","))
    lines = [request.method + b" " + target + b" HTTP/1.1", b"host: " + host]
    lines += [name + b": " + value for name, value in request.headers if name not in left_out]
    lines += [name + b": " + value for name, value in more if value]
    if request.body or request.method in (b"POST", b"PUT", b"PATCH"):
        lines.append(b"content-length: %d" % len(request.body))
    return b"\r\n".join(lines) + b"\r\n\r\n" + request.body


def without_offer(request: Request) -> bytes:
    """The head of a request that offers to speak another protocol, without the offer."""
    version = b"1.1" if request.chunked_is_known else b"1.0"
    lines = [b"%b %b HTTP/%b" % (request.method, request.target, version)]
    offer = (b"upgrade", b"connection", b"http2-settings")
    lines += [b"%b: %b" % one for one in request.headers if one[0] not in offer]
    if not request.keep_alive:
        lines.append(b"connection: close")
    return b"\r\n".join(lines) + b"\r\n\r\n"


def head_bytes(status: int, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The head of an answer."""
    lines = [_status_line(status)]
    lines += [name + b": " + value for name, value in headers]
    return b"\r\n".join(lines) + b"\r\n\r\n"


@cache
def _status_line(status: int) -> bytes:
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = "-"
    return b"HTTP/1.1 %d %s" % (status, phrase.encode("ascii"))


def marked(answer: bytes, more: Headers) -> bytes:
    """An answer, or its head, with more headers."""
    line, _, rest = answer.partition(b"\r\n")
    added = b"".join(b"%b: %b\r\n" % one for one in more)
    return line + b"\r\n" + added + rest


def document(status: int, body: object, *more: tuple[bytes, bytes]) -> bytes:
    """A whole answer of our own, as JSON."""
    raw = json.dumps(body, separators=(",", ":")).encode("ascii")
    return _whole(status, b"application/json", raw, more)


def text(status: int, body: str, *more: tuple[bytes, bytes]) -> bytes:
    """A whole answer of our own, as plain text."""
    return _whole(status, b"text/plain; charset=utf-8", body.encode(), more)


def _whole(status: int, kind: bytes, raw: bytes, more: Iterable[tuple[bytes, bytes]]) -> bytes:
    length: Headers = [] if status == 204 else [(b"content-length", b"%d" % len(raw))]
    return head_bytes(status, [(b"content-type", kind), *length, *more]) + raw
