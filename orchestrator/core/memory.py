"""How much memory a model will take, from its header: an estimate, made before anything starts.

Three parts, as llama.cpp allocates them:

weights         the tensor data, mapped from the file: its size on disk.
KV cache        per layer and cell, one key and one value row:
                cells x heads_kv x (key_length x bytes(k) + value_length x bytes(v)).
                Source: llama_kv_cache in src/llama-kv-cache.cpp (n_embd_k_gqa, n_embd_v_gqa rows of
                kv_size cells). The cells are the context, divided among the sequences and padded
                to 256 for each: llama_context in src/llama-context.cpp. A layer that looks back
                through a window keeps the window of each sequence and one batch, padded:
                llama_kv_cache_iswa in src/llama-kv-cache-iswa.cpp.
compute buffer  what one micro-batch needs between layers. The largest tensor is that of the
                logits, batch x vocabulary in f32; beside it stand a few of batch x embedding, and
                the attention mask, batch x the cells of a sequence in f16 (with flash attention,
                the default, the scores themselves are never whole in memory). A fit, not a
                formula: graph_reserve in src/llama-context.cpp measures the real one.

Recurrent and compressed caches (Mamba, MLA) are smaller than what is computed for them here.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.core.catalog import Metadata

DEFAULT_CONTEXT = 4096
PADDING = 256
MICRO_BATCH = 512
"""llama-server's default `--ubatch-size`."""

CACHE_TYPE_BYTES = {
    "f32": 4.0,
    "f16": 2.0,
    "bf16": 2.0,
    "q8_0": 34 / 32,
    "q4_0": 18 / 32,
    "q4_1": 20 / 32,
    "iq4_nl": 18 / 32,
    "q5_0": 22 / 32,
    "q5_1": 24 / 32,
}
"""Bytes of one element, by the word that `--cache-type-k` and `--cache-type-v` take."""

WINDOW_PATTERNS = {"gemma2": 2, "gemma3": 6, "gemma3n": 5, "gpt-oss": 2, "cohere2": 4}
"""Of so many layers in turn, one looks at the whole context (llama.cpp, src/llama-model.cpp)."""

CACHELESS = frozenset(
    {"bert", "modern-bert", "nomic-bert", "nomic-bert-moe", "neo-bert", "eurobert"}
    | {"jina-bert-v2", "jina-bert-v3", "gemma-embedding", "t5encoder", "llama-embed"}
)
"""Encoders: they see a text at once and keep nothing for the next token."""


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Bytes, and the context (tokens, all sequences together) that they are for.

    `kv_cache` and `compute` are None where the header does not say enough; the total is then what
    is known, a lower bound.
    """

    context: int
    weights: int
    kv_cache: int | None
    compute: int | None

    @property
    def total(self) -> int:
        return self.weights + (self.kv_cache or 0) + (self.compute or 0)


def estimate(
    metadata: Metadata,
    *,
    size_bytes: int,
    context: int | None = None,
    parallel: int = 1,
    cache_type_k: str = "f16",
    cache_type_v: str = "f16",
    micro_batch: int = MICRO_BATCH,
) -> MemoryEstimate:
    """What a server of this model will need.

    `size_bytes` is all that is loaded (a projector included). `context` is what `--ctx-size`
    says, shared among `parallel` sequences; None or 0 means the model's own. Raises `ValueError`
    for a cache type that llama.cpp does not have, or a number that cannot be.
    """
    if parallel < 1 or micro_batch < 1 or (context or 0) < 0:
        raise ValueError("context, parallel and micro_batch must be positive")
    wanted = context or metadata.context_length or DEFAULT_CONTEXT
    cells = parallel * _padded(-(-wanted // parallel))
    per_cell = _bytes_per_cell(metadata, _element(cache_type_k), _element(cache_type_v))
    return MemoryEstimate(
        context=wanted,
        weights=size_bytes,
        kv_cache=_kv_cache(metadata, per_cell, cells, parallel, micro_batch),
        compute=_compute(metadata, cells // parallel, min(micro_batch, wanted)),
    )


def _kv_cache(
    metadata: Metadata, per_cell: float | None, cells: int, parallel: int, micro_batch: int
) -> int | None:
    if metadata.architecture in CACHELESS:
        return 0
    if per_cell is None:
        return None
    period = WINDOW_PATTERNS.get(metadata.architecture or "")
    if not metadata.sliding_window or period is None:
        return int(per_cell * cells)
    windowed = min(cells, _padded(metadata.sliding_window * parallel + micro_batch))
    return int(per_cell * (windowed * (period - 1) + cells) / period)


def _bytes_per_cell(metadata: Metadata, key_bytes: float, value_bytes: float) -> float | None:
    """Bytes of the keys and values of one token in all layers."""
    rows = metadata.heads_kv_total
    heads_kv = metadata.heads_kv if metadata.heads_kv is not None else metadata.heads
    if rows is None and heads_kv is not None and metadata.layers is not None:
        rows = heads_kv * metadata.layers
    head = None
    if metadata.embedding_length and metadata.heads:
        head = metadata.embedding_length // metadata.heads
    key = metadata.key_length or head
    value = metadata.value_length or head
    if rows is None or key is None or value is None:
        return None
    return rows * (key * key_bytes + value * value_bytes)


def _compute(metadata: Metadata, cells: int, batch: int) -> int | None:
    if metadata.embedding_length is None:
        return None
    wide = (metadata.vocabulary_size or 0) + 4 * metadata.embedding_length
    return batch * (4 * wide + 2 * cells)


def _element(cache_type: str) -> float:
    size = CACHE_TYPE_BYTES.get(cache_type)
    if size is None:
        raise ValueError(f"no such cache type: {cache_type!r}")
    return size


def _padded(cells: int) -> int:
    return -(-cells // PADDING) * PADDING
