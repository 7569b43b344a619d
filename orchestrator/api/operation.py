"""One route as it is served and as it is told of: the document of the API cannot leave one out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from msgspec import Struct, field
from starlette.requests import Request
from starlette.responses import Response

Schema = Mapping[str, Any]
"""JSON Schema, as OpenAPI 3.1 has it."""

Endpoint = Callable[[Request], Awaitable[Response]]

JSON = "application/json"
TEXT = "text/plain"
SSE = "text/event-stream"
LINES = "application/x-ndjson"
HTML = "text/html"

EVENT: Schema = {
    "type": "object",
    "required": ["data"],
    "properties": {name: {"type": "string"} for name in ("id", "event", "data")},
}
"""One server-sent event."""


class Parameter(Struct, frozen=True):
    """A word of the query, never required."""

    name: str
    schema: Schema
    says: str


class Answer(Struct, frozen=True):
    """What one status means, and how what comes with it looks, by media type."""

    says: str
    bodies: Mapping[str, Schema] = field(default_factory=dict[str, Schema])


class Operation(Struct, frozen=True):
    """`method` and `path`, what it does, and every status that it may answer with of its own.

    `open`: it goes without a token. `local`: only over the control socket.
    """

    method: str
    path: str
    endpoint: Endpoint
    summary: str
    answers: Mapping[int, Answer]
    query: tuple[Parameter, ...] = ()
    body: Schema | None = None
    """None takes none. One of which nothing is required may be left out."""
    open: bool = False
    local: bool = False
    about: str = "control"
    """The heading that it stands under."""


def says(summary: str, schema: Schema | None = None, *, kind: str = JSON) -> Answer:
    """An answer with one kind of body."""
    return Answer(summary, {kind: schema if schema is not None else {"type": "string"}})


def known_by(name: str) -> Schema:
    """The schema of that name in the document."""
    return {"$ref": f"#/components/schemas/{name}"}


def switch(name: str, meaning: str) -> Parameter:
    """`?name=1` or `?name=0`."""
    return Parameter(name, {"type": "string", "enum": ["0", "1", "true", "false"]}, meaning)


def count(name: str, meaning: str) -> Parameter:
    """A whole number."""
    return Parameter(name, {"type": "integer", "minimum": 0, "maximum": 10**15 - 1}, meaning)
