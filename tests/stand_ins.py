"""Tiny models that go by the names of real ones: what examples name is then there to be found."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.discovery.ollama_store import MODEL_LAYER
from tests.generated_models import key_u32, write_small


def models_on_disk(document: Mapping[str, Any]) -> list[str]:
    """The models that a profile's document expects to be found: what is pulled is not."""
    refs: list[str] = []
    for instance in document["instances"].values():
        held = [one for one in instance.get("models", ()) if isinstance(one, dict)]
        refs += [one["gguf"] for one in held if "gguf" in one]
        if "model" in instance:
            default = re.fullmatch(r"\$\{env:\w+:-(.*)\}", instance["model"])
            refs.append(default[1] if default else instance["model"])
    return refs


FILE_TYPES = {"Q4_K_M": 15, "Q5_K_M": 17, "Q6_K": 18, "Q8_0": 7, "F16": 1}
"""The quantisations that examples name, as `general.file_type` has them."""


TRAINED_FOR = 131_072
"""Tokens: as many as the real models that examples name can have."""


def stand_in(ref: str, *, home: Path, folder: Path, tiny: Path) -> None:
    """Put a model there that `ref` names: a file of `folder`, or a tag of the store in `home`.

    `name:QUANT` gets a header that says so, any other tag goes to Ollama, a path stands below
    `folder`, and a bare name gets the tiny model, which engines can run.
    """
    if ref.startswith("hf:"):
        _in_hub(ref.removeprefix("hf:"), home / ".cache/huggingface/hub")
        return
    if ref.endswith(".gguf"):
        target = folder / Path(ref).name
        target.parent.mkdir(parents=True, exist_ok=True)
        _as_large(Path(shutil.copy(tiny, target)))
        return
    name, _, tag = ref.partition(":")
    if tag in FILE_TYPES:
        extra = [key_u32("general.file_type", FILE_TYPES[tag])]
        _as_large(write_small(folder / f"{name}-{tag}.gguf", name=name, extra=extra))
    elif tag:
        _in_ollama(name, tag, home / ".ollama/models")
    else:
        folder.mkdir(parents=True, exist_ok=True)
        _as_large(Path(shutil.copy(tiny, folder / f"{name}.gguf")))


def _as_large(path: Path) -> None:
    """Have a model say that it was trained for as many tokens as its namesake."""
    content = path.read_bytes()
    key, uint32 = b".context_length", (4).to_bytes(4, "little")
    at = content.index(key + uint32) + len(key) + 4
    path.write_bytes(content[:at] + TRAINED_FOR.to_bytes(4, "little") + content[at + 4 :])


def _in_ollama(name: str, tag: str, store: Path) -> None:
    blobs = store / "blobs"
    content = write_small(blobs / "part", name=name).read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    (blobs / "part").replace(blobs / f"sha256-{digest}")
    manifest = store / "manifests/registry.ollama.ai/library" / name / tag
    manifest.parent.mkdir(parents=True, exist_ok=True)
    layer = {"mediaType": MODEL_LAYER, "digest": f"sha256:{digest}", "size": len(content)}
    manifest.write_text(json.dumps({"schemaVersion": 2, "layers": [layer]}))


def _in_hub(rest: str, hub: Path) -> None:
    repository, _, quantization = rest.partition(":")
    organisation, name, *file = repository.split("/")
    snapshot = hub / f"models--{organisation}--{name}" / "snapshots" / ("0" * 8)
    extra = [key_u32("general.file_type", FILE_TYPES[quantization])] if quantization else []
    stem = "/".join(file) or f"{name}-{quantization}.gguf"
    write_small(snapshot / stem, name=name, extra=extra)
