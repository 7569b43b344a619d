"""What the gateway tells of what it does: the shape in which it crosses to the daemon. Pure."""

from __future__ import annotations

from typing import Any, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    model_validator,
)

Counts = dict[str, NonNegativeInt]

HISTOGRAMS = {"first_token", "request"}
"""What is told for metrics alone; beside each are its median and its 95th percentile of late."""


class _Told(BaseModel):
    # A gateway of another version may tell more.
    model_config = ConfigDict(extra="ignore", frozen=True)


class Spread(_Told):
    """A histogram: how many took at most as long as each bound, the last one more; and how many
    seconds all of it took."""

    counts: list[NonNegativeInt]
    total: NonNegativeFloat


class InstanceFigures(_Told):
    """Of one instance, since the gateway began.

    `outcomes`: by class of status, `lost` where the instance broke off in the middle, `gone` where
    the client did. `tokens_s` is what it generates a second, over the last ten. Times are in
    seconds, medians and 95th percentiles of the last minute; `first_token` of streams alone.
    `used_at` is when it was used last, by the boot clock.
    """

    in_flight: NonNegativeInt = 0
    waiting: NonNegativeInt = 0
    requests: NonNegativeInt = 0
    failures: NonNegativeInt = 0
    retries: NonNegativeInt = 0
    fallbacks: NonNegativeInt = 0
    bytes: NonNegativeInt = 0
    prompt_tokens: NonNegativeInt = 0
    generated_tokens: NonNegativeInt = 0
    tokens_s: NonNegativeFloat = 0.0
    outcomes: Counts = Field(default_factory=Counts)
    first_token_s: NonNegativeFloat | None = None
    first_token_p95_s: NonNegativeFloat | None = None
    request_s: NonNegativeFloat | None = None
    request_p95_s: NonNegativeFloat | None = None
    first_token: Spread | None = None
    request: Spread | None = None
    used_at: NonNegativeFloat | None = None

    def row(self) -> dict[str, Any]:
        """As `status --json` has it."""
        return self.model_dump(exclude=HISTOGRAMS)


class Lately(_Told):
    """Of the last five minutes."""

    requests: NonNegativeInt = 0
    failures: NonNegativeInt = 0
    fallbacks: NonNegativeInt = 0


class WholeFigures(InstanceFigures):
    """Of all together: who waits counts once, whomever it waits for."""

    requests_s: NonNegativeFloat = 0.0
    lately: Lately = Lately()


class NameFigures(_Told):
    """Of one name that clients ask for, or of one client, since the gateway began. `recent` is the
    share of the last requests that a fallback has served; None where they are too few to say."""

    requests: NonNegativeInt = 0
    failures: NonNegativeInt = 0
    fallbacks: NonNegativeInt = 0
    prompt_tokens: NonNegativeInt = 0
    generated_tokens: NonNegativeInt = 0
    recent: NonNegativeFloat | None = None


class Figures(_Told):
    """`runs`: requests under way by the process that has them. `daemon` and `number`: of the table
    in force. `bounds`: of histograms, in seconds. `names`: what clients asked for, `other` for all
    that nothing is called. `clients`: by the name of the token that they came with. `own`: answers
    of the gateway's own, by status."""

    daemon: str = ""
    number: NonNegativeInt = 0
    runs: Counts = Field(default_factory=Counts)
    bounds: dict[str, list[float]] = Field(default_factory=dict[str, list[float]])
    whole: WholeFigures = WholeFigures()
    instances: dict[str, InstanceFigures] = Field(default_factory=dict[str, InstanceFigures])
    names: dict[str, NameFigures] = Field(default_factory=dict[str, NameFigures])
    clients: dict[str, NameFigures] = Field(default_factory=dict[str, NameFigures])
    own: Counts = Field(default_factory=Counts)

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        """Every histogram has a count for each bound, and one beyond."""
        for row in (self.whole, *self.instances.values()):
            for name, spread in (("first_token", row.first_token), ("request", row.request)):
                if spread is not None and len(spread.counts) != len(self.bounds.get(name, ())) + 1:
                    raise ValueError(f"{name} has another number of counts than of bounds")
        return self
