"""Who is let in: looked at when the head of a request is there, before any of its body is.

Without a token, whoever reaches the port may ask; so a web page must not, for which a browser asks
in the name of its user. A page of another site has an `Origin` that is not ours; one that gives its
own name our address asks for a `Host` that is not ours. With a token there is nothing to steal by
that, and only pages are held to their origin.
"""

from __future__ import annotations

import hmac
import socket
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import NamedTuple

from orchestrator.core.origin import FOREIGN, host_of, is_address, netloc_of
from orchestrator.gateway.message import Headers, Request

OURS = (".localhost", ".internal")
"""Ends of names that no stranger can have."""

KNOWN = 256
"""Values of `Host` that are remembered to be ours."""


class Refusal(NamedTuple):
    """An answer of its own: a status, a code, what is wrong, and what to do."""

    status: int
    code: str
    message: str
    hint: str = ""


@dataclass(slots=True)
class Door:
    """`hosts` are further names of this server, `origins` pages that may ask it; `*` is all."""

    token: str = ""
    hosts: Collection[str] = ()
    origins: Collection[str] = ()
    _names: set[str] = field(default_factory=lambda: _own_names())
    _known: set[bytes] = field(default_factory=set[bytes])

    def update(self, hosts: Collection[str], origins: Collection[str]) -> None:
        """Others are allowed from now on."""
        self.hosts = frozenset(host.lower() for host in hosts)
        self.origins = frozenset(origin.lower().rstrip("/") for origin in origins)
        self._known.clear()

    def refusal(self, request: Request, *, open_path: bool) -> Refusal | None:
        """Why this request is not let in; None for one that is. An open path needs no token."""
        return (
            _malformed(request)
            or self._wrong_host(request)
            or self._wrong_origin(request)
            or (None if open_path or is_preflight(request) else self._stranger(request))
        )

    def marks(self, request: Request) -> Headers:
        """What a browser must be told with the answer, that a page of another site may read it."""
        origin = request.header(b"origin")
        if not origin or not self._invited(origin.decode("latin-1")):
            return []
        marks = [
            (b"access-control-allow-origin", origin),
            (b"access-control-expose-headers", b"x-request-id, x-orchestrate-instance"),
            (b"vary", b"origin"),
        ]
        if is_preflight(request):
            asked = request.header(b"access-control-request-headers") or b"*"
            marks += [
                (b"access-control-allow-methods", b"GET, POST, DELETE, OPTIONS"),
                (b"access-control-allow-headers", asked),
                (b"access-control-max-age", b"600"),
            ]
            if request.header(b"access-control-request-private-network"):
                marks.append((b"access-control-allow-private-network", b"true"))
        return marks

    def _wrong_host(self, request: Request) -> Refusal | None:
        said = request.header(b"host")
        if not said or self.token or said in self._known:
            return None
        host = host_of(said.decode("latin-1"))
        if not self._is_ours(host):
            message = f"{said[:100].decode('latin-1')!r} is no name of this server"
            hint = "ask for an address or for localhost; 'gateway.hosts' allows for other names"
            return Refusal(403, "wrong-host", message, hint)
        if len(self._known) < KNOWN:
            self._known.add(said)
        return None

    def _is_ours(self, host: str) -> bool:
        """A name without a dot is nobody's in the world, and so are those of `OURS`."""
        if not host:
            return False
        own = "." not in host or host in self._names or host.endswith(OURS)
        return own or host in self.hosts or "*" in self.hosts or is_address(host)

    def _wrong_origin(self, request: Request) -> Refusal | None:
        origin = request.header(b"origin").decode("latin-1")
        if origin:
            theirs, own = netloc_of(origin), request.header(b"host").decode("latin-1").lower()
            return None if (theirs and theirs == own) or self._invited(origin) else _foreign(origin)
        site = request.header(b"sec-fetch-site").decode("latin-1")
        if site in FOREIGN and request.header(b"sec-fetch-mode") != b"navigate":
            return _foreign(site)
        return None

    def _invited(self, origin: str) -> bool:
        return "*" in self.origins or origin.lower() in self.origins

    def _stranger(self, request: Request) -> Refusal | None:
        if not self.token:
            return None
        bearer = request.header(b"authorization")
        given = bearer[7:] if bearer[:7].lower() == b"bearer " else request.header(b"x-api-key")
        if hmac.compare_digest(given.strip(), self.token.encode()):
            return None
        hint = "send it as `Authorization: Bearer ...`, or as `x-api-key`"
        return Refusal(401, "unauthorized", "no valid token", hint)


def is_preflight(request: Request) -> bool:
    """Whether a browser asks if a page may ask."""
    return request.method == b"OPTIONS" and bool(request.header(b"access-control-request-method"))


def _malformed(request: Request) -> Refusal | None:
    """What two servers could understand in two ways is understood in none."""
    if not request.target.startswith(b"/"):
        return Refusal(400, "bad-request", "the target of a request is a path")
    hosts = 0
    for name, value in request.headers:
        if name == b"host":
            hosts += 1
        elif name == b"transfer-encoding" and value.lower() != b"chunked":
            return Refusal(501, "bad-request", "a body is sent as it is, or in chunks")
    return Refusal(400, "bad-request", "two hosts are named") if hosts > 1 else None


def _foreign(who: str) -> Refusal:
    message = f"a page of {who[:100]!r} may not ask this server"
    return Refusal(403, "wrong-origin", message, "'gateway.origins' lists the pages that may")


def _own_names() -> set[str]:
    name = socket.gethostname().lower()
    return {name, f"{name}.local"}
