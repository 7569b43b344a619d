"""Memory estimates, against what llama-server printed for the same models."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from orchestrator.core.catalog import Metadata
from orchestrator.core.memory import Load, MemoryEstimate
from orchestrator.core.memory import estimate as estimated

MIB = 1 << 20


def estimate(metadata: Metadata, *, size_bytes: int, **load: Any) -> MemoryEstimate:
    return estimated(metadata, size_bytes=size_bytes, load=Load(**load))


LLAMA_8B = Metadata(
    architecture="llama",
    layers=32,
    embedding_length=4096,
    heads=32,
    heads_kv=8,
    context_length=131_072,
    vocabulary_size=128_256,
)
TINY = Metadata(
    architecture="llama",
    layers=2,
    embedding_length=64,
    heads=2,
    heads_kv=1,
    context_length=4096,
    vocabulary_size=320,
)


@pytest.mark.parametrize(
    ("context", "parallel", "key_type", "mebibytes"),
    [(1024, 2, "f16", 0.25), (1000, 3, "q8_0", 0.287109375), (4096, 1, "f16", 1.0)],
)
def test_kv_cache_is_what_llama_server_allocates(
    context: int, parallel: int, key_type: str, mebibytes: float
) -> None:
    """Printed by llama-server b11434 for the model of models/make_tiny.py."""
    found = estimate(TINY, size_bytes=0, context=context, parallel=parallel, cache_type_k=key_type)
    assert found.kv_cache == int(mebibytes * MIB)


@pytest.mark.parametrize(
    ("context", "parallel", "mebibytes"), [(4096, 1, 5.14), (1024, 2, 1.64), (1000, 3, 1.65)]
)
def test_compute_buffer_is_about_what_llama_server_allocates(
    context: int, parallel: int, mebibytes: float
) -> None:
    found = estimate(TINY, size_bytes=0, context=context, parallel=parallel)
    assert found.reserved is not None
    assert found.reserved / MIB == pytest.approx(mebibytes, rel=0.1)


MEASURED = [
    (Metadata("llama", layers=4, embedding_length=256, heads=4, heads_kv=2, vocabulary_size=2048),
     19, {"context": 32768, "parallel": 4, "unified": True}, 116),
    (Metadata("llama", layers=24, embedding_length=256, heads=4, heads_kv=4, vocabulary_size=2048),
     100, {"context": 8192, "parallel": 4, "micro_batch": 1024}, 327),
    (Metadata("llama", layers=4, embedding_length=512, heads=8, heads_kv=2, vocabulary_size=64000),
     76, {"context": 4096, "parallel": 4, "unified": True}, 127),
    (Metadata("llama", layers=16, embedding_length=1024, heads=16, heads_kv=8,
              vocabulary_size=2048, repacked_bytes=108 * MIB),
     110, {"context": 16384, "parallel": 2, "unified": True, "cache_type_k": "q4_0",
           "cache_type_v": "q4_0"}, 413),
    (Metadata("llama", layers=16, embedding_length=1024, heads=16, heads_kv=8,
              vocabulary_size=2048, repacked_bytes=108 * MIB),
     110, {"context": 8192, "parallel": 4, "unified": True, "mapped": False}, 417),
    (Metadata("gemma3", layers=12, embedding_length=256, heads=4, heads_kv=4,
              vocabulary_size=2048, sliding_window=512),
     50, {"context": 4096, "parallel": 4, "unified": True}, 124),
]  # fmt: skip
"""A header, its file in MiB, the settings, and the RSS in MiB of llama-server b11434."""


@pytest.mark.parametrize(("metadata", "size", "load", "mebibytes"), MEASURED)
def test_the_total_is_about_what_llama_server_took(
    metadata: Metadata, size: int, load: dict[str, Any], mebibytes: float
) -> None:
    """From a run of benchmarks/memory.py, which tries many more."""
    found = estimate(metadata, size_bytes=size * MIB, **load)
    assert found.total / MIB == pytest.approx(mebibytes, rel=0.1)


def test_a_known_model() -> None:
    found = estimate(LLAMA_8B, size_bytes=4_920_000_000, context=8192)
    assert found.kv_cache == 1024 * MIB
    assert found.weights == 4_920_000_000
    assert found.total == found.weights + found.kv_cache + (found.compute or 0) + found.program


def test_without_a_context_it_is_the_models_own() -> None:
    assert estimate(LLAMA_8B, size_bytes=0).context == 131_072
    assert estimate(LLAMA_8B, size_bytes=0, context=0).context == 131_072
    assert estimate(Metadata(), size_bytes=0).context == 4096


def test_quantised_cache_types_take_less() -> None:
    full = estimate(LLAMA_8B, size_bytes=0, context=8192).kv_cache or 0
    keys = estimate(LLAMA_8B, size_bytes=0, context=8192, cache_type_k="q8_0").kv_cache or 0
    both = (
        estimate(
            LLAMA_8B, size_bytes=0, context=8192, cache_type_k="q8_0", cache_type_v="q8_0"
        ).kv_cache
        or 0
    )
    assert both == full * 34 // 64
    assert full > keys > both


def test_key_and_value_lengths_of_the_header_go_before_the_quotient() -> None:
    wide = Metadata(layers=1, heads=8, heads_kv=1, embedding_length=64, key_length=256)
    assert estimate(wide, size_bytes=0, context=256).kv_cache == 256 * (256 + 8) * 2


def test_layers_that_differ_are_added_up() -> None:
    mixed = Metadata(layers=3, heads=8, heads_kv=8, embedding_length=64, heads_kv_total=12)
    assert estimate(mixed, size_bytes=0, context=256).kv_cache == 256 * 12 * (8 + 8) * 2


def test_windowed_layers_keep_only_their_window() -> None:
    gemma = Metadata(
        architecture="gemma3",
        layers=6,
        heads=4,
        heads_kv=1,
        embedding_length=64,
        sliding_window=512,
    )
    row = (16 + 16) * 2
    # Five layers keep 512 + a micro-batch of 512, and once more as saved; one keeps all.
    assert estimate(gemma, size_bytes=0, context=8192).kv_cache == row * (10 * 1024 + 8192)
    assert estimate(gemma, size_bytes=0, context=256).kv_cache == row * (5 * 2 + 1) * 256
    whole = estimate(gemma, size_bytes=0, context=8192, full_window=True)
    assert whole.kv_cache == row * 6 * 8192
    each = estimate(gemma, size_bytes=0, context=32768, parallel=4)
    assert each.kv_cache == row * (5 * 5 * 1024 + 32768)
    shared = estimate(gemma, size_bytes=0, context=32768, parallel=4, unified=True)
    assert shared.kv_cache == row * (5 * (4 * 512 + 512 + 1024) + 32768)


def test_the_header_may_say_which_layers_are_windowed() -> None:
    said = replace(LLAMA_8B, sliding_window=1024, windowed_layers=16)
    full = estimate(LLAMA_8B, size_bytes=0, context=65536).kv_cache or 0
    assert (estimate(said, size_bytes=0, context=65536).kv_cache or 0) < full * 0.55


def test_an_encoder_keeps_nothing() -> None:
    bert = Metadata(architecture="bert", layers=12, heads=12, embedding_length=768)
    assert estimate(bert, size_bytes=1, context=512).kv_cache == 0


def test_what_the_header_does_not_say_is_not_made_up() -> None:
    found = estimate(Metadata(architecture="mystery"), size_bytes=77, context=512)
    assert (found.kv_cache, found.compute, found.reserved) == (None, None, None)
    assert found.total == 77 + found.program
    assert not found.whole


@pytest.mark.parametrize(
    "wrong", [{"parallel": 0}, {"context": -1}, {"micro_batch": 0}, {"cache_type_k": "q3"}]
)
def test_numbers_that_cannot_be_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"positive|no such cache type"):
        estimate(TINY, size_bytes=0, **wrong)  # pyright: ignore[reportArgumentType]
