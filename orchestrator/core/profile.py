"""A profile as the user wrote it: strict models, and what defaults and instance come to together.

A field that was left out is told from one that was given by `model_fields_set`; what it then
means is decided in `effective`, once, by the defaults of the records in `spec`.
"""

from __future__ import annotations

from typing import Annotated, Any, cast

from msgspec import Struct
from pydantic import BeforeValidator, Discriminator, Field, Tag

from orchestrator.core.blocks import (
    Block,
    CatalogConfig,
    GatewayConfig,
    LimitsConfig,
    LivenessConfig,
    ReadinessConfig,
    ResourcesConfig,
    RestartConfig,
    StopConfig,
    UpdateConfig,
    VerifyConfig,
    left_out,
)
from orchestrator.core.fields import (
    AnyText,
    Argument,
    Attach,
    EnvValue,
    Flag,
    Host,
    Idle,
    KeepAlive,
    LlamaServerWord,
    Name,
    OllamaWord,
    Port,
    Replicas,
    Start,
    Switch,
    Text,
    Variable,
)
from orchestrator.core.spec import (
    Limits,
    Liveness,
    Readiness,
    RestartPolicy,
    StopPolicy,
    UpdatePolicy,
)
from orchestrator.core.units import Limit


class _Common(Block):
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
        default_factory=left_out(ReadinessConfig), description="When a start is given up."
    )
    liveness: LivenessConfig = Field(
        default_factory=left_out(LivenessConfig), description="When it counts as hung."
    )
    restart: RestartConfig = Field(
        default_factory=left_out(RestartConfig),
        description="What happens when it ends by itself.",
    )
    stop: StopConfig = Field(default_factory=left_out(StopConfig), description="How it is stopped.")
    limits: LimitsConfig = Field(
        default_factory=left_out(LimitsConfig),
        description="What it may take before somebody is told, or it is ended.",
    )
    update: UpdateConfig = Field(
        default_factory=left_out(UpdateConfig), description="How a change is brought about."
    )
    resources: ResourcesConfig = Field(
        default_factory=left_out(ResourcesConfig),
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
    start: Start | None = Field(
        default=None,
        description="always, or on-demand: the first request through the gateway starts it. "
        "Default always.",
    )
    idle: Idle | None = Field(
        default=None,
        description="On demand: time after its last use until it is stopped, at least 1s. "
        "Default: never.",
    )
    pin: Switch | None = Field(
        default=None,
        description="On demand: never stop it to make room for another. Default false.",
    )
    preload: Switch | None = Field(
        default=None,
        description="On demand: start it when it is applied, before anybody asks. Default false.",
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
        default_factory=left_out(VerifyConfig),
        description="Look at the files of the models again and again.",
    )


class ModelConfig(Block):
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
    replicas: Replicas | None = Field(
        default=None,
        description="Run it so many times, as NAME-1, NAME-2 and so on, each at a port of its own.",
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


class Defaults(Block):
    """Settings for all instances of an engine."""

    llama_server: LlamaServerDefaults = Field(
        default_factory=left_out(LlamaServerDefaults),
        alias="llama-server",
        description="For all llama-server instances.",
    )
    ollama: OllamaDefaults = Field(
        default_factory=left_out(OllamaDefaults), description="For all Ollama instances."
    )


class Profile(Block, defer_build=False):
    """Which local LLM servers should run."""

    name: Name | None = Field(
        default=None, description="Default: the file's name without its ending."
    )
    description: AnyText | None = Field(default=None, description="For people.")
    vars: dict[str, Variable] = Field(
        default_factory=dict[str, Any], description="Values to use elsewhere as ${name}."
    )
    catalog: CatalogConfig = Field(
        default_factory=left_out(CatalogConfig), description="Where to look for models."
    )
    defaults: Defaults = Field(
        default_factory=left_out(Defaults),
        description="Settings for all instances of an engine.",
    )
    gateway: GatewayConfig | None = Field(
        default=None, description="One address for all of them, by name of model or instance."
    )
    instances: dict[str, AnyInstance] = Field(
        description="What should run, by name. '{}' means none."
    )

    def effective(self, config: InstanceConfig) -> Effective:
        """The settings of one of the instances, with its engine's defaults merged in."""
        return _effective(config, self._defaults_of(config))

    def binary_of(self, config: InstanceConfig) -> str | None:
        """The one of these settings that says which engine it is."""
        return given("binary", config, self._defaults_of(config))

    def _defaults_of(self, config: InstanceConfig) -> _Common:
        is_ollama = isinstance(config, OllamaConfig)
        return self.defaults.ollama if is_ollama else self.defaults.llama_server


class Effective(Struct, frozen=True):
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
    limits: Limits
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
        limits=_limits(defaults.limits, config.limits),
        resources=ResourcesConfig.model_construct(
            **_settings(defaults.resources, config.resources)
        ),
    )


def given(field: str, config: _Common, defaults: _Common) -> Any:
    """What an instance says for `field`, else what its defaults say."""
    return getattr(config if field in config.model_fields_set else defaults, field)


def _settings(*blocks: Block) -> dict[str, Any]:
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


def _limits(*blocks: LimitsConfig) -> Limits:
    memory = _settings(*(block.memory for block in blocks))
    cpu = _settings(*(block.cpu for block in blocks))
    often: Limit | None = _settings(*(block.restarts for block in blocks)).get("warn")
    settings: dict[str, Any] = {} if often is None else {"restarts_window": often.window}
    return Limits(
        memory_warn=memory.get("warn"),
        memory_max=memory.get("max"),
        cpu_warn=cpu.get("warn"),
        restarts_warn=often.times if often is not None else None,
        **settings,
    )
