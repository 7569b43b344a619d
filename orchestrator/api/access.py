"""Who is let in over TCP: before any route is asked, and before any body is read.

A page of another site can make a browser send requests here, and can give its own name our address.
So the name that is asked for must be one that is ours, and the page that asks must be ours, too;
and everybody needs the token, or the cookie that stands for it.
"""

from __future__ import annotations

import math
import socket
from collections.abc import Collection
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orchestrator.api.answers import error
from orchestrator.api.crowd import KNOWN
from orchestrator.api.keys import Keys, cookies
from orchestrator.api.rates import Rates
from orchestrator.core.origin import FOREIGN, host_of, is_address, netloc_of

HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""On every answer, but for those that say something else themselves."""


class Access:
    """Refuses, or passes on to `app`. `open_paths` go without a token, `local_paths` not at all.

    `hosts` are names of reverse proxies, by which it is asked and under which its page is served.
    """

    def __init__(
        self,
        app: ASGIApp,
        keys: Keys,
        *,
        hosts: Collection[str],
        open_paths: Collection[str],
        local_paths: Collection[str],
    ) -> None:
        self._app = app
        self._keys = keys
        self._hosts = frozenset(host.lower() for host in hosts)
        self._names = {"localhost", socket.gethostname().lower()}
        self._open = frozenset(open_paths)
        self._local = frozenset(local_paths)
        self._asks = Rates(burst=600, each_second=200)
        self._fails = Rates(burst=10, each_second=0.5)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        headers = Headers(scope=scope)
        refusal = self._refusal(scope, headers)
        if refusal is None:
            if scope["path"] not in self._open:
                scope[KNOWN]()
            await self._app(scope, receive, _guarded(send))
        else:
            # What was sent along is not read: the connection ends with the answer.
            refusal.headers["Connection"] = "close"
            await refusal(scope, receive, _guarded(send))

    def answer_to(self, name: str) -> None:
        """One more name of this server itself."""
        self._names.add(name.lower())

    def failed(self, address: str) -> Response | None:
        """A wrong word was said there; not None when there were too many."""
        return _too_many(self._fails.take(address))

    def locked(self, address: str) -> Response | None:
        """Whether nobody may try from there for now: of words that can be guessed."""
        if not self._keys.guessable:
            return None
        return _too_many(self._fails.empty(address))

    def _refusal(self, scope: Scope, headers: Headers) -> Response | None:
        address, path = address_of(scope), str(scope["path"])
        return (
            _too_many(self._asks.take(address))
            or self._wrong_host(headers)
            or self._wrong_origin(headers)
            or (_local_only(path) if path in self._local else None)
            or (None if path in self._open else self._stranger(scope, headers, address))
        )

    def _wrong_host(self, headers: Headers) -> Response | None:
        said = headers.get("host")
        if said is None or self._is_ours(host_of(said)):
            return None
        message = f"{said[:100]!r} is no name of this server"
        hint = "ask for an address or for localhost; ORCHESTRATE_HOSTS allows for other names"
        return error(403, "wrong-host", message, hint)

    def _is_ours(self, host: str) -> bool:
        """An address cannot be given away; a name can be made to mean any address."""
        return host in self._names or host in self._hosts or is_address(host)

    def _wrong_origin(self, headers: Headers) -> Response | None:
        origin, site = headers.get("origin"), headers.get("sec-fetch-site", "")
        if origin is not None:
            theirs = netloc_of(origin)
            own = theirs == headers.get("host", "").lower()
            if theirs and (own or self._behind_a_proxy(host_of(theirs), site)):
                return None
            return _wrong_origin(origin)
        if site in FOREIGN and headers.get("sec-fetch-mode") != "navigate":
            return _wrong_origin(site)
        return None

    def _behind_a_proxy(self, host: str, site: str) -> bool:
        """Whether it is our page, under a name that is not the one that we are asked by.

        Every port has the cookies of its host. So of an address, or of a name that this machine
        has itself, the browser must say that it is the page of that very port.
        """
        if host not in self._hosts or site in FOREIGN:
            return False
        return site == "same-origin" or not (host in self._names or is_address(host))

    def _stranger(self, scope: Scope, headers: Headers, address: str) -> Response | None:
        if refusal := self.locked(address):
            return refusal
        scheme, _, word = headers.get("authorization", "").partition(" ")
        bearer = scheme.lower() == "bearer"
        given = cookies(scope["headers"])
        if bearer and self._keys.is_token(word.strip()):
            return None
        if any(self._keys.is_cookie(one) for one in given):
            return None
        tried = bearer or bool(given)
        if tried and (refusal := self.failed(address)):
            return refusal
        if scope["method"] == "GET" and "text/html" in headers.get("accept", ""):
            return RedirectResponse("/login", 303)
        what = "the token is not the right one" if tried else "a token is needed"
        hint = "Authorization: Bearer TOKEN, as in the file `token` of the state folder"
        answer = error(401, "unauthorized", what, hint)
        answer.headers["WWW-Authenticate"] = 'Bearer realm="orchestrate"'
        return answer


def address_of(scope: Scope) -> str:
    """Who asks."""
    client: Any = scope.get("client")
    return str(client[0]) if client else ""


def _wrong_origin(who: str) -> Response:
    message = f"a page of {who[:100]!r} may not ask this server"
    hint = "open the dashboard itself; ORCHESTRATE_HOSTS names the host of a reverse proxy"
    return error(403, "wrong-origin", message, hint)


def _local_only(path: str) -> Response:
    hint = "it lets in whoever has this user's files: `orchestrate dashboard`"
    return error(403, "local-only", f"{path} is only for the control socket", hint)


def _too_many(seconds: float) -> Response | None:
    if not seconds:
        return None
    answer = error(429, "too-many", "too many requests from there", f"again in {seconds:.1f} s")
    answer.headers["Retry-After"] = str(math.ceil(seconds))
    return answer


def _guarded(send: Send) -> Send:
    async def with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(raw=message.setdefault("headers", []))
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return with_headers
