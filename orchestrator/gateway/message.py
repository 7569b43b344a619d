"""HTTP/1.1 messages as both sides see them, and the headers that end at each hop."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from http import HTTPStatus

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


@dataclass(slots=True)
class Request:
    """A whole request of a client."""

    method: bytes
    target: bytes
    headers: Headers
    body: bytes
    keep_alive: bool
    chunked_is_known: bool
    """False for HTTP/1.0, where the end of the connection is the end of an answer."""

    @property
    def path(self) -> str:
        """Without its query."""
        return self.target.partition(b"?")[0].decode("latin-1")

    def header(self, name: bytes) -> bytes:
        """The first of this name, in lower case; empty where there is none."""
        return next((value for key, value in self.headers if key == name), b"")


def request_bytes(request: Request, *, target: bytes, host: bytes, more: Headers) -> bytes:
    """The request as an instance is to see it. `more` are headers in place of the client's; one
    without a value is left out."""
    replaced = {name for name, _ in more}
    lines = [request.method + b" " + target + b" HTTP/1.1", b"host: " + host]
    lines += [
        name + b": " + value
        for name, value in request.headers
        if name not in HOP_BY_HOP and name != b"host" and name not in replaced
    ]
    lines += [name + b": " + value for name, value in more if value]
    if request.body or request.method in (b"POST", b"PUT", b"PATCH"):
        lines.append(b"content-length: %d" % len(request.body))
    return b"\r\n".join(lines) + b"\r\n\r\n" + request.body


def head_bytes(status: int, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The head of an answer."""
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = "-"
    lines = [b"HTTP/1.1 %d %s" % (status, phrase.encode("ascii"))]
    lines += [name + b": " + value for name, value in headers]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def document(status: int, body: object, *more: tuple[bytes, bytes], empty: bool = False) -> bytes:
    """A whole answer of our own, as JSON; `empty` gives its head alone."""
    raw = json.dumps(body, separators=(",", ":")).encode("ascii")
    return _whole(status, b"application/json", raw, more, empty=empty)


def text(status: int, body: str, *more: tuple[bytes, bytes], empty: bool = False) -> bytes:
    """A whole answer of our own, as plain text."""
    return _whole(status, b"text/plain; charset=utf-8", body.encode(), more, empty=empty)


def _whole(
    status: int, kind: bytes, raw: bytes, more: Iterable[tuple[bytes, bytes]], *, empty: bool
) -> bytes:
    length: Headers = [] if status == 204 else [(b"content-length", b"%d" % len(raw))]
    head = head_bytes(status, [(b"content-type", kind), *length, *more])
    return head if empty else head + raw
