"""Readings in, desired state out: parses, discovers and resolves. Blocking; run in a thread.

The one road from paths to specs: the daemon takes it, and so do `validate` and `plan` without one.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence

from msgspec import Struct, field
from msgspec.structs import replace

from orchestrator.control.reading import Reading, text_of
from orchestrator.control.toolchain import Toolchain
from orchestrator.core.admission import Budget, excesses
from orchestrator.core.catalog import Catalog, CatalogError
from orchestrator.core.doubts import gateway_doubts
from orchestrator.core.engine import Engine
from orchestrator.core.gateway_spec import GATEWAY
from orchestrator.core.gpu import Gpu, GpuChooser
from orchestrator.core.modelfile import ModelfileOnDisk, absolute, parse_modelfile
from orchestrator.core.modelfile_text import ModelfileError
from orchestrator.core.naming import expanded
from orchestrator.core.parse import LoadedProfile, parse_profile
from orchestrator.core.port import PortChooser
from orchestrator.core.problem import Place, Problem
from orchestrator.core.profile import OllamaConfig
from orchestrator.core.promise import Promises
from orchestrator.core.resolve import (
    EngineKey,
    Surroundings,
    needed_engines,
    resolve_profile,
)
from orchestrator.core.resolved import ResolvedFile
from orchestrator.core.spec import Desired, InstanceSpec
from orchestrator.core.union import unite
from orchestrator.discovery.places import locations, ollama_store
from orchestrator.discovery.scan import inspect, scan
from orchestrator.errors import InputError
from orchestrator.runtime import cpu_limit
from orchestrator.runtime.addresses import is_foreign
from orchestrator.runtime.files import named_files
from orchestrator.runtime.state import AppliedSource


class Resolution(Struct, frozen=True):
    """What files mean together. `desired` is complete only when there are no problems."""

    files: tuple[ResolvedFile, ...]
    desired: Desired
    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()
    chosen_ports: dict[str, int] = field(default_factory=dict[str, int])


class Machine(Struct, frozen=True):
    """What resolving has to know of this machine besides the files. Ports as for `PortChooser`."""

    toolchain: Toolchain
    cache_dir: str
    run_dir: str
    held_ports: Mapping[str, int]
    taken_ports: frozenset[int]
    ephemeral: tuple[int, int]
    promises: Promises = field(default_factory=Promises)
    """Of instances that are applied beside what is resolved."""
    beside: Desired = field(default_factory=dict[str, InstanceSpec])
    """Those instances."""
    held_gpus: Mapping[str, tuple[int, ...]] = field(default_factory=dict[str, tuple[int, ...]])
    budget: Budget | None = None
    """The memory that there is; None where that is not asked."""
    forced: bool = False
    """What does not fit into memory is only warned of."""
    doubting: bool = False
    """What is valid and most likely not meant is warned of, too."""


def resolve_readings(readings: Sequence[Reading], machine: Machine) -> Resolution:
    """All problems of all files at once; specs for what is right."""
    problems: list[Problem] = []
    loaded: list[tuple[LoadedProfile, AppliedSource]] = []
    for reading in readings:
        if reading.data is None:
            problems.append(Problem(reading.error, Place(reading.file, 1, 1)))
            continue
        parsed = parse_profile(reading.data, file=reading.file, env=reading.source.env)
        problems += parsed.problems
        if parsed.profile is not None:
            loaded.append((parsed.profile, reading.source))
        elif parsed.rest is not None:
            # Rejected in any case: resolved only so that all of its errors come at once.
            loaded.append((parsed.rest, reading.source))
    return _resolve_loaded(loaded, problems, machine)


def _resolve_loaded(
    loaded: list[tuple[LoadedProfile, AppliedSource]], problems: list[Problem], machine: Machine
) -> Resolution:
    fixed = {
        config.port
        for profile, _ in loaded
        for config in profile.config.instances.values()
        if isinstance(config.port, int)
    }
    gateways = (profile.config.gateway for profile, _ in loaded)
    fixed |= {one.port for one in gateways if one is not None and isinstance(one.port, int)}
    chooser = PortChooser(
        machine.held_ports, machine.taken_ports | fixed, machine.ephemeral, machine.run_dir
    )
    gpus = GpuChooser(machine.held_gpus)
    for spec in machine.beside.values():
        gpus.promise(spec.demand.gpus if spec.demand is not None else {})
    files: list[ResolvedFile] = []
    warnings: list[Problem] = []
    by_file = {profile.file: profile for profile, _ in loaded}
    for profile, source in loaded:
        home = _home(source)
        promises = machine.promises.and_of(profile.config, profile.folder, home)
        machine = replace(machine, promises=promises)
    for profile, source in loaded:
        around = replace(_surroundings(profile, source, machine, chooser), gpu_chooser=gpus)
        resolved = resolve_profile(profile, around)
        problems += resolved.problems
        warnings += resolved.warnings
        files.append(resolved.file)
    desired, conflicts = unite(files)
    for conflict in conflicts:
        place = by_file[conflict.file].place(conflict.where, key=True)
        problems.append(Problem(conflict.message, place, conflict.where, conflict.hint))
    if machine.doubting:
        warnings += _unasked({**machine.beside, **desired}, files, by_file)
        warnings += _doubts(by_file.values())
    (warnings if machine.forced else problems).extend(_too_much(desired, files, by_file, machine))
    ordered = sorted(problems, key=lambda p: (p.place.file, p.place.line, p.place.column))
    return Resolution(tuple(files), desired, tuple(ordered), tuple(warnings), chooser.chosen)


def _unasked(
    desired: Desired, files: Iterable[ResolvedFile], by_file: Mapping[str, LoadedProfile]
) -> Iterator[Problem]:
    """What runs on demand where there is no gateway that could ask for it: of each file the first,
    for one `gateway:` serves them all."""
    if GATEWAY in desired:
        return
    for file in files:
        name = next((n for n, spec in file.specs.items() if spec.on_demand is not None), None)
        if name is not None:
            path = ("instances", name, "start")
            message = f"instance {name!r} waits for a request, and no gateway is declared"
            hint = "add 'gateway: {port: 8080}', or apply it beside a profile that has one"
            yield Problem(message, by_file[file.file].place(path, key=True), path, hint)


def _doubts(profiles: Iterable[LoadedProfile]) -> Iterator[Problem]:
    """About gateways; those about instances come with their specs."""
    for profile in profiles:
        if profile.config.gateway is not None:
            for one in gateway_doubts(profile.config.gateway, is_foreign):
                place = profile.place(one.path, key=one.key)
                yield Problem(one.message, place, one.path, one.hint)


def _too_much(
    desired: Desired,
    files: Iterable[ResolvedFile],
    by_file: Mapping[str, LoadedProfile],
    machine: Machine,
) -> Iterator[Problem]:
    """What can never fit into memory, with all that is applied beside it."""
    if machine.budget is None:
        return
    files = list(files)
    for excess in excesses({**machine.beside, **desired}, machine.budget):
        home = next((file.file for file in files if excess.instance in file.specs), None)
        # What is applied already is not the fault of what is resolved now.
        if home is not None:
            path = ("instances", excess.instance)
            place = by_file[home].place(path, key=True)
            yield Problem(excess.message, place, path, excess.hint)


def _home(source: AppliedSource) -> str:
    """The caller's."""
    return source.env.get("HOME") or os.path.expanduser("~")


def _surroundings(
    profile: LoadedProfile, source: AppliedSource, machine: Machine, chooser: PortChooser
) -> Surroundings:
    home = _home(source)
    needed = needed_engines(profile.config)
    return Surroundings(
        catalog=_catalog(profile, source, machine),
        engines={key: _engine(key, profile, source, machine.toolchain) for key in needed},
        host=source.env.get("ORCHESTRATE_HOST") or "127.0.0.1",
        is_foreign=is_foreign if machine.doubting else None,
        threads=cpu_limit.default_threads(source.env.get(cpu_limit.VARIABLE)),
        cwd=machine.run_dir,
        ports=chooser,
        gateway=(sys.executable, "-P", "-m", "orchestrator.gateway"),
        store=ollama_store(source.env, home=home, cwd=source.cwd),
        listening=machine.taken_ports,
        modelfiles=_modelfiles(profile, home),
        promises=machine.promises,
        gpus={key: _gpus(key, profile, source, machine.toolchain) for key in needed},
    )


def _modelfiles(profile: LoadedProfile, home: str) -> dict[str, ModelfileOnDisk]:
    """Every Modelfile that the profile names, by what it says."""
    found: dict[str, ModelfileOnDisk] = {}
    for config in profile.config.instances.values():
        for model in config.models if isinstance(config, OllamaConfig) else ():
            if model.modelfile is not None:
                written = model.modelfile
                whole = home + written[1:] if written.startswith("~/") else written
                path = os.path.normpath(os.path.join(profile.folder, whole))
                text = text_of(path)
                found[written] = ModelfileOnDisk(path, text, _present_bases(path, text))
    return found


def _present_bases(path: str, text: str | InputError) -> frozenset[str]:
    """Those of its bases that are files."""
    if isinstance(text, InputError):
        return frozenset()
    try:
        bases = parse_modelfile(text).bases
    except ModelfileError:
        return frozenset()
    folder = os.path.dirname(path)
    return frozenset(base for base in bases if named_files(absolute(base, folder)))


def _engine(
    key: EngineKey, profile: LoadedProfile, source: AppliedSource, toolchain: Toolchain
) -> Engine | InputError:
    name, binary = _named(key, profile)
    try:
        return toolchain.engine(name, binary, source.env)
    except InputError as error:
        return error


def _gpus(
    key: EngineKey, profile: LoadedProfile, source: AppliedSource, toolchain: Toolchain
) -> tuple[Gpu, ...]:
    name, binary = _named(key, profile)
    try:
        return toolchain.gpus(name, binary, source.env)
    except InputError:
        return ()


def _named(key: EngineKey, profile: LoadedProfile) -> EngineKey:
    """The engine with the path of its binary made whole."""
    name, binary = key
    if binary is not None and "/" in binary:
        binary = os.path.normpath(os.path.join(profile.folder, os.path.expanduser(binary)))
    return name, binary


def _catalog(profile: LoadedProfile, source: AppliedSource, machine: Machine) -> Catalog:
    """What discovery finds for this caller, and the files that the profile names by path."""
    home = _home(source)
    dirs = [os.path.join(profile.folder, one) for one in profile.config.catalog.dirs]
    cache_file = catalog_cache(machine.cache_dir)
    refs = list(_references(profile))
    named = [path for ref in refs if (path := _as_file(ref, profile.folder, home)) is not None]
    if len(named) == len(refs) and not _has_stores(profile):
        # Every model is named by its path: nothing has to be searched.
        return _inspected(Catalog(home=home), named, cache_file)
    stores = machine.promises.stores
    places = locations(source.env, home=home, cwd=source.cwd, dirs=dirs, stores=stores)
    catalog = replace(scan(places, cache_file=cache_file), home=home)
    return _inspected(catalog, named, cache_file)


def _references(profile: LoadedProfile) -> Iterator[str]:
    """Every model on disk that the profile names."""
    for config in profile.config.instances.values():
        if isinstance(config, OllamaConfig):
            yield from (model.gguf for model in config.models if model.gguf is not None)
        else:
            yield config.model


def _has_stores(profile: LoadedProfile) -> bool:
    """Whether what is in Ollama's stores matters to it."""
    return any(isinstance(config, OllamaConfig) for config in profile.config.instances.values())


def catalog_cache(cache_dir: str) -> str:
    """Where discovery remembers headers."""
    return os.path.join(cache_dir, "catalog.json")


def _as_file(ref: str, folder: str, home: str) -> str | None:
    path = os.path.normpath(os.path.join(folder, expanded(ref, home)))
    for candidate in (path, f"{path}.gguf"):
        if os.path.isfile(candidate):
            return candidate
    return None


def _inspected(catalog: Catalog, paths: Iterable[str], cache_file: str) -> Catalog:
    known = {part for model in catalog.models for part in (model.path, *model.parts)}
    models, errors = list(catalog.models), list(catalog.errors)
    for path in dict.fromkeys(paths):
        if path in known:
            continue
        try:
            models.append(inspect(path, cache_file=cache_file))
        except InputError as error:
            errors.append(CatalogError(path, error.message, error.hint))
    return Catalog(tuple(models), tuple(errors), catalog.home)
