"""Who may ask: whoever has the token; without one, programs and pages of this machine. Pure.

A page of any site can make a browser send requests to this machine, and can give its own name this
machine's address. With a token that leads nowhere. Without one, the name that is asked for must be
one that only this machine has, and the page that asks must be one that this machine serves.
"""

from __future__ import annotations

import hmac
import ipaddress
from dataclasses import dataclass
from urllib.parse import urlsplit

from orchestrator.gateway.message import Headers, Request
from orchestrator.gateway.table import Token
from orchestrator.gateway.visitor import Visitor, by_name, owner, unnamed

_ENDINGS = (".localhost", ".local", ".internal")
"""Names that no stranger can own."""

_PROGRAMS = frozenset({"app", "tauri", "vscode-webview", "vscode-file"})
"""Schemes of pages that come with a program that somebody installed."""

_SEEN = b"x-orchestrate-instance, x-request-id, retry-after"


@dataclass(frozen=True, slots=True)
class Refused:
    """Why somebody is not let in."""

    status: int
    code: str
    message: str
    hint: str


@dataclass(slots=True)
class Door:
    """`token` is what clients must send, if anything, or one of `tokens`, which change with the
    table; `host` the address that is listened on, and `names` what this machine is called."""

    token: str = ""
    host: str = "127.0.0.1"
    names: frozenset[str] = frozenset()
    tokens: tuple[Token, ...] = ()

    @property
    def closed(self) -> bool:
        """Whether it takes a token to come in."""
        return bool(self.token or self.tokens)

    def refusal(self, request: Request) -> Refused | None:
        """None for who may ask."""
        if self.closed:
            return None if self._has_token(request) else _NO_TOKEN
        return self._stranger(request)

    def preflight(self, request: Request) -> Refused | None:
        """The same for a browser that asks whether it may; it never sends a token."""
        return None if self.closed else self._stranger(request)

    def marks(self, request: Request) -> Headers:
        """What tells the browser that its page may read the answer, if it may."""
        origin = request.header(b"origin")
        if not origin or not (self.closed or _is_here(origin)):
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

    def _stranger(self, request: Request) -> Refused | None:
        host, origin = request.header(b"host"), request.header(b"origin")
        if host and _is_loopback(self.host) and not self._is_ours(host.decode("latin-1")):
            shown = host.decode("latin-1")[:100]
            return Refused(403, "wrong-host", f"{shown!r} is no name of this machine", _HINT)
        if origin and not _is_here(origin):
            shown = origin.decode("latin-1")[:100]
            return Refused(403, "wrong-origin", f"a page of {shown!r} may not ask", _HINT)
        return None

    def _is_ours(self, authority: str) -> bool:
        host = _host_of(f"//{authority}")
        return _is_address(host) or _is_local(host) or host in self.names


_HINT = "with a `token:` under `gateway:`, whoever has it may"

_NO_TOKEN = Refused(
    401, "unauthorized", "no valid token", "send it as `Authorization: Bearer ...` or `x-api-key`"
)


def _credential(request: Request) -> bytes:
    bearer = request.header(b"authorization")
    given = bearer[7:] if bearer[:7].lower() == b"bearer " else request.header(b"x-api-key")
    return given.strip()


def _is_here(origin: bytes) -> bool:
    """Whether it is a page of this machine: one that it serves, or one of an installed program."""
    text = origin.decode("latin-1")
    host = _host_of(text)
    return text.partition(":")[0] in _PROGRAMS or host == "localhost" or _is_loopback(host)


def _host_of(url: str) -> str:
    try:
        return (urlsplit(url).hostname or "").rstrip(".")
    except ValueError:
        return ""


def _is_local(host: str) -> bool:
    return host == "localhost" or host.endswith(_ENDINGS)


def _is_address(host: str) -> bool:
    """An address cannot be given away; a name can be made to mean any address."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    return host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)
