"""`models rm`: an Ollama model through Ollama, a GGUF file where its folder is ours to tidy."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click
from msgspec import Struct, field

from orchestrator.cli.model_stores import (
    applied_specs,
    freed_by,
    store_of,
    stores_here,
    whole_catalog,
)
from orchestrator.cli.model_uses import ANYWHERE, Uses, applied_uses, loaded_uses
from orchestrator.cli.models import find_model
from orchestrator.cli.ollama_servers import Reached, reachable, server_of
from orchestrator.cli.options import json_option
from orchestrator.cli.render import inert, print_json, size
from orchestrator.core.catalog import Catalog, Model
from orchestrator.core.problem import listing
from orchestrator.discovery.ollama_manifest import StoreError, canonical_name, manifest_path
from orchestrator.discovery.ollama_store import is_store
from orchestrator.errors import InputError, OrchestrateError
from orchestrator.runtime.ollama_calls import CallError, OllamaCalls
from orchestrator.settings import Settings

GONE = 404


class Removal(Struct, frozen=True):
    """One model that is to go. Through `server` when its store cannot be seen from here, else by
    its `store`, else its `files`, which are all there is of it."""

    ref: str
    where: str
    bytes: int
    store: str = ""
    server: Reached | None = None
    files: tuple[str, ...] = field(default=())

    def as_json(self) -> dict[str, Any]:
        source = "file" if self.files else "ollama"
        return {"ref": self.ref, "source": source, "path": self.where, "freed_bytes": self.bytes}


@click.command(
    "rm",
    epilog="Examples: orchestrate models rm llama3.1:8b | models rm ./models/old.gguf --yes",
)
@click.argument("refs", nargs=-1, required=True, metavar="REF...")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option(
    "--force", is_flag=True, help="Even what an applied profile declares or a server has loaded."
)
@json_option
def rm_command(refs: tuple[str, ...], yes: bool, force: bool, as_json: bool) -> None:
    """Remove models from this machine.

    An Ollama model is removed through Ollama, which keeps what other models share. Of GGUF files
    only those in ./models and in the folders of ORCHESTRATE_MODELS are removed, all parts of a
    split one; what lies elsewhere belongs to another program.

    Without a terminal to ask on, --yes is needed.
    """
    settings = Settings.from_env(os.environ)
    removals = _removals(settings, dict.fromkeys(refs), force=force)
    if not yes:
        _ask(removals)
    done: list[Removal] = []
    try:
        _remove(removals, settings, done)
    finally:
        if as_json:
            print_json({"removed": [one.as_json() for one in done]})
        else:
            for one in done:
                click.echo(f"removed {inert(one.ref)} ({size(one.bytes)} freed)")


def _removals(settings: Settings, refs: Mapping[str, None], *, force: bool) -> list[Removal]:
    """What is to go, each model once. Raises `InputError` before anything is touched."""
    stores = stores_here(settings, os.environ)
    catalog = whole_catalog(settings, os.environ, stores)
    found = reachable(settings, os.environ)
    uses = Uses()
    if not force:
        applied_uses(uses, applied_specs(settings), catalog)
        loaded_uses(uses, found, stores)
    models: dict[tuple[str, str], Model] = {}
    removals: list[Removal] = []
    for ref in refs:
        elsewhere = _only_on_a_server(ref, catalog, stores, found)
        if elsewhere is not None:
            _must_be_free(uses.of_tag(ANYWHERE, elsewhere.ref), elsewhere.ref)
            removals.append(elsewhere)
            continue
        model = find_model(catalog, ref)
        _must_be_free(uses.of(model), model.ref)
        models[model.ref, model.path] = model
    return [*removals, *_of_models(list(models.values()))]


def _must_be_free(why: str, ref: str) -> None:
    if why:
        hint = "take it out of the profile or unload it first; --force removes it all the same"
        raise InputError(f"{ref} is in use: {why}", hint=hint)


def _only_on_a_server(
    ref: str, catalog: Catalog, stores: Sequence[str], found: Sequence[Reached]
) -> Removal | None:
    """A model of a server whose store we may not read. Raises `InputError` for a torn manifest."""
    from orchestrator.core.catalog import Unknown, find

    name = canonical_name(ref)
    if name is None or not isinstance(find(catalog, ref, folder=os.getcwd()), Unknown):
        return None
    for store in stores:
        try:
            path = manifest_path(store, name)
        except StoreError:
            continue
        if os.path.exists(path):
            raise InputError(
                f"{name} cannot be removed: its manifest {path} is damaged, and Ollama cannot read"
                " it either",
                hint=f"`orchestrate models pull {name}` writes it anew; then it can be removed",
            )
    for server in found:
        try:
            listed = server.client.models()
        except CallError:
            continue
        if name in listed:
            return Removal(name, str(server), 0, server=server)
    return None


def _of_models(models: Sequence[Model]) -> list[Removal]:
    removals: list[Removal] = []
    by_store: dict[str, list[Model]] = {}
    for model in models:
        if model.source == "ollama":
            by_store.setdefault(store_of(model), []).append(model)
        else:
            files = _removable(model)
            size_bytes = sum(os.lstat(path).st_size for path in files)
            removals.append(Removal(model.ref, model.path, size_bytes, files=files))
    for store, inside in by_store.items():
        freed = freed_by(store, [model.ref for model in inside])
        removals += [Removal(m.ref, store, freed[m.ref], store=store) for m in inside]
    return removals


def _removable(model: Model) -> tuple[str, ...]:
    """The files of a model and the links that lead to them. Raises `InputError` unless all of them
    really lie in a folder that is ours to tidy."""
    folders = _own_folders()
    files: dict[str, None] = {}
    for path in model.parts:
        real = os.path.realpath(path)
        if not (_is_inside(real, folders) and _is_inside(_real_place(path), folders)):
            where = f" (it is a link to {real})" if real != os.path.abspath(path) else ""
            raise InputError(
                f"{path}{where} lies outside of the folders that `models rm` tidies: "
                f"{listing(folders) or 'there is none'}",
                hint="remove it with the program that put it there, or by hand",
            )
        if _in_store(real):
            hint = "`orchestrate models rm TAG` removes the model that it belongs to"
            raise InputError(f"{path} is a blob of an Ollama store", hint=hint)
        files |= {path: None, real: None}
    links = [alias for alias in model.aliases if alias.startswith("/") and os.path.islink(alias)]
    files |= {link: None for link in links if _is_inside(_real_place(link), folders)}
    return tuple(files)


def _own_folders() -> list[str]:
    from orchestrator.discovery.places import locations

    home = os.environ.get("HOME") or os.path.expanduser("~")
    places = locations(os.environ, home=home, cwd=os.getcwd())
    return [place.path for place in places if place.source == "folder"]


def _real_place(path: str) -> str:
    """Where the entry itself lies, be it a file or a link."""
    folder, name = os.path.split(os.path.abspath(path))
    return os.path.join(os.path.realpath(folder), name)


def _is_inside(path: str, folders: Sequence[str]) -> bool:
    return any(path.startswith(os.path.realpath(folder).rstrip("/") + "/") for folder in folders)


def _in_store(path: str) -> bool:
    folder = os.path.dirname(path)
    return os.path.basename(folder) == "blobs" and is_store(os.path.dirname(folder))


def _ask(removals: Sequence[Removal]) -> None:
    if not sys.stdin.isatty():
        raise InputError("nothing was removed: there is no terminal to ask on", hint="add --yes")
    for one in removals:
        click.echo(f"  {inert(one.ref)}  {size(one.bytes)}  {inert(one.where)}", err=True)
    if not click.confirm("remove?", err=True):
        raise click.exceptions.Exit(OrchestrateError.exit_code)


def _remove(removals: Sequence[Removal], settings: Settings, done: list[Removal]) -> None:
    """One after the other; `done` grows, whatever happens later."""
    for one in removals:
        if one.files:
            _unlink(one)
            done.append(one)
        elif one.server is not None:
            delete(one.server.client, one.ref)
            done.append(one)
    found = reachable(settings, os.environ) if any(one.store for one in removals) else []
    for store in dict.fromkeys(one.store for one in removals if one.store):
        with server_of(store, found, os.environ) as client:
            for one in removals:
                if one.store == store:
                    delete(client, one.ref)
                    done.append(one)


def _unlink(one: Removal) -> None:
    for path in one.files:
        try:
            os.unlink(path)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise OrchestrateError(f"{path} cannot be removed: {error.strerror}") from error


def delete(client: OllamaCalls, name: str) -> None:
    """Through Ollama; a model that is gone already is as wanted."""
    try:
        client.delete(name)
    except CallError as error:
        if error.status != GONE:
            raise OrchestrateError(f"{name} cannot be removed: {error.message}") from error
