"""A request whose route is known, and what is written down of it."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.gateway.answers import Protocol
from orchestrator.gateway.message import Request
from orchestrator.gateway.table import Route


@dataclass(slots=True)
class Record:
    """What the access log and the figures are made of; times are seconds of the loop's clock."""

    began: float
    id: str = ""
    client: str = ""
    model: str = ""
    target: str = ""
    status: int = 0
    waited: float = 0.0
    first_byte: float | None = None
    sent: int = 0
    fallbacks: int = 0
    retries: int = 0
    lost: bool = False


@dataclass(slots=True)
class Call:
    """A request whose route is known. `path` is what the instance is asked for."""

    request: Request
    route: Route
    path: bytes
    protocol: Protocol
    record: Record
    body: dict[str, object] | None = None
    """The request's JSON, where it has a model that may have to be called otherwise."""
    priority: int = 0
    begun: bool = False
    """The head of a stream has been sent, though nobody serves it yet."""
