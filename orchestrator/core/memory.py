"""How much memory a model will take, from its header: an estimate, made before anything starts.

What it is made of, as llama.cpp allocates it:

weights         the tensor data, mapped from the file: its size on disk.
repacked        the second, rearranged copy that a CPU keeps of matrices in some quantizations
                (`repack.cpp` of ggml-cpu). What the file has of them is not read again, and where
                weights are not mapped it is not kept.
KV cache        per layer and cell, one key and one value row:
                cells x heads_kv x (key_length x bytes(k) + value_length x bytes(v)).
                Source: llama_kv_cache in src/llama-kv-cache.cpp (n_embd_k_gqa, n_embd_v_gqa rows of
                kv_size cells). The cells are the context, padded to 256: one pool for all sequences
                when unified, else divided among them, and each part padded (llama_context in
                src/llama-context.cpp). A layer that looks back through a window keeps the window of
                each sequence and one micro-batch, padded (src/llama-kv-cache-iswa.cpp).
compute         what is worked with while a micro-batch passes through the layers: some numbers per
                token and column. On a CPU it is memory once it is touched; `reserved` is all that
                is allocated for it, which on a GPU is the same. A fit to what was measured
                (benchmarks/memory.py), not a formula.
program         the server itself: its code, its heap, its vocabulary.

Recurrent and compressed caches (Mamba, MLA) are smaller than what is computed for them here. What
grows with use is not in it: the prompt cache (`--cache-ram`), and saved states of windowed caches
beyond the first (`--ctx-checkpoints`).
"""

from __future__ import annotations

from msgspec import Struct

from orchestrator.core.catalog import Metadata

DEFAULT_CONTEXT = 4096
PADDING = 256
MICRO_BATCH = 512
"""llama-server's default `--ubatch-size`."""
AUTO_PARALLEL = 4
"""The slots, with one pool of cells, of a llama-server that is not told how many."""

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

WINDOW_PATTERNS = {
    "gemma2": 2,
    "gemma3": 6,
    "gemma3n": 5,
    "gpt-oss": 2,
    "plamo3": 8,
    **dict.fromkeys(("afmoe", "cohere2", "cohere2moe", "exaone-moe", "exaone4"), 4),
    **dict.fromkeys(("laguna", "llama4", "mellum", "muse-glimmer", "olmo2", "smallthinker"), 4),
}
"""Of so many layers in turn, one looks at the whole context (`load_swa_pattern`, src/models)."""

CACHELESS = frozenset(
    {"bert", "modern-bert", "nomic-bert", "nomic-bert-moe", "neo-bert", "eurobert"}
    | {"jina-bert-v2", "jina-bert-v3", "gemma-embedding", "t5encoder", "llama-embed"}
)
"""Encoders: they see a text at once and keep nothing for the next token."""

_PROGRAM = 22 << 20
_PER_TOKEN = 150
"""Bytes of the server for each entry of its vocabulary."""
_COLUMNS = 13
"""Numbers in f32 that a CPU touches for each token of a micro-batch, per column."""


class Load(Struct, frozen=True):
    """What of a server's settings decides how much memory a model takes.

    `context` is what `--ctx-size` says, for all sequences together; None or 0 is the model's own.
    """

    context: int | None = None
    parallel: int = 1
    unified: bool = False
    cache_type_k: str = "f16"
    cache_type_v: str = "f16"
    micro_batch: int = MICRO_BATCH
    full_window: bool = False
    """Windowed layers keep the whole context (`--swa-full`)."""
    repack: bool = True
    mapped: bool = True
    """The weights are read in place, in the file, and not copied."""


class MemoryEstimate(Struct, frozen=True):
    """Bytes, and the context (tokens, all sequences together) that they are for.

    `kv_cache` and `compute` are None where the header does not say enough; the total, which is for
    a CPU, is then what is known, a lower bound. `reserved` is the compute buffer of a GPU.
    """

    context: int
    weights: int
    repacked: int
    kv_cache: int | None
    compute: int | None
    reserved: int | None
    program: int

    @property
    def own(self) -> int:
        """What the process takes for itself: all but the mapped weights."""
        return self.repacked + (self.kv_cache or 0) + (self.compute or 0) + self.program

    @property
    def total(self) -> int:
        return self.weights + self.own

    @property
    def whole(self) -> bool:
        """True when the header says enough for all of it."""
        return self.kv_cache is not None and self.compute is not None


def estimate(metadata: Metadata, *, size_bytes: int, load: Load | None = None) -> MemoryEstimate:
    """What a server of this model will need.

    `size_bytes` is all that is loaded (a projector included). Raises `ValueError` for a cache type
    that llama.cpp does not have, or a number that cannot be.
    """
    load = load or Load()
    if load.parallel < 1 or load.micro_batch < 1 or (load.context or 0) < 0:
        raise ValueError("context, parallel and micro_batch must be positive")
    wanted = load.context or metadata.context_length or DEFAULT_CONTEXT
    streams = 1 if load.unified else load.parallel
    cells = _padded(-(-wanted // streams))
    batch = min(load.micro_batch, wanted)
    tokens = metadata.vocabulary_size or 0
    repacked = min(metadata.repacked_bytes or 0, size_bytes) if load.repack else 0
    return MemoryEstimate(
        context=wanted,
        weights=size_bytes if load.mapped else size_bytes - repacked,
        repacked=repacked,
        kv_cache=_kv_cache(metadata, load, cells, streams),
        compute=_touched(metadata, batch),
        reserved=_reserved(metadata, cells, batch),
        program=_PROGRAM + tokens * _PER_TOKEN,
    )


def _kv_cache(metadata: Metadata, load: Load, cells: int, streams: int) -> int | None:
    if metadata.architecture in CACHELESS:
        return 0
    key, value = _element(load.cache_type_k), _element(load.cache_type_v)
    per_cell = _bytes_per_cell(metadata, key, value)
    if per_cell is None:
        return None
    looks_back = _windowed_layers(metadata)
    if not looks_back or not metadata.layers or not metadata.sliding_window:
        return int(per_cell * cells * streams)
    share = looks_back / metadata.layers
    together = load.parallel if load.unified else 1
    window = min(cells, _padded(metadata.sliding_window * together + load.micro_batch))
    if load.full_window:
        window = cells
    # A state of the windowed layers is saved with the first prompt, to go back to.
    saved = 0 if load.full_window else min(window, metadata.sliding_window + load.micro_batch)
    windowed = share * (window * streams + saved)
    return int(per_cell * (windowed + (1 - share) * cells * streams))


def _windowed_layers(metadata: Metadata) -> int:
    """The layers that look back through a window only."""
    if metadata.windowed_layers is not None:
        return metadata.windowed_layers
    period = WINDOW_PATTERNS.get(metadata.architecture or "")
    if period is None or metadata.layers is None:
        return 0
    return metadata.layers - metadata.layers // period


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


def _touched(metadata: Metadata, batch: int) -> int | None:
    if metadata.embedding_length is None:
        return None
    return batch * 4 * _COLUMNS * metadata.embedding_length


def _reserved(metadata: Metadata, cells: int, batch: int) -> int | None:
    """The largest tensor is that of the logits, batch x vocabulary in f32; beside it stand a few of
    batch x embedding, and the attention mask, batch x the cells of a sequence in f16."""
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
