"""What a header means: architecture, size, quantisation, and what the model is for."""

from __future__ import annotations

import re
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from orchestrator.core.catalog import Metadata, Purpose
from orchestrator.discovery.gguf_header import Header, read_header
from orchestrator.discovery.gguf_tensors import Tensors
from orchestrator.discovery.gguf_types import FILE_TYPES, GUESSED, POOLING_RANK, TENSOR_TYPES

Kind = Literal["model", "mmproj", "other"]

EMBEDDING_ARCHITECTURES = frozenset(
    {
        "bert",
        "modern-bert",
        "nomic-bert",
        "nomic-bert-moe",
        "neo-bert",
        "jina-bert-v2",
        "jina-bert-v3",
        "eurobert",
        "gemma-embedding",
        "llama-embed",
        "t5encoder",
    }
)
NOT_MODELS = frozenset({"adapter", "imatrix"})
"""`general.type` of files that go beside a model."""

REPACKED = frozenset({"Q4_0", "Q4_K", "IQ4_NL", "MXFP4"})
"""Types of which a CPU keeps a rearranged copy (ggml-cpu, with AVX2 or NEON)."""

_THINKING = re.compile(
    r"<think>|<seed:think>|\[THINK\]|<\|channel\|>analysis|enable_thinking|thinking_budget"
    r"|reasoning_content|reasoning_effort",
    re.IGNORECASE,
)


class Facts(Struct, frozen=True):
    """What one GGUF file is. `projects_to` is the embedding size a projector feeds."""

    kind: Kind
    metadata: Metadata
    projects_to: int | None = None


def read_facts(path: str, *, complete: bool = True) -> Facts:
    """Read and interpret one file. Raises what `read_header` raises."""
    header = read_header(path, complete=complete)
    return Facts(
        kind=_kind(header),
        metadata=_metadata(header),
        projects_to=_number(header, "clip.vision.projection_dim")
        or _number(header, "clip.audio.projection_dim"),
    )


def joined(first: Metadata, parts: tuple[Metadata, ...]) -> Metadata:
    """The metadata of a split model: its first part says what it is, all parts hold tensors."""
    counts = [part.parameters for part in parts]
    if None in counts:
        return first
    return replace(first, parameters=sum(count for count in counts if count is not None))


def _kind(header: Header) -> Kind:
    if _text(header, "general.architecture") == "clip" or _text(header, "general.type") == "mmproj":
        return "mmproj"
    if (
        _text(header, "general.type") in NOT_MODELS
        or _text(header, "general.architecture") == "imatrix"
    ):
        return "other"
    return "model"


def _metadata(header: Header) -> Metadata:
    architecture = _text(header, "general.architecture")
    template = _text(header, "tokenizer.chat_template")
    has_template = template is not None or any(
        key.startswith("tokenizer.chat_template") for key in header.lengths
    )
    per_layer = header.values.get(f"{architecture}.attention.head_count_kv")
    windowed = header.values.get(f"{architecture}.attention.sliding_window_pattern")
    return Metadata(
        architecture=architecture,
        name=_text(header, "general.name"),
        parameters=header.tensors.parameters if header.tensors else None,
        quantization=_quantization(header),
        context_length=_number(header, f"{architecture}.context_length"),
        layers=_number(header, f"{architecture}.block_count"),
        embedding_length=_number(header, f"{architecture}.embedding_length"),
        heads=_number(header, f"{architecture}.attention.head_count"),
        heads_kv=_number(header, f"{architecture}.attention.head_count_kv"),
        key_length=_number(header, f"{architecture}.attention.key_length"),
        value_length=_number(header, f"{architecture}.attention.value_length"),
        vocabulary_size=header.lengths.get("tokenizer.ggml.tokens")
        or _number(header, f"{architecture}.vocab_size"),
        chat_template=True if has_template else (False if header.complete else None),
        thinking=_thinking(template, header),
        purpose=_purpose(header, architecture),
        complete=header.complete,
        heads_kv_total=int(sum(per_layer)) if isinstance(per_layer, tuple) else None,
        sliding_window=_number(header, f"{architecture}.attention.sliding_window"),
        windowed_layers=sum(map(bool, windowed)) if isinstance(windowed, tuple) else None,
        repacked_bytes=_repacked(header, architecture),
    )


def _repacked(header: Header, architecture: str | None) -> int | None:
    """Bytes of the matrices that a CPU rearranges for itself: not those of the token embeddings,
    which are only looked up."""
    if header.tensors is None:
        return None
    total = 0
    for kind, elements in header.tensors.elements.items():
        name, block, size = TENSOR_TYPES.get(kind, ("", 1, 0))
        if name in REPACKED:
            total += elements // block * size
    if not total or _dominant(header.tensors) not in REPACKED:
        return total
    columns = _number(header, f"{architecture}.embedding_length") or 0
    rows = header.lengths.get("tokenizer.ggml.tokens") or 0
    kind = max(sorted(header.tensors.elements), key=header.tensors.elements.__getitem__)
    _, block, size = TENSOR_TYPES[kind]
    return max(total - rows * columns // block * size, 0)


def _thinking(template: str | None, header: Header) -> bool | None:
    if template is None:
        return False if header.complete else None
    return _THINKING.search(template) is not None


def _purpose(header: Header, architecture: str | None) -> Purpose | None:
    if architecture is None:
        return None
    pooling = _number(header, f"{architecture}.pooling_type") or 0
    classifies = header.tensors is not None and header.tensors.classifier
    if pooling == POOLING_RANK or classifies:
        return "reranker"
    if f"{architecture}.classifier.output_labels" in header.lengths:
        return "reranker"
    if pooling or architecture in EMBEDDING_ARCHITECTURES:
        return "embedding"
    return "generative"


def _quantization(header: Header) -> str | None:
    file_type = _number(header, "general.file_type")
    if file_type is not None:
        named = FILE_TYPES.get(file_type & ~GUESSED)
        if named is not None:
            return named
    return _dominant(header.tensors) if header.tensors else None


def _dominant(tensors: Tensors) -> str | None:
    """The tensor type of most weights, where no file type is given."""
    if not tensors.elements:
        return None
    kind = max(sorted(tensors.elements), key=lambda kind: tensors.elements[kind])
    known = TENSOR_TYPES.get(kind)
    return known[0] if known else None


def _text(header: Header, key: str) -> str | None:
    value = header.values.get(key)
    return value if isinstance(value, str) else None


def _number(header: Header, key: str) -> int | None:
    """A count; of one given layer by layer, the largest. Anything else says nothing."""
    value = header.values.get(key)
    if isinstance(value, tuple):
        value = max(value, default=None)
    return value if isinstance(value, int) and not isinstance(value, bool) else None
