"""Looks into every place and brings what is there into one catalog.

    locations -> walk -> groups (split parts, projectors) -> headers, cached -> Catalog

Nothing stops a scan: a file or folder that cannot be read becomes an entry of `errors`. The order
of models is that of the locations, then of their paths.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from msgspec.structs import replace

from orchestrator.core.catalog import Catalog, CatalogError, Model, Source
from orchestrator.core.spec import FileIdentity
from orchestrator.discovery.cache import HeaderCache, Unreadable
from orchestrator.discovery.gguf_metadata import Facts, joined
from orchestrator.discovery.grouping import (
    Artefact,
    Companions,
    Group,
    grouped,
    of_one_family,
    stem_of,
)
from orchestrator.discovery.ollama_store import StoredModel, is_store, read_store
from orchestrator.discovery.places import Location
from orchestrator.discovery.walk import GgufFile, Walk, identity_of
from orchestrator.errors import InputError


def scan(places: Iterable[Location], *, cache_file: str | None, complete: bool = True) -> Catalog:
    """Everything in `places`. `complete=False` reads only what stands before each vocabulary.

    `cache_file` is where headers are remembered between scans; None remembers nothing. A cache
    that cannot be read or written is done without.
    """
    cache = HeaderCache(cache_file)
    collection = _Collection(cache, complete=complete)
    for place in places:
        collection.add(place)
    cache.save()
    return collection.catalog()


def inspect(path: str, *, cache_file: str | None = None, complete: bool = True) -> Model:
    """The model that one explicit file is, whatever it is called and wherever it lies.

    Of a split model any part may be named. Raises `InputError` when it is missing, cannot be
    read, or is not a model.
    """
    path = os.path.abspath(path)
    if not os.path.isfile(path):
        what = "is a folder, not a model file" if os.path.isdir(path) else "does not exist"
        raise InputError(f"model file {path} {what}", hint="`orchestrate models` lists models")
    cache = HeaderCache(cache_file)
    artefact, group = _artefact_at(path)
    found = _Collection(cache, complete=complete)
    found.add_artefact(artefact, found.companions(group), "folder")
    cache.save()
    catalog = found.catalog()
    if catalog.models:
        return catalog.models[0]
    if catalog.errors:
        raise InputError(f"model file {catalog.errors[0].path} {catalog.errors[0].message}")
    raise InputError(
        f"{path} is a GGUF file, but not a model that can be served",
        hint="an adapter or an importance matrix goes with a model: name that one",
    )


def _artefact_at(path: str) -> tuple[Artefact, Group]:
    group = grouped(Walk().beside(path))
    for artefact in group.models:
        if any(part.path == path for part in artefact.parts):
            return artefact, group
    for error in group.errors:
        if stem_of(error.path)[:-15] == stem_of(path)[:-15]:
            raise InputError(f"model file {path} {error.message}")
    if any(file.path == path for file in group.projectors):
        raise InputError(
            f"{path} is a projector (mmproj), which goes beside a model",
            hint="name the model; its projector is found in the same folder",
        )
    # A file without the suffix, such as a blob of an Ollama store.
    try:
        file = GgufFile(path, os.path.realpath(path), identity_of(path))
    except OSError as error:
        raise InputError(f"model file {path} cannot be read: {error.strerror}") from error
    return Artefact(stem_of(path), (file,)), Group((), (), ())


class _Collection:
    """The catalog while it grows. One real file is one model, however many ways lead to it."""

    def __init__(self, cache: HeaderCache, *, complete: bool) -> None:
        self._cache = cache
        self._complete = complete
        self._models: list[Model] = []
        self._errors: dict[str, CatalogError] = {}
        self._by_real: dict[str, int] = {}
        self._tags: set[str] = set()

    def catalog(self) -> Catalog:
        return Catalog(tuple(self._models), tuple(self._errors.values()))

    def add(self, place: Location) -> None:
        if is_store(place.path):
            self._add_store(place.path)
        elif place.source != "ollama" and os.path.isdir(place.path):
            self._add_folder(place)
        elif place.named or os.path.exists(place.path):
            # An Ollama that never pulled anything has a folder that is no store yet: no error.
            self._explain(place.path)

    def companions(self, group: Group) -> Companions:
        """The projectors of a folder that can be read."""
        if not group.projectors:
            return Companions()
        found = [(file.path, self._facts(file.path, file.identity)) for file in group.projectors]
        return Companions(
            tuple((path, facts.projects_to) for path, facts in found if facts is not None),
            alone=of_one_family(group.models),
        )

    def add_artefact(self, artefact: Artefact, beside: Companions, source: Source) -> None:
        """One model of a folder, and the projectors beside it."""
        known = self._by_real.get(artefact.first.real)
        if known is not None:
            self._models[known] = _also(self._models[known], _aliases(artefact))
            return
        parts: list[Facts] = []
        for part in artefact.parts:
            facts = self._facts(part.path, part.identity)
            if facts is None:
                return
            parts.append(facts)
        if parts[0].kind == "model":
            self._by_real[artefact.first.real] = len(self._models)
            self._models.append(self._model(artefact, beside, source, parts))

    def _explain(self, folder: str) -> None:
        try:
            os.listdir(folder)
        except OSError as error:
            self._error(folder, f"cannot be read: {error.strerror}")

    def _add_folder(self, place: Location) -> None:
        walk = Walk()
        for files in walk.files(place.path):
            group = grouped(files)
            for error in group.errors:
                self._error(error.path, error.message)
            source = "huggingface" if files[0].hub else place.source
            beside = self.companions(group)
            for artefact in group.models:
                self.add_artefact(artefact, beside, source)
        for error in walk.errors:
            self._error(error.path, error.message)

    def _add_store(self, store: str) -> None:
        stored, errors = read_store(store)
        for error in errors:
            self._error(error.path, error.message)
        for model in stored:
            # The same tag in two stores: the first store is the one that its owner runs.
            if model.tag not in self._tags:
                self._add_stored(model)

    def _add_stored(self, stored: StoredModel) -> None:
        path = stored.blob or stored.manifest
        try:
            identity = identity_of(path)
        except OSError as error:
            self._error(path, f"cannot be read: {error.strerror}")
            return
        metadata = stored.metadata()
        if not stored.unfit or stored.is_gguf:
            facts = self._facts(path, identity)
            if facts is None:
                return
            metadata = facts.metadata
        if not stored.unfit:
            self._by_real.setdefault(os.path.realpath(path), len(self._models))
        self._tags.add(stored.tag)
        self._models.append(
            Model(
                ref=stored.tag,
                source="ollama",
                path=path,
                size_bytes=stored.size_bytes if stored.unfit else identity.size,
                parts=(stored.blob,) if stored.blob else (),
                identity=identity,
                metadata=metadata,
                mmproj=stored.projector,
                engine_hint="ollama" if stored.unfit else "llama-server",
                unfit=stored.unfit,
            )
        )

    def _model(
        self, artefact: Artefact, beside: Companions, source: Source, parts: list[Facts]
    ) -> Model:
        metadata = parts[0].metadata
        if len(parts) > 1:
            metadata = joined(metadata, tuple(part.metadata for part in parts))
        aliases = [f"hf:{artefact.first.hub}"] if artefact.first.hub else []
        return Model(
            ref=artefact.stem,
            source=source,
            path=artefact.first.path,
            size_bytes=artefact.size_bytes,
            parts=tuple(part.path for part in artefact.parts),
            identity=artefact.first.identity,
            metadata=metadata,
            mmproj=beside.of(metadata.embedding_length),
            aliases=tuple(aliases),
        )

    def _facts(self, path: str, identity: FileIdentity) -> Facts | None:
        facts = self._cache.facts(path, identity, complete=self._complete)
        if isinstance(facts, Unreadable):
            self._error(path, facts.message)
            return None
        return facts

    def _error(self, path: str, message: str) -> None:
        self._errors.setdefault(path, CatalogError(path, message))


def _aliases(artefact: Artefact) -> list[str]:
    hub = [f"hf:{artefact.first.hub}"] if artefact.first.hub else []
    return [artefact.first.path, artefact.stem, *hub]


def _also(model: Model, names: list[str]) -> Model:
    """The model, known by these names too."""
    known = {model.ref, model.path, *model.aliases}
    return replace(model, aliases=(*model.aliases, *(name for name in names if name not in known)))
