"""When and where an instance is started: on demand, or beside the one that runs. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from orchestrator.core.engine import Engine, Issue, LaunchRequest
from orchestrator.core.port import PortChooser
from orchestrator.core.problem import Path
from orchestrator.core.profile import (
    InstanceConfig,
    LlamaServerConfig,
    LlamaServerDefaults,
    OllamaConfig,
    given,
)
from orchestrator.core.spec import Alternate, InstanceSpec, OnDemand
from orchestrator.core.successor import next_of


def on_demand(config: LlamaServerConfig, defaults: LlamaServerDefaults) -> OnDemand | None:
    """None for what is always to run."""
    if given("start", config, defaults) != "on-demand":
        return None
    return OnDemand(
        idle=given("idle", config, defaults),
        pin=bool(given("pin", config, defaults)),
        preload=bool(given("preload", config, defaults)),
    )


def alternate(
    spec: InstanceSpec, engine: Engine, request: LaunchRequest, ports: PortChooser
) -> Alternate | None:
    """The same on another port, for what is started beside what runs; None where nothing is."""
    if spec.update.strategy != "start-first" or not spec.auto_port:
        return None
    launch = engine.launch(replace(request, port=ports.choose(next_of(spec.name))))
    if launch.command is None or launch.endpoint is None:
        return None
    return Alternate(launch.command, launch.endpoint)


def no_two_ports(name: str, config: InstanceConfig, path: Path) -> Iterator[Issue]:
    """Why one that is to be started beside itself cannot be."""
    said = "strategy" in config.update.model_fields_set
    home = path if said else ("defaults", config.engine)
    whose = "" if said else f" for {name!r}"
    hint = f"write `strategy: stop-first`{whose}"
    if isinstance(config, OllamaConfig):
        message = "start-first is for llama-server: two Ollama servers would share one store"
    elif config.port != "auto":
        message = f"start-first needs `port: auto`{whose}: the next process has another port"
        hint += ", or `port: auto`; a gateway is the address that stays"
    else:
        return
    yield Issue((*home, "update", "strategy"), message, hint, key=False)
