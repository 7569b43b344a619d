"""What the gateway tells of what it does: the shape in which it crosses to the daemon. Pure."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct, field, to_builtins

Count = Annotated[int, Meta(ge=0)]
Amount = Annotated[float, Meta(ge=0)]
Counts = dict[str, Count]

HISTOGRAMS = {"first_token", "request"}
"""What is told for metrics alone; beside each are its median and its 95th percentile of late."""


class Spread(Struct, frozen=True):
    """A histogram: how many took at most as long as each bound, the last one more; and how many
    seconds all of it took."""

    counts: list[Count]
    total: Amount


class InstanceFigures(Struct, frozen=True):
    """Of one instance, since the gateway began.

    `outcomes`: by class of status, `lost` where the instance broke off in the middle, `gone` where
    the client did. `tokens_s` is what it generates a second, over the last ten. Times are in
    seconds, medians and 95th percentiles of the last minute; `first_token` of streams alone.
    `used_at` is when it was used last, by the boot clock.
    """

    in_flight: Count = 0
    waiting: Count = 0
    requests: Count = 0
    failures: Count = 0
    retries: Count = 0
    fallbacks: Count = 0
    bytes: Count = 0
    prompt_tokens: Count = 0
    generated_tokens: Count = 0
    tokens_s: Amount = 0.0
    outcomes: Counts = field(default_factory=Counts)
    first_token_s: Amount | None = None
    first_token_p95_s: Amount | None = None
    request_s: Amount | None = None
    request_p95_s: Amount | None = None
    first_token: Spread | None = None
    request: Spread | None = None
    used_at: Amount | None = None

    def row(self) -> dict[str, Any]:
        """As `status --json` has it."""
        return {name: value for name, value in to_builtins(self).items() if name not in HISTOGRAMS}


class Lately(Struct, frozen=True):
    """Of the last five minutes."""

    requests: Count = 0
    failures: Count = 0
    fallbacks: Count = 0


class WholeFigures(InstanceFigures, frozen=True):
    """Of all together: who waits counts once, whomever it waits for."""

    requests_s: Amount = 0.0
    lately: Lately = Lately()


class NameFigures(Struct, frozen=True):
    """Of one name that clients ask for, or of one client, since the gateway began. `recent` is the
    share of the last requests that a fallback has served; None where they are too few to say."""

    requests: Count = 0
    failures: Count = 0
    fallbacks: Count = 0
    prompt_tokens: Count = 0
    generated_tokens: Count = 0
    recent: Amount | None = None


class Figures(Struct, frozen=True):
    """`runs`: requests under way by the process that has them. `daemon` and `number`: of the table
    in force. `bounds`: of histograms, in seconds. `names`: what clients asked for, `other` for all
    that nothing is called. `clients`: by the name of the token that they came with. `own`: answers
    of the gateway's own, by status."""

    daemon: str = ""
    number: Count = 0
    runs: Counts = field(default_factory=Counts)
    bounds: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    whole: WholeFigures = WholeFigures()
    instances: dict[str, InstanceFigures] = field(default_factory=dict[str, InstanceFigures])
    names: dict[str, NameFigures] = field(default_factory=dict[str, NameFigures])
    clients: dict[str, NameFigures] = field(default_factory=dict[str, NameFigures])
    own: Counts = field(default_factory=Counts)

    def __post_init__(self) -> None:
        """Every histogram has a count for each bound, and one beyond."""
        for row in (self.whole, *self.instances.values()):
            for name, spread in (("first_token", row.first_token), ("request", row.request)):
                if spread is not None and len(spread.counts) != len(self.bounds.get(name, ())) + 1:
                    raise ValueError(f"{name} has another number of counts than of bounds")
