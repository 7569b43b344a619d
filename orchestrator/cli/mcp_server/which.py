"""From a name to an instance: its own, a model's, or one that a profile declares which is not
applied."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from orchestrator.core.problem import did_you_mean, listing
from orchestrator.core.tag import BadTagError, canonical
from orchestrator.errors import InputError
from orchestrator.settings import Settings

if TYPE_CHECKING:
    from orchestrator.core.parse import LoadedProfile


class Wish(Struct, frozen=True):
    """What a name means. `model` is one of an Ollama instance, empty for the instance as it is;
    `profile` is the file to apply first, empty where the instance is applied already."""

    instance: str
    model: str = ""
    profile: str = ""


def find_applied(settings: Settings, rows: Iterable[Mapping[str, Any]], name: str) -> Wish | None:
    """The instance that `name` means among those of the status; one that is ready is preferred."""
    rows = sorted(rows, key=lambda row: row["phase"] != "ready")
    for row in rows:
        if row["name"] == name or name in {f"{one}/{row['name']}" for one in row["profiles"]}:
            return Wish(row["name"])
    tag = _tag(name)
    for row in rows:
        for model in row["models"]:
            if tag and model["name"].casefold() == tag:
                return Wish(row["name"], model["name"])
    for row in rows:
        if row["engine"] != "ollama" and _is_model(name, row["model"]):
            return Wish(row["name"])
    return _by_file(settings, rows, name)


def find_declared(settings: Settings, name: str) -> Wish:
    """The instance that `name` means in the profiles found. Raises `InputError`, also where
    several profiles have one, and for a model that none of them names."""
    found: dict[str, Wish] = {}
    known: list[str] = []
    for loaded in _profiles(settings):
        known += [f"{loaded.name}/{one}" for one in loaded.config.instances]
        wish = _in_profile(loaded, name)
        if wish is not None:
            found[f"{loaded.name}/{wish.instance}"] = wish
    if len(found) > 1:
        raise InputError(
            f"{name!r} is in several profiles, and none of them is applied",
            hint=f"name one of: {listing(list(found))}",
        )
    if not found:
        raise _unknown(settings, name, known)
    return next(iter(found.values()))


def _profiles(settings: Settings) -> Iterable[LoadedProfile]:
    from orchestrator.cli.profiles import load, profile_files

    for file in profile_files(settings):
        loaded = load(file, settings, os.environ)
        if loaded is not None:
            yield loaded


def _in_profile(loaded: LoadedProfile, name: str) -> Wish | None:
    from orchestrator.core.profile import OllamaConfig

    tag = _tag(name)
    for key, config in loaded.config.instances.items():
        if name in (key, f"{loaded.name}/{key}"):
            return Wish(key, profile=loaded.file)
        if isinstance(config, OllamaConfig):
            names = [one.name or one.alias or one.pull or "" for one in config.models]
            held = next((one for one in map(_tag, names) if one and one == tag), None)
            if held:
                return Wish(key, held, loaded.file)
        elif _is_model(name, config.model):
            return Wish(key, profile=loaded.file)
    return None


def _tag(name: str) -> str:
    """As Ollama would show it, for comparing; empty for what cannot be a tag."""
    try:
        return canonical(name).casefold() if name else ""
    except BadTagError:
        return ""


def _is_model(name: str, model: str) -> bool:
    """Whether `name` is what somebody would call a model that a profile names as `model`."""
    base = os.path.basename(model)
    return name in (model, base, base.removesuffix(".gguf"))


def _by_file(settings: Settings, rows: Iterable[Mapping[str, Any]], name: str) -> Wish | None:
    """By the file that the catalog finds under that name: the one that an instance runs."""
    from orchestrator.cli.model_stores import applied_specs
    from orchestrator.cli.models import catalog_here
    from orchestrator.core.catalog import Found, find

    found = find(catalog_here(settings, os.environ), name, folder=os.getcwd())
    if not isinstance(found, Found):
        return None
    files = {os.path.realpath(path) for path in (found.model.path, *found.model.parts)}
    specs = applied_specs(settings)
    for row in rows:
        spec = specs.get(row["name"])
        inputs = spec.inputs if spec is not None else ()
        if any(one.role == "model" and os.path.realpath(one.path) in files for one in inputs):
            return Wish(row["name"])
    return None


def _unknown(settings: Settings, name: str, known: list[str]) -> InputError:
    from orchestrator.cli.models import catalog_here
    from orchestrator.core.catalog import Found, find

    catalog = catalog_here(settings, os.environ)
    if isinstance(find(catalog, name, folder=os.getcwd()), Found):
        return InputError(
            f"model {name!r} is on this machine, but no profile has an instance that runs it",
            hint="declare one in a profile, and apply it; `orchestrate init` writes a first one",
        )
    instances = [one.rpartition("/")[2] for one in known]
    near = did_you_mean(name, [*instances, *known, *(model.ref for model in catalog.models)])
    declared = f"declared: {listing(known)}" if known else "no profile declares an instance"
    return InputError(f"no instance or model is named {name!r}", hint=near or declared)
