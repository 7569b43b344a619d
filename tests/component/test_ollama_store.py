"""Ollama stores on disk: tags as Ollama shows them, and everything that can be torn."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.discovery.ollama_manifest import canonical_name, display_name, manifest_path
from orchestrator.discovery.ollama_store import (
    ADAPTER_LAYER,
    MODEL_LAYER,
    PROJECTOR_LAYER,
    TENSOR_LAYER,
    is_store,
    read_store,
)

KINDS = {
    "model": MODEL_LAYER,
    "projector": PROJECTOR_LAYER,
    "adapter": ADAPTER_LAYER,
    "tensor": TENSOR_LAYER,
    "template": "text/x",
}


class Store:
    """A store that grows tag by tag, laid out as Ollama does it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "manifests").mkdir(parents=True)
        (root / "blobs").mkdir()

    def blob(self, content: bytes) -> str:
        digest = hashlib.sha256(content).hexdigest()
        (self.root / "blobs" / f"sha256-{digest}").write_bytes(content)
        return f"sha256:{digest}"

    def manifest(self, path: str, document: Any) -> Path:
        file = self.root / "manifests" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(document if isinstance(document, bytes) else json.dumps(document).encode())
        return file

    def tag(self, path: str, config: dict[str, Any] | None = None, **layers: bytes) -> Path:
        """Layers by their short names; `config` is JSON, a digit tells layers of one kind apart."""
        entries = [
            {
                "mediaType": KINDS[kind.rstrip("23")],
                "digest": self.blob(content),
                "size": len(content),
            }
            for kind, content in layers.items()
        ]
        document: dict[str, Any] = {"schemaVersion": 2, "layers": entries}
        if config is not None:
            content = json.dumps(config).encode()
            document["config"] = {"digest": self.blob(content), "size": len(content)}
        return self.manifest(path, document)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "models")


LIBRARY = "registry.ollama.ai/library"


def test_reads_tags_blobs_and_projectors(store: Store) -> None:
    store.tag(f"{LIBRARY}/llava/7b", template=b"t", model=b"weights", projector=b"eyes")
    models, errors = read_store(str(store.root))
    assert errors == []
    (model,) = models
    assert model.tag == "llava:7b"
    assert Path(model.blob).read_bytes() == b"weights"
    assert model.projector is not None
    assert Path(model.projector).read_bytes() == b"eyes"


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("registry.ollama.ai/library/llama3.1/8b", "llama3.1:8b"),
        ("registry.ollama.ai/mattw/pygmalion/latest", "mattw/pygmalion:latest"),
        ("hf.co/bartowski/Llama-GGUF/Q4_K_M", "hf.co/bartowski/Llama-GGUF:Q4_K_M"),
        ("localhost:5000/library/x/y", "localhost:5000/library/x:y"),
    ],
)
def test_names_are_as_ollama_shows_them(store: Store, path: str, shown: str) -> None:
    host, namespace, name, tag = path.split("/")
    assert display_name(host, namespace, name, tag) == shown
    store.tag(path, model=b"m")
    assert [model.tag for model in read_store(str(store.root))[0]] == [shown]


def test_tags_of_one_blob_are_models_of_their_own(store: Store) -> None:
    store.tag(f"{LIBRARY}/b/latest", model=b"same")
    store.tag(f"{LIBRARY}/a/latest", model=b"same")
    models, _ = read_store(str(store.root))
    assert [model.tag for model in models] == ["a:latest", "b:latest"]
    assert models[0].blob == models[1].blob


BROKEN: dict[str, tuple[Any, str]] = {
    "torn": (b'{"schemaVersion": 2, "lay', "not a whole JSON document"),
    "empty": (b"", "not a whole JSON document"),
    "binary": (bytes(range(256)), "not a whole JSON document"),
    "deep": (b"[" * 200_000, "not a whole JSON document"),
    "list": ([], "a JSON object was expected"),
    "no layers": ({"layers": None}, "without a model layer"),
    "odd layers": ({"layers": [1, "x", {}, {"mediaType": 5}]}, "without a model layer"),
    "path as digest": (
        {"layers": [{"mediaType": MODEL_LAYER, "digest": "../../etc/passwd"}]},
        "is no digest",
    ),
    "number as digest": ({"layers": [{"mediaType": MODEL_LAYER, "digest": 7}]}, "is no digest"),
    "missing blob": (
        {"layers": [{"mediaType": MODEL_LAYER, "digest": "sha256:" + "0" * 64}]},
        "which is missing",
    ),
    "huge": (b" " * (2 << 20), "is larger than"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_manifest_is_one_error_and_the_rest_is_read(store: Store, case: str) -> None:
    document, message = BROKEN[case]
    bad = store.manifest(f"{LIBRARY}/bad/latest", document)
    store.tag(f"{LIBRARY}/good/latest", model=b"m")
    models, errors = read_store(str(store.root))
    assert [model.tag for model in models] == ["good:latest"]
    (error,) = errors
    assert error.path == str(bad)
    assert message in error.message


def test_a_model_that_runs_elsewhere_is_known_and_unfit(store: Store) -> None:
    store.tag(f"{LIBRARY}/x/cloud", config={"remote_host": "https://ollama.com:443"})
    (model,), errors = read_store(str(store.root))
    assert (model.tag, model.blob, errors) == ("x:cloud", "", [])
    assert model.unfit == "runs on https://ollama.com:443, not on this machine"


UNFIT: dict[str, tuple[dict[str, Any], str]] = {
    "adapter": ({"model": b"base", "adapter": b"lora"}, "has an adapter"),
    "safetensors": ({"tensor": b"t", "config": {"model_format": "safetensors"}}, "safetensors"),
    "other format": ({"model": b"m", "config": {"model_format": "ggla"}}, "format 'ggla'"),
    "split": ({"model": b"1", "model2": b"2"}, "is split over 2 blobs"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_what_only_ollama_can_run_is_known_with_the_reason(store: Store, case: str) -> None:
    layers, reason = UNFIT[case]
    store.tag(f"{LIBRARY}/odd/latest", **layers)
    store.tag(f"{LIBRARY}/plain/latest", model=b"m", config={"model_format": "gguf"})
    models, errors = read_store(str(store.root))
    assert errors == []
    assert [model.tag for model in models] == ["odd:latest", "plain:latest"]
    assert reason in models[0].unfit
    assert models[1].unfit == ""


def test_what_ollama_keeps_of_a_model_stands_in_for_a_header(store: Store) -> None:
    config = {"model_format": "safetensors", "model_family": "gemma3", "model_type": "4.3B"}
    store.tag(f"{LIBRARY}/gemma/latest", tensor=b"t" * 10, config={**config, "file_type": "NVFP4"})
    (model,), _ = read_store(str(store.root))
    known = model.metadata()
    assert (known.architecture, known.parameters, known.quantization) == (
        "gemma3",
        4_300_000_000,
        "NVFP4",
    )
    assert (model.size_bytes, model.is_gguf) == (10, False)


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("tiny", "tiny:latest"),
        ("me/tiny:q4", "me/tiny:q4"),
        ("registry.ollama.ai/library/tiny", "tiny:latest"),
        ("http://127.0.0.1:5000/lib/tiny", "127.0.0.1:5000/lib/tiny:latest"),
        ("hf.co/org/Name-GGUF:Q4_K_M", "hf.co/org/Name-GGUF:Q4_K_M"),
        *((bad, None) for bad in ("", ":", "a b", "../x", "a/b/c/d", "x:", "a//b", "./models/x")),
    ],
)
def test_names_are_read_as_ollama_reads_them(written: str, canonical: str | None) -> None:
    assert canonical_name(written) == canonical


def test_a_manifest_is_found_whatever_the_case(store: Store) -> None:
    file = store.tag("hf.co/Org/Name-GGUF/Q4_K_M", model=b"m")
    assert manifest_path(str(store.root), "hf.co/org/name-gguf:q4_k_m") == str(file)


def test_strange_files_among_the_manifests(store: Store) -> None:
    store.tag(f"{LIBRARY}/good/latest", model=b"m")
    (store.root / "manifests" / "stray").write_text("x")
    (store.root / "manifests" / LIBRARY / "good" / ".DS_Store").write_text("x")
    (store.root / "manifests" / LIBRARY / "good" / "folder").mkdir()
    models, errors = read_store(str(store.root))
    assert ([model.tag for model in models], errors) == (["good:latest"], [])


def test_a_store_is_told_by_its_layout(store: Store, tmp_path: Path) -> None:
    assert is_store(str(store.root))
    assert not is_store(str(tmp_path))
    assert read_store(str(tmp_path / "none"))[1][0].message.startswith("cannot be read")
