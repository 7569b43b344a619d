"""One manifest of an Ollama store: which layers a model has, and in which files they lie.

`manifests/HOST/NAMESPACE/NAME/TAG` is a small JSON document that lists layers by digest;
`blobs/sha256-HEX` are their contents. Nothing in either is trusted.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from typing import Any, cast

from msgspec import Struct

from orchestrator.core.naming import DEFAULT_NAMESPACE, DEFAULT_REGISTRY
from orchestrator.core.tag import BadTagError, canonical

DEFAULT_PLACES = (DEFAULT_REGISTRY.rstrip("/"), DEFAULT_NAMESPACE.rstrip("/"))
"""Host and namespace of a name that gives neither."""
MAX_MANIFEST = 1 << 20
"""Bytes of a manifest or of its config; real ones have a few hundred."""

_DIGEST = re.compile(r"sha256[:-]([0-9a-f]{64})")
_SCHEME = re.compile(r"^[a-z]+://")


class StoreError(Exception):
    """What is wrong with one manifest, as the end of a sentence that begins with its path."""


class Layer(Struct, frozen=True):
    """One content of a model: what it is (`kind`, a media type), its digest as hex digits, and its
    size in bytes where the manifest says it."""

    kind: str
    digest: str
    size: int | None

    @property
    def blob(self) -> str:
        """The name of its file."""
        return f"sha256-{self.digest}"


class Manifest(Struct, frozen=True):
    """One tag of a store, by the file at `path`. Whether its blobs are there is another matter."""

    tag: str
    path: str
    layers: tuple[Layer, ...]
    config: Layer | None

    def of_kind(self, kind: str) -> list[Layer]:
        return [layer for layer in self.layers if layer.kind == kind]

    def contents(self) -> Iterator[Layer]:
        """Every layer and the config, each digest once."""
        everything = (*self.layers, self.config) if self.config else self.layers
        yield from {layer.digest: layer for layer in everything}.values()


def display_name(host: str, namespace: str, name: str, tag: str) -> str:
    """A model as Ollama shows it: what is its default is left out, except the tag."""
    if host != DEFAULT_PLACES[0]:
        return f"{host}/{namespace}/{name}:{tag}"
    if namespace != DEFAULT_PLACES[1]:
        return f"{namespace}/{name}:{tag}"
    return f"{name}:{tag}"


def split_name(name: str) -> tuple[str, str, str, str] | None:
    """Host, namespace, name and tag of what a person wrote; None when Ollama would refuse it."""
    try:
        whole = canonical(_SCHEME.sub("", name))
    except BadTagError:
        return None
    *places, last = whole.split("/")
    base, _, tag = last.rpartition(":")
    host, namespace = [*DEFAULT_PLACES[: 2 - len(places)], *places]
    return host, namespace, base, tag


def canonical_name(name: str) -> str | None:
    """What a person wrote as Ollama shows it, the tag written out; None when it is no name."""
    parts = split_name(name)
    return display_name(*parts) if parts is not None else None


def manifest_path(store: str, name: str) -> str:
    """Where the manifest of that model is, or would be. Raises `StoreError` for what is no name."""
    parts = split_name(name)
    if parts is None:
        raise StoreError(f"cannot hold a model called {name!r}: that is no name for one")
    path = os.path.join(store, "manifests", *parts)
    return path if os.path.exists(path) else _in_any_case(store, parts) or path


def _in_any_case(store: str, parts: tuple[str, ...]) -> str | None:
    """Names are the same to Ollama whatever their case: the file that it would take."""
    folder = os.path.join(store, "manifests")
    for part in parts:
        try:
            names = sorted(os.listdir(folder))
        except OSError:
            return None
        same = [name for name in names if name.casefold() == part.casefold()]
        if not same:
            return None
        folder = os.path.join(folder, part if part in same else same[0])
    return folder


def read_manifest(path: str) -> Manifest:
    """Raises `StoreError` for what is no manifest, and `OSError`."""
    document = read_json(path)
    layers, config = document.get("layers"), document.get("config")
    host, namespace, name, tag = path.split(os.sep)[-4:]
    return Manifest(
        tag=display_name(host, namespace, name, tag),
        path=path,
        layers=tuple(_layers(cast(list[Any], layers) if isinstance(layers, list) else [])),
        config=_config(cast(dict[str, Any], config)) if isinstance(config, dict) else None,
    )


def read_json(path: str) -> dict[str, Any]:
    """A small document of a store. Raises `StoreError` and `OSError`."""
    with open(path, "rb") as file:
        raw = file.read(MAX_MANIFEST + 1)
    if len(raw) > MAX_MANIFEST:
        raise StoreError(f"is larger than the {MAX_MANIFEST} bytes a manifest may have")
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError):
        raise StoreError("is not a whole JSON document (a torn pull?)") from None
    if not isinstance(document, dict):
        raise StoreError("is not a manifest: a JSON object was expected")
    return cast(dict[str, Any], document)


def blob_path(store: str, layer: Layer) -> str:
    return os.path.join(store, "blobs", layer.blob)


def _config(entry: dict[str, Any]) -> Layer | None:
    """Models that only name another machine may have none."""
    return next(_layers([{"mediaType": "", **entry}]), None) if entry.get("digest") else None


def _layers(entries: list[Any]) -> Iterator[Layer]:
    for one in entries:
        entry = cast(dict[str, Any], one) if isinstance(one, dict) else {}
        kind, size = entry.get("mediaType"), entry.get("size")
        if isinstance(kind, str):
            known = isinstance(size, int) and not isinstance(size, bool) and size >= 0
            yield Layer(kind, _digest(entry.get("digest")), cast(int, size) if known else None)


def _digest(value: object) -> str:
    """Only a real digest: it becomes part of a path."""
    match = _DIGEST.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise StoreError(f"names a layer by {value!r}, which is no digest")
    return match[1]
