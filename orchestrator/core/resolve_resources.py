"""The `resources:` of an instance: which GPUs it is to see, and the memory that it takes. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from msgspec import Struct, field
from msgspec.structs import replace

from orchestrator.core.blocks import ResourcesConfig
from orchestrator.core.catalog import Model
from orchestrator.core.demand import Weights, declared_demand, llama_server_demand
from orchestrator.core.engine import Issue, Launch, LaunchRequest, Layer
from orchestrator.core.gpu import Gpu, GpuChooser, Visible, visible, visible_to_ollama
from orchestrator.core.problem import Path
from orchestrator.core.spec import Demand

Render = Callable[[LaunchRequest], Launch]


class Placed(Struct, frozen=True):
    """A launch that sees the GPUs it is to see, what it takes, and what was wrong with that.

    `request` is what was asked of the engine in the end.
    """

    launch: Launch
    request: LaunchRequest
    demand: Demand | None = None
    gpus: tuple[int, ...] | None = None
    issues: tuple[Issue, ...] = ()


class Placing(Struct, frozen=True):
    """What decides where an instance goes. `path` is that of its instance in the profile."""

    name: str
    path: Path
    resources: ResourcesConfig
    chooser: GpuChooser
    gpus: Sequence[Gpu] = field(default=())

    def llama_server(self, render: Render, request: LaunchRequest, model: Model | None) -> Placed:
        """Render, choose, and count."""
        chosen = self.resources.gpus
        if chosen == "auto" and not self.gpus:
            chosen = None
        if chosen is None:
            return self._counted(render, request, model, None)
        if chosen == "auto":
            trial = self._estimated(render(request), model, self._totals(None))
            needed = self.resources.memory or sum(trial.gpus.values() if trial else ())
            chosen = self.chooser.choose(self.name, needed, self.gpus)
        try:
            seen = visible(chosen, self.gpus)
        except ValueError as error:
            where = (*self.path, "resources", "gpus")
            issue = Issue(where, str(error), "`orchestrate doctor` shows them", key=False)
            return Placed(render(request), request, issues=(issue,))
        issues = self._contradictions(request, seen)
        told = self._told(request, seen)
        return replace(self._counted(render, told, model, chosen), issues=issues)

    def ollama_env(self, env: Mapping[str, str]) -> tuple[dict[str, str], tuple[Issue, ...]]:
        """The environment with the GPUs in it that it is to see. `auto` leaves them to Ollama."""
        chosen = self.resources.gpus
        if chosen is None or chosen == "auto":
            return dict(env), ()
        seen = visible_to_ollama(chosen)
        return {**env, **seen.env}, self._named_twice(env, seen)

    def ollama_demand(self) -> Demand | None:
        """What is declared: which models it will load is not ours to foresee."""
        chosen = self.resources.gpus
        places = chosen if isinstance(chosen, tuple) else ()
        memory = self.resources.memory
        return None if memory is None else self._promised(declared_demand(memory, None, places))

    def _totals(self, chosen: Sequence[int] | None) -> dict[int, int]:
        return {g.index: g.total for g in self.gpus if chosen is None or g.index in chosen}

    def _counted(
        self,
        render: Render,
        request: LaunchRequest,
        model: Model | None,
        chosen: tuple[int, ...] | None,
    ) -> Placed:
        launch = render(request)
        estimated = self._estimated(launch, model, self._totals(chosen))
        memory = self.resources.memory
        demand = estimated if memory is None else declared_demand(memory, estimated, chosen or ())
        return Placed(launch, request, self._promised(demand), chosen)

    def _estimated(
        self, launch: Launch, model: Model | None, gpus: Mapping[int, int]
    ) -> Demand | None:
        if launch.command is None or model is None:
            return None
        weights = Weights({model.path: model.size_bytes}, model.metadata)
        return llama_server_demand(launch.command, weights, gpus)

    def _promised(self, demand: Demand | None) -> Demand | None:
        if demand is not None:
            self.chooser.promise(demand.gpus)
        return demand

    def _told(self, request: LaunchRequest, seen: Visible) -> LaunchRequest:
        layers = request.layers
        if seen.device:
            layers = (*layers, Layer({"device": seen.device}, (*self.path, "resources")))
        return replace(request, env={**request.env, **seen.env}, layers=layers)

    def _contradictions(self, request: LaunchRequest, seen: Visible) -> tuple[Issue, ...]:
        said = [layer for layer in request.layers if layer.flags.get("device") is not None]
        where = (*self.path, "resources", "gpus")
        hint = "keep one of the two"
        twice = tuple(
            Issue(where, "GPUs are also chosen by the flag 'device'", hint) for _ in said[:1]
        )
        return (*twice, *self._named_twice(request.env, seen))

    def _named_twice(self, env: Mapping[str, str], seen: Visible) -> tuple[Issue, ...]:
        where = (*self.path, "resources", "gpus")
        return tuple(
            Issue(where, f"GPUs are also chosen by {name} in `env:`", "keep one of the two")
            for name in seen.env
            if env.get(name, seen.env[name]) != seen.env[name]
        )
