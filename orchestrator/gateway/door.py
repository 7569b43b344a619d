"""Who may ask: whoever has the token; without one, programs and pages of this machine. Pure.

Looked at when the head of a request is there, before any of its body is. A page of any site can
make a browser send requests to this machine, and can give its own name this machine's address. With
a token that leads nowhere. Without one, the name that is asked for must be one that no stranger can
have, and the page that asks must be one that this machine serves, or one that is invited.
"""

from __future__ import annotations

import hmac
from collections.abc import Collection
from typing import NamedTuple

from msgspec import Struct, field

from orchestrator.core.origin import host_of, is_address, is_loopback, netloc_of
from orchestrator.gateway.message import Headers, Request
from orchestrator.gateway.table import Token
from orchestrator.gateway.visitor import Visitor, by_name, owner, unnamed

_ENDINGS = (".localhost", ".local", ".internal", ".lan", ".home.arpa")
"""Names that nobody in the world can own."""

_PROGRAMS = frozenset({"app", "tauri", "vscode-webview", "vscode-file"})
"""Schemes of pages that come with a program that somebody installed."""

_SEEN = b"x-orchestrate-instance, x-request-id, retry-after"

_REMEMBERED = 256
"""Values of `Host` that are remembered to be ours."""


class Refused(NamedTuple):
    """Why somebody is not let in."""

    status: int
    code: str
    message: str
    hint: str = ""


class Door(Struct):
    """`token` is what clients must send, if anything, or one of `tokens`, which change with the
    table; `names` is what this machine is called.

    Without a token, `hosts` are further names to be asked by, and `origins` pages that may ask; `*`
    is all of them.
    """

    token: str = ""
    names: frozenset[str] = frozenset()
    hosts: frozenset[str] = frozenset()
    origins: frozenset[str] = frozenset()
    tokens: tuple[Token, ...] = ()
    _ours: set[bytes] = field(default_factory=set[bytes])

    @property
    def closed(self) -> bool:
        """Whether it takes a token to come in."""
        return bool(self.token or self.tokens)

    def update(self, hosts: Collection[str], origins: Collection[str]) -> None:
        """Others are allowed from now on."""
        self.hosts = frozenset(host.lower() for host in hosts)
        self.origins = frozenset(origin.lower().rstrip("/") for origin in origins)
        self._ours.clear()

    def refusal(self, request: Request, *, is_open: bool = False) -> Refused | None:
        """None for who may ask; an open path needs no token."""
        if refused := _malformed(request):
            return refused
        if not self.closed:
            return self._wrong_host(request) or self._wrong_origin(request)
        if is_open or is_preflight(request) or self._has_token(request):
            return None
        return _NO_TOKEN

    def marks(self, request: Request) -> Headers:
        """What tells the browser that its page may read the answer, if it may."""
        origin = request.header(b"origin")
        if not origin or not (self.closed or self._is_invited(origin.decode("latin-1"), request)):
            return []
        return [
            (b"access-control-allow-origin", origin),
            (b"access-control-expose-headers", _SEEN),
            (b"vary", b"origin"),
        ]

    def allowances(self, request: Request) -> Headers:
        """The rest of the answer to a browser that asks."""
        wanted = request.header(b"access-control-request-headers") or b"*"
        return [
            (b"access-control-allow-methods", b"GET, HEAD, POST, PUT, PATCH, DELETE"),
            (b"access-control-allow-headers", wanted),
            (b"access-control-allow-private-network", b"true"),
            (b"access-control-max-age", b"600"),
        ]

    def visitor(self, request: Request, peer: str) -> Visitor:
        """Who it is that may come in, from the address `peer`."""
        given = _credential(request)
        own = owner(given, self.tokens)
        if own is not None:
            return by_name(own, request)
        return unnamed(request, b"" if self.closed else given, peer)

    def _has_token(self, request: Request) -> bool:
        given = _credential(request)
        known = bool(self.token) and hmac.compare_digest(given, self.token.encode())
        return owner(given, self.tokens) is not None or known

    def _wrong_host(self, request: Request) -> Refused | None:
        said = request.header(b"host")
        if not said or said in self._ours:
            return None
        if not self._is_ours(host_of(said.decode("latin-1"))):
            shown = said.decode("latin-1")[:100]
            hint = "`hosts:` under `gateway:` lists further names; with a `token:` any will do"
            return Refused(403, "wrong-host", f"{shown!r} is no name of this machine", hint)
        if len(self._ours) < _REMEMBERED:
            self._ours.add(said)
        return None

    def _is_ours(self, host: str) -> bool:
        """A name without a dot is nobody's; an address cannot be given away, as a name can be made
        to mean any."""
        if not host:
            return False
        own = "." not in host or host in self.names or host.endswith(_ENDINGS)
        return own or host in self.hosts or "*" in self.hosts or is_address(host)

    def _wrong_origin(self, request: Request) -> Refused | None:
        origin = request.header(b"origin").decode("latin-1")
        if origin:
            return None if self._is_invited(origin, request) else _foreign(origin)
        site = request.header(b"sec-fetch-site").decode("latin-1")
        if site == "cross-site" and request.header(b"sec-fetch-mode") != b"navigate":
            return _foreign(site)
        return None

    def _is_invited(self, origin: str, request: Request) -> bool:
        """Whether it is a page of this machine: one that it serves, or one of an installed program;
        or one that was listed."""
        if origin.lower() in self.origins or "*" in self.origins:
            return True
        theirs = netloc_of(origin)
        if not theirs:
            return origin.partition(":")[0] in _PROGRAMS
        own = theirs == request.header(b"host").decode("latin-1").lower()
        return own or is_loopback(host_of(theirs))


_NO_TOKEN = Refused(
    401, "unauthorized", "no valid token", "send it as `Authorization: Bearer ...` or `x-api-key`"
)


def _credential(request: Request) -> bytes:
    bearer = request.header(b"authorization")
    given = bearer[7:] if bearer[:7].lower() == b"bearer " else request.header(b"x-api-key")
    return given.strip()


def is_preflight(request: Request) -> bool:
    """Whether a browser asks if a page may ask; it never sends a token with that."""
    return request.method == b"OPTIONS" and bool(request.header(b"access-control-request-method"))


def _malformed(request: Request) -> Refused | None:
    """What two servers could understand in two ways is understood in none."""
    if not request.target.startswith(b"/"):
        return Refused(400, "bad-request", "the target of a request is a path")
    coding = request.header(b"transfer-encoding")
    if coding and coding.lower() != b"chunked":
        return Refused(501, "bad-request", "a body is sent as it is, or in chunks")
    if sum(name == b"host" for name, _ in request.headers) > 1:
        return Refused(400, "bad-request", "two hosts are named")
    return None


def _foreign(who: str) -> Refused:
    hint = "`origins:` under `gateway:` lists pages that may; with a `token:`, whoever has it may"
    return Refused(403, "wrong-origin", f"a page of {who[:100]!r} may not ask", hint)
