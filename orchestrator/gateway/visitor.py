"""Whose request it is, and how urgent it may be. Pure.

A client is known by the name of its token; without one, by what it calls itself, by the key that it
sends of its own accord, or by its address. What is kept is never a token.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence

from msgspec import Struct

from orchestrator.gateway.message import Request
from orchestrator.gateway.table import Token

PRIORITIES = {"high": 1, "normal": 0, "low": -1}
"""What `x-priority` may say: who is served first."""


class Visitor(Struct, frozen=True):
    """`client` is for people, and for fairness: `named` if it is the name of its token. The least
    `priority` comes last."""

    client: str
    priority: int = 0
    named: bool = False


def owner(given: bytes, tokens: Sequence[Token]) -> Token | None:
    """All are compared, whichever it is: how long that takes tells nothing."""
    found: Token | None = None
    for one in tokens:
        if hmac.compare_digest(given, one.token):
            found = one
    return found


def by_name(token: Token, request: Request) -> Visitor:
    """Its token says how urgent its requests are; it may ask for less."""
    wished = _wished(request)
    if token.priority is None:
        return Visitor(token.name, wished or 0, named=True)
    most = PRIORITIES[token.priority]
    return Visitor(token.name, most if wished is None else min(wished, most), named=True)


def unnamed(request: Request, given: bytes, peer: str) -> Visitor:
    """`given` is a key that nobody asked for."""
    said = request.header(b"x-client-id").decode("latin-1")[:200]
    # A number that only this process makes of it: nobody else can tell the key by it.
    key = f"key-{hash(given) & 0xFFFFFFFF:08x}" if given else ""
    return Visitor(said or key or peer, _wished(request) or 0)


def _wished(request: Request) -> int | None:
    return PRIORITIES.get(request.header(b"x-priority").decode("latin-1").lower())
