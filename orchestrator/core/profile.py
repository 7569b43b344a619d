"""A profile as the user wrote it: strict models, and what defaults and instance come to together.

A field that was left out is told from one that was given by `model_fields_set`; what it then
means is decided in `effective`, once, by the defaults of the dataclasses in `spec`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag

from orchestrator.core.fields import (
    AnyText,
    Argument,
    Attach,
    Count,
    Duration,
    EnvValue,
    Failure,
    Flag,
    Gpus,
    Host,
    KeepAlive,
    LlamaServerWord,
    Mode,
    Name,
    OllamaWord,
    Policy,
    Port,
    PositiveDuration,
    RestartLimit,
    Size,
    Switch,
    Text,
    Variable,
)
from orchestrator.core.spec import Liveness, Readiness, RestartPolicy, StopPolicy, UpdatePolicy
from orchestrator.core.units import Limit


class _Block(BaseModel):
    """A mapping of a profile: unknown keys are errors, nothing is converted, nothing changes.

    Only `Profile` builds a validator, which covers all of them: one for each would be built at
    every start and never used. Hence also `model_construct` for blocks that are left out.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, defer_build=True)


class CatalogConfig(_Block):
    """Where to look for models, beside the built-in places."""

    dirs: list[Text] = Field(
        default_factory=list[str],
        description="Folders with GGUF files, relative to the profile.",
    )


class ReadinessConfig(_Block):
    """When a starting instance is given up."""

    timeout: PositiveDuration | None = Field(
        default=None, description="Longest time without any progress while it loads. Default 120s."
    )
    deadline: PositiveDuration | None = Field(
        default=None, description="Longest time until it is ready, progress or not. Default 30m."
    )


class LivenessConfig(_Block):
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


class RestartConfig(_Block):
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


class StopConfig(_Block):
    """How an instance is stopped."""

    grace: Duration | None = Field(
        default=None, description="Time between SIGTERM and SIGKILL. Default 10s."
    )


class UpdateConfig(_Block):
    """How a change is brought about."""

    on_failure: Failure | None = Field(
        default=None,
        description="What becomes of a change that does not come up: rollback to what was ready "
        "before, or keep. Default rollback.",
    )


class ResourcesConfig(_Block):
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


class VerifyConfig(_Block):
    """Whether the files of an instance's models are looked at again and again."""

    interval: PositiveDuration | None = Field(
        default=None, description="Time between two looks. Default: no looks."
    )


class _Common(_Block):
    """What instances of all engines take, and their defaults."""

    description: AnyText | None = Field(default=None, description="For people.")
    host: Host | None = Field(default=None, description="Address to listen on. Default 127.0.0.1.")
    env: dict[str, EnvValue] = Field(
        default_factory=dict[str, str], description="Environment variables of the process."
    )
    binary: Text | None = Field(
        default=None, description="The program to run. Found on this machine by default."
    )
    readiness: ReadinessConfig = Field(
        default_factory=ReadinessConfig.model_construct, description="When a start is given up."
    )
    liveness: LivenessConfig = Field(
        default_factory=LivenessConfig.model_construct, description="When it counts as hung."
    )
    restart: RestartConfig = Field(
        default_factory=RestartConfig.model_construct,
        description="What happens when it ends by itself.",
    )
    stop: StopConfig = Field(
        default_factory=StopConfig.model_construct, description="How it is stopped."
    )
    update: UpdateConfig = Field(
        default_factory=UpdateConfig.model_construct, description="How a change is brought about."
    )
    resources: ResourcesConfig = Field(
        default_factory=ResourcesConfig.model_construct,
        description="What it takes of the machine: memory and GPUs.",
    )


class LlamaServerDefaults(_Common):
    """What all llama-server instances have in common, unless one says otherwise."""

    mmproj: Text | None = Field(
        default=None,
        description="Projector file of a multimodal model: a path or a catalog reference.",
    )
    flags: dict[str, Flag] = Field(
        default_factory=dict[str, Any],
        description="Long flags of the llama-server that runs, without '--'.",
    )
    args: list[Argument] = Field(
        default_factory=list[str],
        description="Arguments passed on as they are, after all others.",
    )


class OllamaDefaults(_Common):
    """What all Ollama instances have in common, unless one says otherwise."""

    attach: Attach | None = Field(
        default=None,
        description="Whether a server that already runs at the address is used: auto, never or "
        "only. Default auto.",
    )
    settings: dict[str, Flag] = Field(
        default_factory=dict[str, Any],
        description="Settings that `ollama serve --help` lists, without OLLAMA_, in small letters.",
    )
    prune: Switch | None = Field(
        default=None,
        description="Delete models that leave `models:`, instead of only unloading them. "
        "Default false.",
    )
    verify: VerifyConfig = Field(
        default_factory=VerifyConfig.model_construct,
        description="Look at the files of the models again and again.",
    )


class ModelConfig(_Block):
    """A model that an Ollama instance is to have: pulled, unless another origin is named."""

    name: Text | None = Field(
        default=None, description="What it is called, as in llama3.1:8b. Default tag: latest."
    )
    pull: Text | None = Field(
        default=None, description="Where to pull it from, as in host:port/library/name:tag."
    )
    insecure: Switch | None = Field(
        default=None, description="The registry has no TLS. Default false."
    )
    modelfile: Text | None = Field(
        default=None, description="Build it by this Modelfile, relative to the profile."
    )
    gguf: Text | None = Field(
        default=None, description="Make it from this GGUF: a path or a catalog reference."
    )
    alias: Text | None = Field(default=None, description="Another name of this model.")
    preload: Switch | None = Field(
        default=None, description="Load it as soon as the server is ready. Default false."
    )
    keep_alive: KeepAlive | None = Field(
        default=None,
        description="Time in memory after its last use, -1 for ever. Default: -1 with preload, "
        "else what the server's settings say.",
    )


def _as_model(value: object) -> object:
    """A bare tag is short for a mapping with that name."""
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return {"name": value}
    return value


ModelEntry = Annotated[
    ModelConfig,
    BeforeValidator(_as_model, json_schema_input_type=str | ModelConfig),
]


class LlamaServerConfig(LlamaServerDefaults):
    """One llama-server: a model, an address, and the settings it is started with."""

    engine: LlamaServerWord = Field(
        default="llama-server", description="May be left out when a model is given."
    )
    model: Text = Field(
        description="Path, file name, name:quant, Ollama tag or hf: reference of a model on disk."
    )
    port: Port = Field(default="auto", description="1 to 65535, or auto: chosen once, then kept.")
    needs: list[Text] = Field(
        default_factory=list[str],
        description="Instances that must be ready before this one is started.",
    )


class OllamaConfig(OllamaDefaults):
    """One Ollama server, and the models that it is to have."""

    engine: OllamaWord = Field(description="ollama: one `ollama serve`, and its models.")
    port: Port = Field(default="auto", description="1 to 65535, or auto: chosen once, then kept.")
    needs: list[Text] = Field(
        default_factory=list[str],
        description="Instances that must be ready before this one is started.",
    )
    models: list[ModelEntry] = Field(
        default_factory=list[ModelConfig],
        description="Models that are there once it has converged.",
    )


InstanceConfig = LlamaServerConfig | OllamaConfig
"""An instance of either engine."""


def engine_of(value: object) -> str:
    """The engine that decides which keys an instance takes: an unknown one is an error there."""
    if isinstance(value, OllamaConfig):
        return value.engine
    given = cast("dict[str, Any]", value).get("engine") if isinstance(value, dict) else None
    return given if given == "ollama" else "llama-server"


AnyInstance = Annotated[
    Annotated[LlamaServerConfig, Tag("llama-server")] | Annotated[OllamaConfig, Tag("ollama")],
    Discriminator(engine_of),
]


class Defaults(_Block):
    """Settings for all instances of an engine."""

    llama_server: LlamaServerDefaults = Field(
        default_factory=LlamaServerDefaults.model_construct,
        alias="llama-server",
        description="For all llama-server instances.",
    )
    ollama: OllamaDefaults = Field(
        default_factory=OllamaDefaults.model_construct, description="For all Ollama instances."
    )


class Profile(_Block, defer_build=False):
    """Which local LLM servers should run."""

    name: Name | None = Field(
        default=None, description="Default: the file's name without its ending."
    )
    description: AnyText | None = Field(default=None, description="For people.")
    vars: dict[str, Variable] = Field(
        default_factory=dict[str, Any], description="Values to use elsewhere as ${name}."
    )
    catalog: CatalogConfig = Field(
        default_factory=CatalogConfig.model_construct, description="Where to look for models."
    )
    defaults: Defaults = Field(
        default_factory=Defaults.model_construct,
        description="Settings for all instances of an engine.",
    )
    instances: dict[str, AnyInstance] = Field(
        description="What should run, by name. '{}' means none."
    )

    def effective(self, config: InstanceConfig) -> Effective:
        """The settings of one of the instances, with its engine's defaults merged in."""
        if isinstance(config, OllamaConfig):
            return _effective(config, self.defaults.ollama)
        return _effective(config, self.defaults.llama_server)


@dataclass(frozen=True, slots=True)
class Effective:
    """What instances of all engines say, with the defaults of their engine merged in.

    `host` and `binary` are None when neither says: they come from the environment or are found.
    """

    description: str
    host: str | None
    binary: str | None
    env: dict[str, str]
    readiness: Readiness
    liveness: Liveness
    restart: RestartPolicy
    stop: StopPolicy
    update: UpdatePolicy
    resources: ResourcesConfig


def _effective(config: _Common, defaults: _Common) -> Effective:
    """Deep-merge `defaults` under `config`: mappings by key, everything else is replaced."""
    return Effective(
        description=given("description", config, defaults) or "",
        host=given("host", config, defaults),
        binary=given("binary", config, defaults),
        env={**defaults.env, **config.env},
        readiness=Readiness(**_settings(defaults.readiness, config.readiness)),
        liveness=_liveness(defaults.liveness, config.liveness),
        restart=_restart(defaults.restart, config.restart),
        stop=StopPolicy(**_settings(defaults.stop, config.stop)),
        update=UpdatePolicy(**_settings(defaults.update, config.update)),
        resources=ResourcesConfig.model_construct(
            **_settings(defaults.resources, config.resources)
        ),
    )


def given(field: str, config: _Common, defaults: _Common) -> Any:
    """What an instance says for `field`, else what its defaults say."""
    return getattr(config if field in config.model_fields_set else defaults, field)


def _settings(*blocks: _Block) -> dict[str, Any]:
    """What the blocks say, the last winning."""
    return {name: getattr(block, name) for block in blocks for name in block.model_fields_set}


_INFERENCE_INTERVAL = 30.0
"""Seconds between two probes that generate something, where nothing else is said."""


def _liveness(*blocks: LivenessConfig) -> Liveness:
    settings = _settings(*blocks)
    if settings.get("mode") == "inference":
        settings.setdefault("interval", _INFERENCE_INTERVAL)
    return Liveness(**settings)


def _restart(*blocks: RestartConfig) -> RestartPolicy:
    settings = _settings(*blocks)
    limit: Limit | None = settings.get("limit")
    if limit is not None:
        settings.update(limit=limit.times, window=limit.window)
    return RestartPolicy(**settings)
