"""Every model that a profile could name, for whoever asks the daemon: as `orchestrate models`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec.structs import asdict

from orchestrator.control.profile_files import ProfileFile, loaded
from orchestrator.control.resolution import catalog_cache
from orchestrator.core.catalog import Model, model_json
from orchestrator.core.promise import Promises
from orchestrator.core.spec import Desired
from orchestrator.core.status import Observed
from orchestrator.discovery.places import locations
from orchestrator.discovery.scan import scan


def models_document(
    found: Sequence[ProfileFile], *, desired: Desired, observed: Observed, cache_dir: str
) -> dict[str, Any]:
    """As `models --json`. Reads headers that were not seen before: not for the event loop.

    `found` are the profiles that there are, of which the first says where models are looked for.
    """
    env, cwd = (found[0].source.env, found[0].source.cwd) if found else (os.environ, "/")
    home = env.get("HOME") or os.path.expanduser("~")
    dirs: dict[str, None] = {}
    promises = Promises()
    for one in found:
        profile = loaded(one)
        if profile is None:
            continue
        for folder in profile.config.catalog.dirs:
            whole = os.path.join(profile.folder, os.path.expanduser(folder))
            dirs[os.path.normpath(whole)] = None
        promises = promises.and_of(profile.config, profile.folder, home)
    held = [spec.holds.store for spec in desired.values() if spec.holds and spec.holds.store]
    stores = [*promises.stores, *held]
    places = locations(env, home=home, cwd=cwd, dirs=list(dirs), stores=stores)
    catalog = scan(places, cache_file=catalog_cache(cache_dir))
    holders = _holders(desired, observed)
    return {
        "models": [model_json(model, _loaded_by(model, holders)) for model in catalog.models],
        "errors": [asdict(error) for error in catalog.errors],
    }


_Holders = Mapping[str, Sequence[tuple[str, str]]]
"""Who has a model in memory, by its name: instances, and the store of each where that is known."""


def _holders(desired: Desired, observed: Observed) -> _Holders:
    found: dict[str, list[tuple[str, str]]] = {}
    for name, status in observed.items():
        spec = desired.get(name)
        own = spec.holds.store if spec and spec.holds and spec.attach == "never" else None
        store = os.path.realpath(own) if own else ""
        for model in status.models:
            if model.loaded:
                found.setdefault(model.name, []).append((name, store))
    return found


def _loaded_by(model: Model, holders: _Holders) -> list[str]:
    """An instance may have a model of the same name in a store of its own."""
    if model.source != "ollama" or model.ref not in holders:
        return []
    within = os.path.realpath(model.path)
    return [
        name
        for name, store in holders[model.ref]
        if not store or within.startswith(f"{store.rstrip('/')}/")
    ]
