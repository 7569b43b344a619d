"""Memory estimates, against what llama-server printed for the same models."""

from __future__ import annotations

import pytest

from orchestrator.core.catalog import Metadata
from orchestrator.core.memory import estimate

MIB = 1 << 20
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
    assert found.compute is not None
    assert found.compute / MIB == pytest.approx(mebibytes, rel=0.1)


def test_a_known_model() -> None:
    found = estimate(LLAMA_8B, size_bytes=4_920_000_000, context=8192)
    assert found.kv_cache == 1024 * MIB
    assert found.weights == 4_920_000_000
    assert found.total == found.weights + found.kv_cache + (found.compute or 0)


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
    # Five layers keep 512 + a micro-batch of 512, one keeps all.
    assert estimate(gemma, size_bytes=0, context=8192).kv_cache == row * (5 * 1024 + 8192)
    assert estimate(gemma, size_bytes=0, context=256).kv_cache == row * 6 * 256


def test_an_encoder_keeps_nothing() -> None:
    bert = Metadata(architecture="bert", layers=12, heads=12, embedding_length=768)
    assert estimate(bert, size_bytes=1, context=512).kv_cache == 0


def test_what_the_header_does_not_say_is_not_made_up() -> None:
    found = estimate(Metadata(architecture="mystery"), size_bytes=77, context=512)
    assert (found.kv_cache, found.compute, found.total) == (None, None, 77)


@pytest.mark.parametrize(
    "wrong", [{"parallel": 0}, {"context": -1}, {"micro_batch": 0}, {"cache_type_k": "q3"}]
)
def test_numbers_that_cannot_be_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"positive|no such cache type"):
        estimate(TINY, size_bytes=0, **wrong)  # pyright: ignore[reportArgumentType]
