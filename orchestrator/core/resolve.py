"""Profile in, specs out: what a profile means on this machine. Pure; every error at once.

Whatever had to be looked up (models, binaries, free ports) comes in as `Surroundings`.
"""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import Struct, field
from msgspec.structs import replace

from orchestrator.core.catalog import Catalog, Found, Model, Unknown, find
from orchestrator.core.doubts import IsForeign, doubts
from orchestrator.core.encoding import is_utf8
from orchestrator.core.engine import Engine, Issue, Launch, LaunchRequest, Layer
from orchestrator.core.gateway_spec import GATEWAY
from orchestrator.core.gpu import Gpu, GpuChooser
from orchestrator.core.lookup import not_found
from orchestrator.core.model_facts import facts_of
from orchestrator.core.modelfile import ModelfileOnDisk
from orchestrator.core.naming import expanded
from orchestrator.core.parse import LoadedProfile
from orchestrator.core.port import PortChooser
from orchestrator.core.problem import Path, Problem
from orchestrator.core.profile import (
    Effective,
    InstanceConfig,
    LlamaServerConfig,
    OllamaConfig,
    Profile,
    given,
)
from orchestrator.core.promise import Promises, tag_or_none
from orchestrator.core.replicas import members, spread
from orchestrator.core.resolve_gateway import resolve_gateway
from orchestrator.core.resolve_models import resolve_models
from orchestrator.core.resolve_resources import Placing
from orchestrator.core.resolve_start import alternate, no_two_ports, on_demand
from orchestrator.core.resolved import ResolvedFile
from orchestrator.core.spec import (
    AttachMode,
    Awaited,
    Command,
    Endpoint,
    InputFile,
    InstanceSpec,
    ModelSet,
)
from orchestrator.errors import InputError

EngineKey = tuple[str, str | None]
"""An engine's name, and the binary that a profile names for it."""


class Surroundings(Struct, frozen=True):
    """What a profile meets here. `engines` holds, for each that it needs, an engine or why not.

    `host` is the default bind address, `cwd` where every instance will run, `store` the folder of
    the caller's Ollama models, `listening` the ports that somebody listens on. `modelfiles` are
    those that the profile names, by what it says, `promises` the models that Ollama instances of
    the same set will bring, `gpus` what each of the engines sees, `threads` how many an engine is
    to have by default, None as many as it likes, `gateway` how the gateway's program is run.
    """

    catalog: Catalog
    engines: Mapping[EngineKey, Engine | InputError]
    host: str
    cwd: str
    ports: PortChooser
    store: str = ""
    listening: frozenset[int] = frozenset()
    modelfiles: Mapping[str, ModelfileOnDisk] = field(default_factory=dict[str, ModelfileOnDisk])
    promises: Promises = field(default_factory=Promises)
    gpus: Mapping[EngineKey, tuple[Gpu, ...]] = field(default_factory=dict[Any, tuple[Gpu, ...]])
    gpu_chooser: GpuChooser = field(default_factory=GpuChooser)
    gateway: tuple[str, ...] = ("orchestrate-gateway",)
    threads: int | None = None
    is_foreign: IsForeign | None = None
    """Given where doubts are wanted as well."""


class Resolved(Struct, frozen=True):
    """A file's specs (of those instances that are right) and all that is wrong or doubtful."""

    file: ResolvedFile
    problems: tuple[Problem, ...]
    warnings: tuple[Problem, ...]


def needed_engines(profile: Profile) -> set[EngineKey]:
    """The engines that the instances of a profile are run by."""
    return {(config.engine, profile.binary_of(config)) for config in profile.instances.values()}


def resolve_profile(loaded: LoadedProfile, around: Surroundings) -> Resolved:
    """Every instance of one profile, or what keeps it from being one."""
    problems: dict[Problem, None] = {}
    warnings: dict[Problem, None] = {}
    specs: dict[str, InstanceSpec] = {}

    def note(issues: Iterable[Issue]) -> None:
        for issue in issues:
            place = loaded.place(issue.path, key=issue.key)
            target = warnings if issue.warning else problems
            target[Problem(issue.message, place, issue.path, issue.hint)] = None

    each = [
        (own, name, config)
        for name, config in loaded.config.instances.items()
        for own in members(name, config)
    ]
    for own, name, config in each:
        instance = _Instance(loaded, own, config, around, declared=name)
        spec = instance.resolve()
        note(instance.issues)
        if spec is not None:
            specs[own] = spec
    gateway, found = resolve_gateway(
        loaded,
        specs,
        whole=len(specs) == len(each),
        program=around.gateway,
        host=around.host,
        cwd=around.cwd,
        ports=around.ports,
    )
    if gateway is not None:
        specs[GATEWAY] = gateway
    note(found)
    reads = {file.path: digest_of(file.text) for file in around.modelfiles.values()}
    meant = ResolvedFile(loaded.file, loaded.name, loaded.revision, specs, reads)
    return Resolved(meant, tuple(problems), tuple(warnings))


def digest_of(text: str | InputError) -> str:
    """Tells one text from another; all that cannot be read are alike."""
    return hashlib.sha256(text.encode()).hexdigest() if isinstance(text, str) else ""


class _Instance:
    """One instance on its way from config to spec; `issues` grows on the way."""

    def __init__(
        self,
        loaded: LoadedProfile,
        name: str,
        config: InstanceConfig,
        around: Surroundings,
        *,
        declared: str,
    ) -> None:
        """`declared` is what the profile calls it: it may be one of its replicas."""
        self._loaded = loaded
        self._name = name
        self._replica_of = declared if declared != name else ""
        self._config = config
        self._around = around
        self._folder = posixpath.dirname(loaded.file)
        self._path: Path = ("instances", declared)
        self._awaits: Awaited | None = None
        self.issues: list[Issue] = []

    def resolve(self) -> InstanceSpec | None:
        config = self._config
        effective = self._loaded.config.effective(config)
        if effective.update.strategy == "start-first":
            self.issues += no_two_ports(self._name, config, self._path)
        if isinstance(config, OllamaConfig):
            return self._ollama(config, effective)
        return self._llama_server(config, effective)

    def _engine(self, effective: Effective) -> Engine | InputError:
        return self._around.engines[(self._config.engine, effective.binary)]

    def _no_engine(self, effective: Effective, error: InputError) -> None:
        where = "binary" if effective.binary else "engine"
        self.issues.append(Issue((*self._path, where), error.message, error.hint, key=False))

    def _llama_server(self, config: LlamaServerConfig, effective: Effective) -> InstanceSpec | None:
        model = self._model("model", config.model)
        mmproj = self._mmproj(config, model)
        engine = self._engine(effective)
        if isinstance(engine, InputError):
            self._no_engine(effective, engine)
            return None
        request = self._request(config, effective, model, mmproj)
        if self._awaits is not None:
            request = replace(request, model_path=self._awaits.model)
        placed = self._placing(effective).llama_server(engine.launch, request, model)
        launch = placed.launch
        self.issues += (*launch.issues, *placed.issues)
        wanted = on_demand(config, self._loaded.config.defaults.llama_server)
        if launch.command is None or launch.endpoint is None:
            return None
        if model is None:
            if self._awaits is None:
                return None
            spec = self._spec(effective, launch.command, launch.endpoint, launch.inputs)
            return replace(
                spec,
                model=config.model,
                awaits=self._awaits,
                on_demand=wanted,
            )
        odd = next((word for word in launch.command.argv if not is_utf8(word)), None)
        if odd is not None:
            message, hint = f"{odd!r} is not valid UTF-8", "rename the file, or its folder"
            self.issues.append(Issue((*self._path, "model"), message, hint, key=False))
            return None
        if effective.liveness.mode == "inference" and launch.inference is None:
            message = "an instance with sleep-idle-seconds is asked for its health only"
            hint = "a probe that generates something would keep it awake"
            self.issues.append(Issue((*self._path, "liveness"), message, hint, warning=True))
        files = (InputFile("model", model.path, model.identity), *launch.inputs)
        spec = self._spec(effective, launch.command, launch.endpoint, files)
        self._doubt(spec, model)
        return replace(
            spec,
            model=config.model,
            inference=launch.inference,
            demand=placed.demand,
            gpus=placed.gpus,
            alternate=alternate(spec, engine, placed.request, self._around.ports),
            facts=facts_of(model, sees=mmproj is not None),
            on_demand=wanted,
        )

    def _doubt(self, spec: InstanceSpec, model: Model | None) -> None:
        if self._around.is_foreign is not None:
            self.issues += doubts(spec, model, self._path, self._around.is_foreign)

    def _placing(self, effective: Effective) -> Placing:
        around = self._around
        seen = around.gpus.get((self._config.engine, effective.binary), ())
        return Placing(self._name, self._path, effective.resources, around.gpu_chooser, seen)

    def _ollama(self, config: OllamaConfig, effective: Effective) -> InstanceSpec | None:
        defaults = self._loaded.config.defaults.ollama
        attach: AttachMode = given("attach", config, defaults) or "auto"
        engine = self._engine(effective)
        launch = self._ollama_launch(config, effective, engine, attach)
        found, issues = resolve_models(
            config.models,
            path=(*self._path, "models"),
            folder=self._folder,
            catalog=self._around.catalog,
            modelfiles=self._around.modelfiles,
            limit=launch.limit,
        )
        self.issues += issues
        if launch.command is None or launch.endpoint is None or found is None:
            return None
        holds = ModelSet(
            found,
            store=launch.store,
            prune=bool(given("prune", config, defaults)),
            verify=(config.verify if config.verify.model_fields_set else defaults.verify).interval,
            limit=launch.limit,
        )
        readiness = replace(effective.readiness, path="/api/version")
        spec = self._spec(
            replace(effective, readiness=readiness), launch.command, launch.endpoint, launch.inputs
        )
        demand = self._placing(effective).ollama_demand()
        self._doubt(replace(spec, attach=attach), None)
        return replace(spec, attach=attach, holds=holds, demand=demand)

    def _ollama_launch(
        self,
        config: OllamaConfig,
        effective: Effective,
        engine: Engine | InputError,
        attach: AttachMode,
    ) -> Launch:
        """How our own server would be started; where there can only be another's, only where."""
        host = effective.host or self._around.host
        if attach == "only" and config.port == "auto":
            message, hint = "attach: only needs a port to attach to", "Ollama's own is 11434"
            self.issues.append(Issue((*self._path, "attach"), message, hint, key=False))
            return Launch(None, None)
        port = self._port()
        if isinstance(engine, InputError):
            there = attach == "auto" and port in self._around.listening
            if attach != "only" and not there:
                self._no_engine(effective, engine)
                return Launch(None, None)
            # Nothing of ours can run here: it must not look as if it could.
            return Launch(Command((), {}, self._around.cwd), Endpoint(host, port))
        defaults = self._loaded.config.defaults.ollama
        env, issues = self._placing(effective).ollama_env(effective.env)
        self.issues += issues
        launch = engine.launch(
            LaunchRequest(
                host=host,
                port=port,
                layers=(
                    Layer(defaults.settings, ("defaults", "ollama", "settings")),
                    Layer(config.settings, (*self._path, "settings")),
                ),
                env=env,
                args=(),
                args_path=(*self._path, "args"),
                folder=self._folder,
                cwd=self._around.cwd,
                store=self._around.store,
            )
        )
        self.issues += launch.issues
        return launch

    def _port(self) -> int:
        port = self._config.port
        return self._around.ports.choose(self._name) if port == "auto" else port

    def _model(self, key: str, ref: str) -> Model | None:
        found = find(self._around.catalog, ref, folder=self._folder)
        if isinstance(found, Found) and found.model.unfit:
            message = f"model {ref!r} cannot run on {self._config.engine}: it {found.model.unfit}"
            hint = "serve it from an instance with `engine: ollama`, under its `models:`"
            self.issues.append(Issue((*self._path, key), message, hint, key=False))
            return None
        if isinstance(found, Found):
            return found.model
        tag, promises = tag_or_none(ref) or "", self._around.promises
        brings = promises.by(tag)
        if key == "model" and brings is not None and isinstance(found, Unknown):
            self._awaits = Awaited(brings, tag, kept=promises.has_kept(tag))
            return None
        message, hint = not_found(self._around.catalog, ref, found, folder=self._folder)
        self.issues.append(Issue((*self._path, key), message, hint, key=False))
        return None

    def _mmproj(self, config: LlamaServerConfig, model: Model | None) -> str | None:
        mmproj = given("mmproj", config, self._loaded.config.defaults.llama_server)
        if mmproj is None:
            return model.mmproj if model is not None else None
        catalog = self._around.catalog
        path = posixpath.normpath(posixpath.join(self._folder, expanded(mmproj, catalog.home)))
        known = {other.mmproj for other in catalog.models}
        if path in known:
            return path
        found = self._model("mmproj", mmproj)
        return found.path if found is not None else None

    def _request(
        self,
        config: LlamaServerConfig,
        effective: Effective,
        model: Model | None,
        mmproj: str | None,
    ) -> LaunchRequest:
        defaults = self._loaded.config.defaults.llama_server
        return LaunchRequest(
            host=effective.host or self._around.host,
            port=self._port(),
            layers=(
                Layer(defaults.flags, ("defaults", config.engine, "flags")),
                Layer(config.flags, (*self._path, "flags")),
            ),
            env=effective.env,
            args=tuple(given("args", config, defaults)),
            args_path=(*self._path, "args"),
            folder=self._folder,
            cwd=self._around.cwd,
            # A missing model is an issue already; the flags are checked all the same.
            model_path=model.path if model is not None else None,
            mmproj_path=mmproj,
            threads=self._around.threads,
        )

    def _spec(
        self,
        effective: Effective,
        command: Command,
        endpoint: Endpoint,
        inputs: tuple[InputFile, ...],
    ) -> InstanceSpec:
        return InstanceSpec(
            name=self._name,
            engine=self._config.engine,
            command=command,
            endpoint=endpoint,
            profiles=(self._loaded.name,),
            description=effective.description,
            auto_port=self._config.port == "auto",
            inputs=inputs,
            needs=tuple(spread(self._config.needs, self._loaded.config.instances)),
            readiness=effective.readiness,
            liveness=effective.liveness,
            restart=effective.restart,
            stop=effective.stop,
            update=effective.update,
            limits=effective.limits,
            replica_of=self._replica_of,
        )
