"""What is remembered of one request: the access log and the figures are made of it."""

from __future__ import annotations

from msgspec import Struct, field

from orchestrator.gateway.flow import Flow, Tokens
from orchestrator.gateway.message import Headers

GENERATING = frozenset(
    {"completions", "completion", "messages", "responses", "chat", "generate", "infill"}
)
"""Last parts of paths whose streams are made of tokens; others tell of downloads, say."""

STREAMS = (b"text/event-stream", b"application/x-ndjson")
"""Content types of answers that come token by token."""

_NOTHING = Tokens()


class Record(Struct, eq=False):
    """One request; times are seconds of the loop's clock.

    `client` is who is to be treated fairly, for people; `named`: its token has that name. `lost`:
    the instance broke off in the middle; `gone`: the client did. `retried`: who failed before
    another try.
    """

    began: float
    id: str = ""
    client: str = ""
    named: bool = False
    model: str = ""
    target: str = ""
    status: int = 0
    waited: float = 0.0
    first_byte: float | None = None
    sent: int = 0
    fallbacks: int = 0
    retried: tuple[str, ...] = ()
    lost: bool = False
    gone: bool = False
    streamed: bool = False
    flow: Flow | None = None
    marks: Headers = field(default_factory=Headers)
    """Headers that the answer carries, whoever gives it."""
    _tokens: Tokens | None = None

    @property
    def retries(self) -> int:
        return len(self.retried)

    @property
    def outcome(self) -> str:
        """What became of it: a class of status, or who left in the middle."""
        return "lost" if self.lost else "gone" if self.gone else f"{self.status // 100}xx"

    @property
    def fell_back(self) -> bool:
        """Whether something else than was asked for has answered."""
        return self.fallbacks > 0 and bool(self.target)

    @property
    def failed(self) -> bool:
        return self.lost or self.status >= 500

    def watch(self, path: str, content_type: bytes, encoding: bytes) -> Flow:
        """The answer's body begins to pass by."""
        kind = content_type.partition(b";")[0].strip().lower()
        self.streamed = kind in STREAMS
        plain = encoding in (b"", b"identity")
        generates = path.rpartition("/")[2] in GENERATING
        self.flow = Flow(counts=self.streamed and plain and generates)
        return self.flow

    def tokens(self) -> Tokens:
        """What it came to, once it is over, as far as that is known."""
        if self._tokens is None:
            whole = not (self.lost or self.gone)
            self._tokens = self.flow.tokens(whole=whole) if self.flow is not None else _NOTHING
        return self._tokens
