"""A request under way: what is asked of whom, in which protocol, and what is noted of it."""

from __future__ import annotations

from msgspec import Struct

from orchestrator.gateway import form, ollama_ask
from orchestrator.gateway.answers import Protocol
from orchestrator.gateway.message import Request
from orchestrator.gateway.ollama_ask import Asked, AskError, Json
from orchestrator.gateway.record import Record
from orchestrator.gateway.table import Route, Target


class Call(Struct):
    """A request whose route is known. `path` is what the instance is asked for."""

    request: Request
    route: Route
    path: bytes
    protocol: Protocol
    record: Record
    body: Json | None = None
    """The request's JSON, where it has a model that may have to be called otherwise."""
    priority: int = 0
    span: form.Span | None = None
    """Where the request says its model, if it is a form."""
    asked_as: str = ""
    """What the client called the model."""
    begun: bool = False
    """The head of a stream has been sent, though nobody serves it yet."""

    light: bool = False
    """It only asks how an instance is, and need not wait for one that is busy."""

    def forget(self) -> None:
        """Its answer has begun: it will not be sent any more."""
        self.request.forget()
        self.body = None

    @property
    def repeatable(self) -> bool:
        """Whether it does no harm to send it once more: it asks for an answer, not for a deed."""
        asks = self.body is not None or self.span is not None
        return asks or self.request.method in (b"GET", b"HEAD", b"OPTIONS")

    def translated(self, target: Target) -> Asked | None:
        """The request in the words of the target, where it does not know those of the client.

        Raises `AskError`.
        """
        if self.protocol != "ollama" or self.body is None or target.engine == "ollama":
            return None
        if self.request.path not in ollama_ask.PATHS:
            raise AskError(f"{target.name} is no Ollama: it does not offer {self.request.path}")
        return ollama_ask.asked(self.request.path, self.body)
