"""What discovery found: models, their metadata, and how a reference names one of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from functools import cached_property
from typing import Any, Literal

from msgspec import Struct, field
from msgspec.structs import asdict

from orchestrator.core import naming
from orchestrator.core.spec import FileIdentity

Source = Literal["folder", "huggingface", "llama.cpp", "lmstudio", "ollama"]
Purpose = Literal["generative", "embedding", "reranker"]


class Metadata(Struct, frozen=True):
    """What a GGUF header says. Counts are plain numbers; None means that it does not say."""

    architecture: str | None = None
    name: str | None = None
    parameters: int | None = None
    quantization: str | None = None
    context_length: int | None = None
    layers: int | None = None
    embedding_length: int | None = None
    heads: int | None = None
    heads_kv: int | None = None
    key_length: int | None = None
    value_length: int | None = None
    vocabulary_size: int | None = None
    chat_template: bool | None = None
    thinking: bool | None = None
    purpose: Purpose | None = None
    complete: bool = True
    """False while only what stands before the vocabulary was read."""
    heads_kv_total: int | None = None
    """Key/value heads of all layers together, where the layers differ."""
    sliding_window: int | None = None
    """Tokens that a layer with windowed attention looks back."""
    windowed_layers: int | None = None
    """Layers with windowed attention, where the header says it layer by layer."""
    repacked_bytes: int | None = None
    """Bytes of the matrices of which a CPU keeps a second, rearranged copy."""


class Model(Struct, frozen=True):
    """One model on disk: `parts` are its files in order (one, unless it is split).

    `aliases` are other names and absolute paths of the same file; for a file of the Hugging Face
    cache, `hf:org/name/FILE`. `unfit` is why llama-server cannot run it, as the end of a sentence
    that begins with its name; such a model may have no parts, and its path is then the manifest
    that makes it known.
    """

    ref: str
    source: Source
    path: str
    size_bytes: int
    parts: tuple[str, ...]
    identity: FileIdentity
    metadata: Metadata = field(default_factory=Metadata)
    mmproj: str | None = None
    engine_hint: str = "llama-server"
    aliases: tuple[str, ...] = ()
    unfit: str = ""


def model_json(model: Model, instances: Sequence[str] = ()) -> dict[str, Any]:
    """One model as in `models --json`: who it is, then its metadata."""
    return {
        "ref": model.ref,
        "source": model.source,
        "path": model.path,
        "engine_hint": model.engine_hint,
        "size_bytes": model.size_bytes,
        "parts": list(model.parts),
        "mmproj": model.mmproj,
        "aliases": list(model.aliases),
        "unfit": model.unfit,
        "loaded_by": list(instances),
        **asdict(model.metadata),
    }


class CatalogError(Struct, frozen=True):
    """A file or folder that could not be read, and why; `hint` is what to do, if anything."""

    path: str
    message: str
    hint: str = ""


class Found(Struct, frozen=True):
    """The one model that a reference names."""

    model: Model


class Ambiguous(Struct, frozen=True):
    """A reference that names several models; their paths tell them apart."""

    candidates: tuple[Model, ...]


class Unknown(Struct, frozen=True):
    """A reference that names nothing; `nearest` are names that do, the likeliest first."""

    nearest: tuple[str, ...]


Lookup = Found | Ambiguous | Unknown


class Catalog(Struct, frozen=True, dict=True):
    """Everything found, and everything that could not be read. (No slots: it keeps its index.)

    `home` is that of whoever asks, for references that begin with `~/`; empty where unknown.
    """

    models: tuple[Model, ...] = ()
    errors: tuple[CatalogError, ...] = ()
    home: str = ""

    @cached_property
    def index(self) -> Index:
        """Every key that names a model; made at the first lookup."""
        return Index(self.models)


def find(catalog: Catalog, ref: str, *, folder: str) -> Lookup:
    """The model that `ref` names: a path (relative to `folder`), a file name, `name:quant`, an
    Ollama tag, or `hf:org/name[:quant|/file]`.

    The forms are tried from the most exact to the loosest, and the first that names anything
    decides: a file called exactly so is never made ambiguous by one that merely matches.
    """
    index = catalog.index
    for key in naming.lookup_keys(naming.expanded(ref, catalog.home), folder=folder):
        hits = index.models(key)
        if len(hits) == 1:
            return Found(hits[0])
        if len({model.path for model in hits}) == 1:
            # Tags of one blob, named by its path: all the same, but for what stands on top of it.
            return Found(min(hits, key=lambda model: bool(model.unfit)))
        if hits:
            return Ambiguous(hits)
    return Unknown(index.nearest(ref))


class Index:
    """Every key that names a model, so that 200 references cost 200 dictionary lookups."""

    def __init__(self, models: Iterable[Model]) -> None:
        self._models = tuple(models)
        self._by_key: dict[naming.Key, list[int]] = {}
        for number, model in enumerate(self._models):
            for key in _keys(model):
                numbers = self._by_key.setdefault(key, [])
                if not numbers or numbers[-1] != number:
                    numbers.append(number)

    def models(self, key: naming.Key) -> tuple[Model, ...]:
        return tuple(self._models[number] for number in self._by_key.get(key, ()))

    def nearest(self, ref: str) -> tuple[str, ...]:
        """At most three names that look like `ref`, of any form that a person would write."""
        spoken = {model.ref.casefold(): model.ref for model in self._models}
        for model in self._models:
            if model.source != "ollama" and model.metadata.quantization:
                label = naming.label(model.ref, model.metadata.quantization)
                spoken.setdefault(label.casefold(), label)
        word = naming.basename(ref).casefold()
        return tuple(spoken[near] for near in get_close_matches(word, spoken, n=3, cutoff=0.5))


def _keys(model: Model) -> Iterator[naming.Key]:
    for path in (model.path, *model.parts, *model.aliases):
        if path.startswith("/"):
            yield from naming.path_keys(path)
    for alias in model.aliases:
        if not alias.startswith("/"):
            yield from naming.alias_keys(alias, model.metadata.quantization)
    if model.source == "ollama":
        yield from naming.tag_keys(model.ref)
    else:
        yield from naming.file_keys(
            model.ref,
            parts=model.parts,
            name=model.metadata.name,
            quantization=model.metadata.quantization,
        )
