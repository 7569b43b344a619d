"""`models`: what discovery found on this machine."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click
from msgspec.structs import asdict, replace

from orchestrator.cli.options import json_option
from orchestrator.cli.render import inert, print_json, size
from orchestrator.cli.tables import table
from orchestrator.core.catalog import Ambiguous, Catalog, Found, Model, find, model_json
from orchestrator.core.problem import listing
from orchestrator.errors import InputError
from orchestrator.settings import Settings

if TYPE_CHECKING:
    from orchestrator.discovery.places import Location

HEAD = (
    *("REF", "SOURCE", "ARCHITECTURE", "PARAMETERS", "QUANTIZATION", "CONTEXT", "SIZE"),
    *("LOADED BY", "NOT ON LLAMA-SERVER"),
)
PLAIN = 7
"""Columns that are always shown."""

ELSEWHERE = {
    "show": "models_show",
    "pull": "models_pull",
    "rm": "models_remove",
    "prune": "models_prune",
    "verify": "models_verify",
}
"""Subcommands in modules of their own, which are loaded when they are asked for."""


class ModelsGroup(click.Group):
    """What is found, and the subcommands of `ELSEWHERE`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(ELSEWHERE)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in ELSEWHERE:
            return None
        module = importlib.import_module(f"orchestrator.cli.{ELSEWHERE[cmd_name]}")
        command: click.Command = getattr(module, f"{cmd_name}_command")
        return command


@click.group(
    "models",
    cls=ModelsGroup,
    invoke_without_command=True,
    epilog="Examples: orchestrate models --json | orchestrate models show tiny",
)
@json_option
@click.pass_context
def models_command(context: click.Context, as_json: bool) -> None:
    """List the models on this machine: GGUF files, caches and Ollama's store.

    It looks in ./models, in ORCHESTRATE_MODELS, in what the profiles found name as
    `catalog.dirs`, and where Hugging Face, llama.cpp, LM Studio and Ollama keep theirs.
    """
    if context.invoked_subcommand is not None:
        if as_json:
            raise click.UsageError("--json goes after the name of the subcommand", context)
        return
    settings = Settings.from_env(os.environ)
    catalog = catalog_here(settings, os.environ)
    if as_json:
        print_json(catalog_document(settings, catalog))
        return
    held = holders(settings, catalog)
    if catalog.models:
        rows = [_row(model, loaded_by(model, held)) for model in catalog.models]
        # What hardly any model has takes no room where none has it.
        kept = [at for at in range(len(HEAD)) if at < PLAIN or any(row[at] for row in rows)]
        for line in table([HEAD[at] for at in kept], [[row[at] for at in kept] for row in rows]):
            click.echo(line)
    else:
        click.echo(f"no models found\nhint: {no_models_hint(settings, os.environ)}", err=True)
    for error in catalog.errors:
        click.echo(f"warning: {inert(error.path)}: {inert(error.message)}", err=True)


def catalog_document(settings: Settings, catalog: Catalog) -> dict[str, Any]:
    """As `models --json`."""
    held = holders(settings, catalog)
    return {
        "models": [model_json(model, loaded_by(model, held)) for model in catalog.models],
        "errors": [asdict(error) for error in catalog.errors],
    }


def catalog_here(settings: Settings, env: Mapping[str, str]) -> Catalog:
    """Every model that a profile could name from here."""
    from orchestrator.control.resolution import catalog_cache
    from orchestrator.discovery.scan import scan

    found = scan(places_here(settings, env), cache_file=catalog_cache(settings.cache_dir))
    return replace(found, home=home_of(env))


def places_here(settings: Settings, env: Mapping[str, str]) -> tuple[Location, ...]:
    """The folders that are looked into: those that profiles name, and the stores of applied
    instances, included."""
    from orchestrator.cli.model_stores import applied_specs
    from orchestrator.cli.profiles import named_folders
    from orchestrator.discovery.places import locations

    named = named_folders(settings, env)
    held = [spec.holds.store for spec in applied_specs(settings).values() if spec.holds]
    stores = [*named.stores, *(store for store in held if store)]
    return locations(env, home=home_of(env), cwd=os.getcwd(), dirs=named.dirs, stores=stores)


def home_of(env: Mapping[str, str]) -> str:
    """The caller's home."""
    return env.get("HOME") or os.path.expanduser("~")


def no_models_hint(settings: Settings, env: Mapping[str, str]) -> str:
    """What to do when there is none, and where it was looked."""
    looked = [place.path for place in places_here(settings, env)]
    where = f"; looked in {listing(looked)}" if looked else ""
    return f"put a GGUF file into ./models, or name a folder in ORCHESTRATE_MODELS{where}"


def find_model(catalog: Catalog, ref: str) -> Model:
    """The model that a person names, from here. Raises `InputError` with what was likely meant."""
    found = find(catalog, ref, folder=os.getcwd())
    if isinstance(found, Found):
        return found.model
    if isinstance(found, Ambiguous):
        candidates = listing([candidate.path for candidate in found.candidates])
        raise InputError(f"model {ref!r} is ambiguous", hint=f"name one of: {candidates}")
    if os.path.isfile(os.path.expanduser(ref)):
        from orchestrator.discovery.scan import inspect

        return inspect(os.path.expanduser(ref))
    near = " or ".join(repr(name) for name in found.nearest)
    hint = f"did you mean {near}?" if near else "`orchestrate models` lists what was found"
    raise InputError(f"unknown model {ref!r}", hint=hint)


def loaded_bytes(model: Model) -> int:
    """What is read into memory: the model's files, and its projector."""
    try:
        return model.size_bytes + (os.path.getsize(model.mmproj) if model.mmproj else 0)
    except OSError:
        return model.size_bytes


def holders(settings: Settings, catalog: Catalog) -> dict[str, list[str]]:
    """The Ollama instances that have a model in memory, by its name: only what the daemon knows
    anyway, and nothing where none answers."""
    from orchestrator.cli.client import Client
    from orchestrator.errors import NoDaemonError

    client = Client(settings)
    if not any(model.source == "ollama" for model in catalog.models) or not client.answers():
        return {}
    try:
        rows = client.get("/v1/status")["instances"]
    except NoDaemonError:
        return {}
    from orchestrator.cli.model_stores import applied_specs, store_of

    stores = {
        name: os.path.realpath(spec.holds.store)
        for name, spec in applied_specs(settings).items()
        if spec.holds and spec.attach == "never"
    }
    found: dict[str, list[str]] = {}
    for row in rows:
        loaded = {model["name"] for model in row["models"] if model["loaded"]}
        for model in catalog.models:
            if model.source == "ollama" and model.ref in loaded:
                # An instance may have a model of the same name in a store of its own.
                store = os.path.realpath(store_of(model))
                if stores.get(row["name"], store) == store:
                    found.setdefault(model.ref, []).append(row["name"])
    return found


def loaded_by(model: Model, held: Mapping[str, list[str]]) -> list[str]:
    return held.get(model.ref, []) if model.source == "ollama" else []


def compact(count: int | None) -> str:
    """A count as people say it of models: `7.6B`, `494M`, `82K`."""
    if count is None:
        return "-"
    for factor, unit in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if count >= factor:
            number = count / factor
            return f"{number:.0f}{unit}" if number >= 100 else f"{number:.1f}{unit}"
    return str(count)


def _row(model: Model, instances: Sequence[str]) -> list[str]:
    known = model.metadata
    return [
        inert(model.ref),
        model.source,
        inert(known.architecture or "-"),
        compact(known.parameters),
        inert(known.quantization or "-"),
        str(known.context_length or "-"),
        size(model.size_bytes),
        ", ".join(instances),
        inert(model.unfit),
    ]
