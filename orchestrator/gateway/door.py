"""Who may come in, what they are called, and how urgent they may be."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.gateway.message import Request
from orchestrator.gateway.table import Token

PRIORITIES = {"high": 1, "normal": 0, "low": -1}
"""What `x-priority` may say: who is served first."""


@dataclass(frozen=True, slots=True)
class Visitor:
    """Whose request it is. `client` is for people, and for fairness: never a token."""

    client: str
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Door:
    """`token` is the gateway's one token for everybody, "" where there is none."""

    token: str = ""

    def visitor(self, request: Request, tokens: Sequence[Token], *, peer: str) -> Visitor | None:
        """None for one that may not come in."""
        given, wished = _credential(request), _wished(request)
        own = _who(given, tokens)
        if own is not None:
            most = PRIORITIES.get(own.priority or "", max(PRIORITIES.values()))
            usual = PRIORITIES.get(own.priority or "", 0)
            return Visitor(own.name, usual if wished is None else min(wished, most))
        closed = bool(self.token or tokens)
        if closed and not (self.token and hmac.compare_digest(given, self.token.encode())):
            return None
        said = request.header(b"x-client-id").decode("latin-1")[:200]
        # What opens the door for everybody tells nobody from another.
        return Visitor(said or (peer if closed else _called(given, peer)), wished or 0)


def _credential(request: Request) -> bytes:
    bearer = request.header(b"authorization")
    given = bearer[7:] if bearer[:7].lower() == b"bearer " else request.header(b"x-api-key")
    return given.strip()


def _who(given: bytes, tokens: Sequence[Token]) -> Token | None:
    """All are compared, whichever it is: how long that takes tells nothing."""
    found: Token | None = None
    for one in tokens:
        if hmac.compare_digest(given, one.token):
            found = one
    return found


def _wished(request: Request) -> int | None:
    return PRIORITIES.get(request.header(b"x-priority").decode("latin-1").lower())


def _called(given: bytes, peer: str) -> str:
    """By the key that it sends of its own accord, under a name that tells nothing of it: this
    process alone makes it so."""
    return f"key-{hash(given) & 0xFFFFFFFF:08x}" if given else peer
