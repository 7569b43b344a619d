"""The blocks of a profile that instances of all engines share, each a strict model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal, TypeVar, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from orchestrator.core.fields import (
    Count,
    Duration,
    Failure,
    Gpus,
    Host,
    Mode,
    Percent,
    Policy,
    Port,
    PositiveDuration,
    PriorityWord,
    Replacing,
    RestartLimit,
    Size,
    Text,
    TriggerWord,
    Url,
    Weight,
)
from orchestrator.core.gateway_spec import TRIGGERS


class Block(BaseModel):
    """A mapping of a profile: unknown keys are errors, nothing is converted, nothing changes.

    Only `Profile` builds a validator, which covers all of them: one for each would be built at
    every start and never used. Hence also `left_out`.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, defer_build=True)


_B = TypeVar("_B", bound=Block)


def left_out(block: type[_B]) -> Callable[[], _B]:
    """What stands for a block that a profile leaves out: one for all, since it never changes."""
    nothing = block.model_construct()
    return lambda: nothing


class CatalogConfig(Block):
    """Where to look for models, beside the built-in places."""

    dirs: list[Text] = Field(
        default_factory=list[str],
        description="Folders with GGUF files, relative to the profile.",
    )


class ReadinessConfig(Block):
    """When a starting instance is given up."""

    timeout: PositiveDuration | None = Field(
        default=None, description="Longest time without any progress while it loads. Default 120s."
    )
    deadline: PositiveDuration | None = Field(
        default=None, description="Longest time until it is ready, progress or not. Default 30m."
    )


class LivenessConfig(Block):
    """When a running instance counts as hung and is restarted."""

    interval: PositiveDuration | None = Field(
        default=None,
        description="Time between two probes. Default 10s, with inference 30s.",
    )
    timeout: PositiveDuration | None = Field(
        default=None, description="Time for one probe to be answered. Default 5s."
    )
    failures: Count | None = Field(
        default=None, description="Failed probes in a row that mean it hangs. Default 3."
    )
    mode: Mode | None = Field(
        default=None,
        description="What a probe asks for: http, an answer on the health path (the default), or "
        "inference, one token.",
    )
    slow: PositiveDuration | None = Field(
        default=None, description="With inference: a token later than this is slow. Default 5s."
    )
    down: PositiveDuration | None = Field(
        default=None, description="With inference: a token later than this is none. Default 15s."
    )


class RestartConfig(Block):
    """What happens when an instance ends by itself."""

    policy: Policy | None = Field(
        default=None, description="always, on-failure or never. Default on-failure."
    )
    initial: Duration | None = Field(
        default=None,
        description="Delay before the second restart in a row. It doubles. Default 1s.",
    )
    max: Duration | None = Field(default=None, description="Longest delay. Default 60s.")
    limit: RestartLimit | None = Field(
        default=None,
        description="Failures after which it is given up, as in '5 in 10m', the default.",
    )


class StopConfig(Block):
    """How an instance is stopped."""

    grace: Duration | None = Field(
        default=None, description="Time between SIGTERM and SIGKILL. Default 10s."
    )
    drain: Duration | None = Field(
        default=None,
        description="Time that requests through the gateway have to end before. Default 30s.",
    )


class UpdateConfig(Block):
    """How a change is brought about."""

    on_failure: Failure | None = Field(
        default=None,
        description="What becomes of a change that does not come up: rollback to what was ready "
        "before, or keep. Default rollback.",
    )
    strategy: Replacing | None = Field(
        default=None,
        description="stop-first, or start-first: the new process becomes ready on another port "
        "before the old one ends. Only llama-server with port: auto. Default stop-first.",
    )


class ResourcesConfig(Block):
    """What an instance may take of the machine."""

    memory: Size | None = Field(
        default=None,
        description="Memory to count on, as in 6GiB, instead of the estimate. On the GPUs where "
        "it runs on some. 0 never waits for room.",
    )
    gpus: Gpus | None = Field(
        default=None,
        description="GPUs that it sees, as in [0], or auto: those with most room, then kept. "
        "Default: as the engine chooses.",
    )


class AimConfig(Block):
    """One of those that serve a route."""

    instance: Text = Field(description="An instance, or a model that one serves.")
    weight: Weight | None = Field(
        default=None,
        description="Its share of the requests beside the others', 0 for none. Default: whoever "
        "is least busy.",
    )


def _as_aim(value: object) -> object:
    """A bare name is short for a mapping with that instance."""
    return {"instance": value} if isinstance(value, str) else value


Aim = Annotated[AimConfig, BeforeValidator(_as_aim, json_schema_input_type=str | AimConfig)]


class RouteConfig(Block):
    """A name that clients may ask for, and who serves it."""

    to: list[Aim] = Field(
        min_length=1, description="Instances that serve it, the least busy first."
    )
    fallback: list[Text] = Field(
        default_factory=list[str],
        description="Names to try, in order, when it is down, overloaded, failing or slow.",
    )
    slow: PositiveDuration | None = Field(
        default=None, description="Time to the first byte after which a fallback is tried."
    )
    on: list[TriggerWord] = Field(
        default_factory=lambda: list(TRIGGERS),
        description="When a fallback is tried: down, overloaded, slow, failing. Default all.",
    )
    warn: Percent | None = Field(
        default=None, description="As `fallback: {warn: ...}` of the gateway, for this name."
    )


def _as_route(value: object) -> object:
    """A bare list is short for a route to those."""
    if isinstance(value, list):
        return {"to": cast("list[object]", value)}
    return value


Route = Annotated[
    RouteConfig, BeforeValidator(_as_route, json_schema_input_type=list[str] | RouteConfig)
]


class QueueConfig(Block):
    """What becomes of requests that find every slot busy, or an instance on its way up."""

    size: Count | None = Field(
        default=None,
        description="How many may wait for one instance. Default 64 for each of its slots.",
    )
    deadline: PositiveDuration = Field(
        default=30.0, description="How long one may wait for its turn. Default 30s."
    )


Logged = Literal["all", "errors", "off"]


class LogConfig(Block):
    """What the gateway writes into its log: a line of JSON for a request."""

    requests: Logged = Field(
        default="all", description="Which requests have a line: all (default), errors or off."
    )
    content: bool = Field(
        default=False,
        description="Also the beginning of what was asked: prompts in a file. Default false.",
    )


def _as_log(value: object) -> object:
    """A bare word is short for which requests have a line."""
    return {"requests": value} if isinstance(value, str) else value


Log = Annotated[LogConfig, BeforeValidator(_as_log, json_schema_input_type=Logged | LogConfig)]


class CloudConfig(Block):
    """A server elsewhere that speaks OpenAI's protocol, to fall back to."""

    url: Url = Field(description="Where its API begins, as in https://api.openai.com/v1.")
    key: Text | None = Field(
        default=None, description="Its key: only as ${env:NAME}, never written out."
    )
    model: Text | None = Field(
        default=None, description="What it is asked for. Default: what the client asked for."
    )


class TokenConfig(Block):
    """A client that is known by a token of its own."""

    token: Text = Field(description="What it must send, as in ${env:CI_TOKEN}.")
    priority: PriorityWord | None = Field(
        default=None,
        description="Who is served first: high, normal or low. A request may ask for less by "
        "`x-priority`. Default: what a request asks for.",
    )


class FallbackConfig(Block):
    """What is told of requests that a fallback serves."""

    warn: Percent | None = Field(
        default=None,
        description="More of the last requests for one name than this is an alert, as in '50%'.",
    )


class GatewayConfig(Block):
    """One address for every declared model."""

    port: Port = Field(description="1 to 65535, or auto: chosen once, then kept.")
    host: Host | None = Field(default=None, description="Address to listen on. Default 127.0.0.1.")
    token: Text | None = Field(
        default=None, description="What clients must send, as in ${env:GATEWAY_TOKEN}."
    )
    hosts: list[Text] = Field(
        default_factory=list[str],
        description="Further names by which it may be asked without a token.",
    )
    origins: list[Text] = Field(
        default_factory=list[str],
        description="Web pages that may ask it, as in https://chat.example; '*' is all.",
    )
    tokens: dict[str, TokenConfig] = Field(
        default_factory=dict[str, TokenConfig],
        description="Clients by name, each with a token of its own.",
    )
    queue: QueueConfig = Field(
        default_factory=left_out(QueueConfig), description="Requests that have to wait."
    )
    log: Log = Field(
        default_factory=left_out(LogConfig), description="What is written of requests."
    )
    fallback: FallbackConfig = Field(
        default_factory=left_out(FallbackConfig), description="Requests that a fallback serves."
    )
    cloud: dict[str, CloudConfig] = Field(
        default_factory=dict[str, CloudConfig],
        description="Servers elsewhere, by the name that a `fallback:` calls them.",
    )
    routes: dict[str, Route] = Field(
        default_factory=dict[str, RouteConfig],
        description="Names beside those of instances and models.",
    )


class VerifyConfig(Block):
    """Whether the files of an instance's models are looked at again and again."""

    interval: PositiveDuration | None = Field(
        default=None, description="Time between two looks. Default: no looks."
    )


class MemoryLimits(Block):
    """How much memory an instance may take, with all of its processes."""

    warn: Size | None = Field(default=None, description="More than this is an alert.")
    max: Size | None = Field(default=None, description="More than this ends the instance.")


class CpuLimits(Block):
    """How much of the CPU an instance may take."""

    warn: Percent | None = Field(
        default=None,
        description="More than this of one core for a minute is an alert, as in '80%'.",
    )


class RestartLimits(Block):
    """How often an instance may be restarted."""

    warn: RestartLimit | None = Field(
        default=None, description="As many restarts within a time are an alert, as in '3 in 1h'."
    )


class LimitsConfig(Block):
    """What an instance may take before somebody is told, or it is ended."""

    memory: MemoryLimits = Field(
        default_factory=left_out(MemoryLimits), description="Memory: warn and max."
    )
    cpu: CpuLimits = Field(default_factory=left_out(CpuLimits), description="CPU: warn.")
    restarts: RestartLimits = Field(
        default_factory=left_out(RestartLimits), description="Restarts: warn."
    )
