"""The models of an Ollama store, read from its manifests and blobs: no server is needed.

Most are one plain GGUF, which llama-server runs where it lies. The others are known too, each with
the reason why nothing but Ollama can serve it (`StoredModel.unfit`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

from msgspec import Struct, field

from orchestrator.core.catalog import CatalogError, Metadata
from orchestrator.discovery.ollama_manifest import (
    Layer,
    Manifest,
    StoreError,
    blob_path,
    read_json,
    read_manifest,
)

MODEL_LAYER = "application/vnd.ollama.image.model"
PROJECTOR_LAYER = "application/vnd.ollama.image.projector"
ADAPTER_LAYER = "application/vnd.ollama.image.adapter"
TENSOR_LAYER = "application/vnd.ollama.image.tensor"


class StoredModel(Struct, frozen=True):
    """One tag of a store: the blobs are absolute paths of files that exist.

    `unfit` is why llama-server cannot run it, as the end of a sentence that begins with its name,
    else empty. Only such a model may be without a `blob`, or have one that `is_gguf` denies;
    `size_bytes` is that of its weights, `config` what Ollama keeps of what it is.
    """

    tag: str
    manifest: str
    blob: str
    projector: str | None = None
    unfit: str = ""
    size_bytes: int = 0
    config: dict[str, Any] = field(default_factory=dict[str, Any])

    @property
    def is_gguf(self) -> bool:
        """Whether the blob says itself what the model is."""
        return bool(self.blob) and (self.config.get("model_format") or "gguf") == "gguf"

    def metadata(self) -> Metadata:
        """What Ollama itself keeps of it, for a model that no header tells of."""
        return Metadata(
            architecture=_text(self.config.get("model_family")),
            parameters=_parameters(self.config.get("model_type")),
            quantization=_text(self.config.get("file_type")),
            context_length=_count(self.config.get("context_length")),
            embedding_length=_count(self.config.get("embedding_length")),
        )


def is_store(folder: str) -> bool:
    """Whether `folder` is laid out as Ollama lays out its models."""
    return all(os.path.isdir(os.path.join(folder, name)) for name in ("manifests", "blobs"))


def read_store(store: str) -> tuple[list[StoredModel], list[CatalogError]]:
    """The models of the store, by tag, and what of it could not be read."""
    manifests, errors = read_manifests(store)
    models: list[StoredModel] = []
    for manifest in manifests:
        try:
            models.append(_stored(store, manifest))
        except StoreError as error:
            errors.append(CatalogError(manifest.path, str(error)))
        except OSError as error:
            errors.append(CatalogError(manifest.path, f"cannot be read: {error.strerror}"))
    return models, errors


def read_manifests(store: str) -> tuple[list[Manifest], list[CatalogError]]:
    """Every manifest of the store, by tag, and those that cannot be read."""
    manifests: list[Manifest] = []
    errors: list[CatalogError] = []
    for path in _files(os.path.join(store, "manifests"), errors):
        try:
            manifests.append(read_manifest(path))
        except StoreError as error:
            errors.append(CatalogError(path, str(error)))
        except OSError as error:
            errors.append(CatalogError(path, f"cannot be read: {error.strerror}"))
    return sorted(manifests, key=lambda manifest: manifest.tag), errors


def _files(folder: str, errors: list[CatalogError], depth: int = 4) -> Iterator[str]:
    """Files exactly four levels down: host, namespace, name, tag."""
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        errors.append(CatalogError(folder, f"cannot be read: {error.strerror}"))
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if depth > 1 and os.path.isdir(entry.path):
            yield from _files(entry.path, errors, depth - 1)
        elif depth == 1 and os.path.isfile(entry.path):
            yield entry.path


def _stored(store: str, manifest: Manifest) -> StoredModel:
    weights = manifest.of_kind(MODEL_LAYER)
    projectors = manifest.of_kind(PROJECTOR_LAYER)
    config = _config(store, manifest)
    unfit = _why_unfit(manifest, config)
    if not weights and not unfit:
        raise StoreError("is a manifest without a model layer (a torn pull?)")
    sizes = [layer.size or 0 for layer in (*weights, *manifest.of_kind(TENSOR_LAYER))]
    return StoredModel(
        tag=manifest.tag,
        manifest=manifest.path,
        blob=_existing(store, weights[0]) if weights else "",
        projector=_existing(store, projectors[0]) if projectors else None,
        unfit=unfit,
        size_bytes=sum(sizes),
        config=config,
    )


def _why_unfit(manifest: Manifest, config: dict[str, Any]) -> str:
    weights = manifest.of_kind(MODEL_LAYER)
    form = config.get("model_format") or "gguf"
    if remote := config.get("remote_host"):
        return f"runs on {remote}, not on this machine"
    if manifest.of_kind(TENSOR_LAYER) or form == "safetensors":
        return "is stored as safetensors, which only Ollama can run"
    if not weights:
        return ""
    if form != "gguf":
        return f"has the format {form!r}, which only Ollama can run"
    if len(weights) > 1:
        return f"is split over {len(weights)} blobs, which only Ollama can put together"
    if manifest.of_kind(ADAPTER_LAYER):
        return "has an adapter on top of its base, which only Ollama applies"
    return ""


def _config(store: str, manifest: Manifest) -> dict[str, Any]:
    """What Ollama keeps of what the model is; nothing where that cannot be read."""
    if manifest.config is None:
        return {}
    try:
        return read_json(blob_path(store, manifest.config))
    except (StoreError, OSError):
        # Only what it says is missed here: `models verify` is for what is damaged.
        return {}


def _existing(store: str, layer: Layer) -> str:
    path = blob_path(store, layer)
    if not os.path.exists(path):
        raise StoreError(f"names the blob {layer.blob}, which is missing: pull it again")
    return path


def _text(value: object) -> str | None:
    return value[:64] if isinstance(value, str) and value else None


def _count(value: object) -> int | None:
    return value if type(value) is int and value > 0 else None


def _parameters(value: object) -> int | None:
    """A count as Ollama writes it: `8.0B`, `494.03M`, `115.01K`."""
    match = (
        re.fullmatch(r"(\d{1,6}(?:\.\d{1,6})?)([KMBT])", value) if isinstance(value, str) else None
    )
    if match is None:
        return None
    return round(float(match[1]) * {"K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}[match[2]])
