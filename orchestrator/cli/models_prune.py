"""`models prune`: the Ollama models that nothing here names and no server has loaded."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import click
from msgspec import Struct

from orchestrator.cli.model_stores import applied_specs, freed_by, stores_here, whole_catalog
from orchestrator.cli.model_uses import Uses, applied_uses, loaded_uses, profile_uses
from orchestrator.cli.models_remove import delete
from orchestrator.cli.ollama_servers import Reached, reachable, server_of, serving
from orchestrator.cli.options import json_option
from orchestrator.cli.render import inert, print_json, size
from orchestrator.cli.tables import table
from orchestrator.discovery.ollama_manifest import Manifest, blob_path
from orchestrator.discovery.ollama_store import MODEL_LAYER, read_manifests
from orchestrator.settings import Settings


class Unused(Struct, frozen=True):
    """A model that may go: its size, and what of it no other model keeps."""

    ref: str
    store: str
    size_bytes: int
    frees_bytes: int

    def as_json(self) -> dict[str, Any]:
        return {
            "ref": self.ref,
            "store": self.store,
            "size_bytes": self.size_bytes,
            "frees_bytes": self.frees_bytes,
        }


@click.command(
    "prune", epilog="Examples: orchestrate models prune | orchestrate models prune --yes"
)
@click.option("--yes", is_flag=True, help="Delete them. Without it they are only listed.")
@json_option
def prune_command(yes: bool, as_json: bool) -> None:
    """List the Ollama models that nothing needs, and what deleting them frees; --yes deletes them.

    Needed is what an applied profile or any in the profiles folder names, what those are built
    upon, and what a server has loaded. An invalid profile in the folder refuses it all, for nobody
    knows what it would name. GGUF files are never pruned: `models rm` removes one.
    """
    settings = Settings.from_env(os.environ)
    found = reachable(settings, os.environ)
    stores = stores_here(settings, os.environ)
    catalog = whole_catalog(settings, os.environ, stores)
    uses = Uses()
    applied_uses(uses, applied_specs(settings), catalog)
    profile_uses(uses, settings, os.environ, catalog)
    loaded_uses(uses, found, stores)
    unused: list[Unused] = []
    skipped: list[str] = []
    for store in stores:
        if _is_ours(store, found):
            unused += _unused(store, uses)
        else:
            skipped.append(store)
    if yes:
        _delete(unused, found)
    _report(unused, skipped, deleted=yes, as_json=as_json)


def _is_ours(store: str, found: Sequence[Reached]) -> bool:
    """Whether models could be deleted there at all: the system's store is no business of ours
    unless its server is the one that we talk to."""
    return os.access(os.path.join(store, "manifests"), os.W_OK) or bool(serving(store, found))


def _unused(store: str, uses: Uses) -> list[Unused]:
    manifests = read_manifests(store)[0]
    # A server shows the models of one blob under one name: any of them may be in use by it.
    loaded = {
        layer.digest
        for one in manifests
        if uses.is_loaded(store, one.tag)
        for layer in one.of_kind(MODEL_LAYER)
    }
    rest = [one for one in manifests if not _is_needed(one, store, uses, loaded)]
    freed = freed_by(store, [one.tag for one in rest])
    return [
        Unused(one.tag, store, sum(layer.size or 0 for layer in one.contents()), freed[one.tag])
        for one in rest
    ]


def _is_needed(manifest: Manifest, store: str, uses: Uses, loaded: set[str]) -> bool:
    if uses.of_tag(store, manifest.tag):
        return True
    return any(
        layer.digest in loaded or uses.of_file(blob_path(store, layer))
        for layer in manifest.of_kind(MODEL_LAYER)
    )


def _delete(unused: Sequence[Unused], found: Sequence[Reached]) -> None:
    for store in dict.fromkeys(one.store for one in unused):
        with server_of(store, found, os.environ) as client:
            for one in unused:
                if one.store == store:
                    delete(client, one.ref)


def _report(
    unused: Sequence[Unused], skipped: Sequence[str], *, deleted: bool, as_json: bool
) -> None:
    total = sum(one.frees_bytes for one in unused)
    if as_json:
        models = [one.as_json() for one in unused]
        document = {"models": models, "frees_bytes": total, "deleted": deleted}
        print_json({**document, "skipped": list(skipped)})
        return
    for store in skipped:
        click.echo(f"skipped {inert(store)}: it belongs to another user", err=True)
    if not unused:
        click.echo("nothing to prune: every Ollama model here is needed")
        return
    head = ("REF", "SIZE", "FREES", "STORE")
    rows = [(inert(m.ref), size(m.size_bytes), size(m.frees_bytes), inert(m.store)) for m in unused]
    for line in table(head, rows):
        click.echo(line)
    if deleted:
        click.echo(f"deleted: {size(total)} freed")
    else:
        click.echo(f"deleting them frees {size(total)}: orchestrate models prune --yes")
