"""Every Ollama store that matters here, and a catalog that knows its damaged models, too."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence

from msgspec.structs import replace

from orchestrator.cli.models import catalog_here, places_here
from orchestrator.core.catalog import Catalog, Model
from orchestrator.core.resolved import ResolvedFile
from orchestrator.core.spec import InstanceSpec
from orchestrator.discovery.ollama_store import is_store, read_manifests
from orchestrator.discovery.walk import identity_of
from orchestrator.settings import Settings


def applied_files(settings: Settings) -> list[ResolvedFile]:
    """What is applied, as it was when it was last valid; no daemon is needed."""
    from orchestrator.runtime.state import Store

    store = Store.open_to_read(settings.store_path)
    if store is None:
        return []
    try:
        applied = store.applied()
    finally:
        store.close()
    return applied.files if applied is not None else []


def applied_specs(settings: Settings) -> dict[str, InstanceSpec]:
    """The instances of the applied profiles, by name."""
    return {name: spec for file in applied_files(settings) for name, spec in file.specs.items()}


def stores_here(settings: Settings, env: Mapping[str, str]) -> list[str]:
    """The stores that discovery looks into."""
    return [place.path for place in places_here(settings, env) if is_store(place.path)]


def store_of(model: Model) -> str:
    """The store that a model of Ollama's lies in."""
    folder = os.path.dirname(model.path)
    if os.path.basename(folder) == "blobs":
        return os.path.dirname(folder)
    return os.sep.join(model.path.split(os.sep)[:-5])


def whole_catalog(settings: Settings, env: Mapping[str, str], stores: Sequence[str]) -> Catalog:
    """Every model that can be named from here, and those tags that only a manifest tells of."""
    catalog = catalog_here(settings, env)
    known = {model.ref for model in catalog.models if model.source == "ollama"}
    more: list[Model] = []
    for store in stores:
        for manifest in read_manifests(store)[0]:
            if manifest.tag in known:
                continue
            known.add(manifest.tag)
            more.append(
                Model(
                    ref=manifest.tag,
                    source="ollama",
                    path=manifest.path,
                    size_bytes=sum(layer.size or 0 for layer in manifest.contents()),
                    parts=(),
                    identity=identity_of(manifest.path),
                    engine_hint="ollama",
                    unfit="is damaged",
                )
            )
    return replace(catalog, models=(*catalog.models, *more))


def freed_by(store: str, tags: Iterable[str]) -> dict[str, int]:
    """Bytes that go away with each of these tags when all of them do: a blob that stays for
    another model counts for none, one that they share for the first."""
    gone = dict.fromkeys(tags, 0)
    manifests = read_manifests(store)[0]
    seen = {one.digest for m in manifests if m.tag not in gone for one in m.contents()}
    by_tag = {manifest.tag: manifest for manifest in manifests}
    for tag in gone:
        for layer in by_tag[tag].contents() if tag in by_tag else ():
            if layer.digest not in seen:
                seen.add(layer.digest)
                gone[tag] += layer.size or 0
    return gone
