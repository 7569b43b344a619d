"""Who should serve a request again, so that what its prompt began with is still in a cache. Pure.

A session is what a client says it is; else a prompt is known by how it begins. The same key ranks
the same targets in the same order everywhere and always (rendezvous hashing): when one of them goes
or comes, only the keys that it was first for go elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, cast

from msgspec import Struct

from orchestrator.gateway.message import Headers

SESSION = b"x-session-id"

BEGINNING = 2048
"""Characters of a prompt that it is known by."""

WORTHWHILE = 256
"""Characters from which on a prompt's beginning is worth more than an idle target: it takes longer
to read a long one anew than to share an engine with somebody."""


class Key(Struct, frozen=True):
    """What is alike for all requests that should be served by the same.

    `session`: a client says that they belong together, so they are also of one side where weights
    divide a name. `firm`: the same target even while another has less to do.
    """

    digest: bytes
    session: bool = False
    firm: bool = False


def key_of(headers: Headers, body: Mapping[str, object] | None) -> Key | None:
    """None where nothing tells one request from another."""
    said = next((value for name, value in headers if name == SESSION), b"")
    session = said.decode("latin-1") or (_session(body) if body is not None else "")
    if session:
        return Key(_digest("session", session), session=True, firm=True)
    beginning = _beginning(body) if body is not None else ""
    if not beginning:
        return None
    return Key(_digest("prompt", beginning), firm=len(beginning) >= WORTHWHILE)


def rank(key: Key, name: str, weight: int = 1) -> float:
    """The least is first. Over all keys, each is first as often as its weight is of all weights."""
    drawn = int.from_bytes(blake2b(name.encode(), key=key.digest, digest_size=8).digest(), "big")
    # Of several exponential variables, each is the least as often as its rate says.
    return -math.log((drawn + 1) / 2**64) / weight


def _digest(kind: str, text: str) -> bytes:
    raw = f"{kind}\0{text}".encode("utf-8", "surrogatepass")
    return blake2b(raw, digest_size=16).digest()


def _session(body: Mapping[str, object]) -> str:
    """As OpenAI's and Anthropic's clients say it."""
    metadata = body.get("metadata")
    inner = cast("dict[str, object]", metadata).get("user_id") if isinstance(metadata, dict) else ""
    for said in (body.get("prompt_cache_key"), body.get("user"), inner):
        if isinstance(said, str) and said:
            return said
    return ""


def _beginning(body: Mapping[str, object]) -> str:
    """What the prompt begins with, as far as the next request of a conversation has it too: what
    the system says and the first words of the user, or the first characters of a bare prompt."""
    messages = body.get("messages")
    if isinstance(messages, list):
        said = [_text(body.get("system")), *_first_messages(cast("list[object]", messages))]
    else:
        said = [_text(body.get(name)) for name in ("system", "instructions", "prompt", "input")]
    return "\n".join(part for part in said if part)[:BEGINNING]


def _first_messages(messages: list[object]) -> list[str]:
    """Up to the first one of the user."""
    said: list[str] = []
    for message in messages[:4]:
        if not isinstance(message, dict):
            break
        one = cast("dict[str, object]", message)
        said.append(_text(one.get("content")))
        if one.get("role") == "user":
            break
    return said


def _text(value: object) -> str:
    """Text, or that of a list of parts; pictures and sounds say nothing."""
    if isinstance(value, str):
        return value[:BEGINNING]
    if not isinstance(value, list):
        return ""
    parts = (_part(one) for one in cast("list[object]", value)[:16])
    return "\n".join(part for part in parts if part)[:BEGINNING]


def _part(value: object) -> str:
    if isinstance(value, str):
        return value
    if not isinstance(value, dict):
        return ""
    one = cast("dict[str, Any]", value)
    inner = one.get("text", one.get("content"))
    return inner if isinstance(inner, str) else ""
