"""The header reader against real files, against the `gguf` package, and against malice."""

from __future__ import annotations

import os
import random
import time
import tracemalloc
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import pytest
from gguf import constants
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.make_tiny import write_tiny, write_tiny_embedding
from orchestrator.discovery import gguf_types
from orchestrator.discovery.gguf_header import Header, HeaderError, read_header
from orchestrator.discovery.gguf_metadata import read_facts
from orchestrator.discovery.gguf_window import Window, first_key
from tests import generated_models as make

IN_ONE_FOLDER = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def test_tables_are_those_of_the_format() -> None:
    assert {kind.value: kind.name for kind in constants.GGMLQuantizationType} == {
        kind: name for kind, (name, _, _) in gguf_types.TENSOR_TYPES.items()
    }
    assert {kind.value: size for kind, size in constants.GGML_QUANT_SIZES.items()} == {
        kind: (block, size) for kind, (_, block, size) in gguf_types.TENSOR_TYPES.items()
    }
    assert {
        kind.value: kind.name.removeprefix("MOSTLY_").removeprefix("ALL_")
        for kind in constants.LlamaFileType
        if kind is not constants.LlamaFileType.GUESSED
    } == gguf_types.FILE_TYPES
    assert {kind.value for kind in constants.GGUFValueType} == {
        *gguf_types.SCALAR_FORMATS,
        gguf_types.STRING,
        gguf_types.ARRAY,
    }
    assert constants.LlamaFileType.GUESSED == gguf_types.GUESSED
    assert constants.PoolingType.RANK == gguf_types.POOLING_RANK


def oracle(path: Path) -> tuple[dict[str, Any], dict[str, int], int, dict[int, int]]:
    """The same facts, from the `gguf` package: values, array lengths, tensors, elements by type."""
    reader = gguf.GGUFReader(path)
    values: dict[str, Any] = {}
    lengths: dict[str, int] = {}
    for key, item in reader.fields.items():
        if key.startswith("GGUF."):
            continue
        if item.types[0] == gguf.GGUFValueType.ARRAY:
            lengths[key] = len(item.data)
        else:
            values[key] = item.contents()
    elements: dict[int, int] = {}
    for tensor in reader.tensors:
        kind = int(tensor.tensor_type)
        elements[kind] = elements.get(kind, 0) + int(tensor.n_elements)
    return values, lengths, len(reader.tensors), elements


def assert_agrees(header: Header, path: Path) -> None:
    values, lengths, count, elements = oracle(path)
    for key, value in header.values.items():
        if not isinstance(value, tuple):
            assert values[key] == value, key
    assert header.tensors is not None
    assert header.tensors.count == count
    assert header.tensors.elements == elements
    assert header.tensors.parameters == sum(elements.values())
    for key, length in lengths.items():
        assert header.lengths[key] == length
    assert set(values) | set(lengths) == set(header.values) | set(header.lengths)


@pytest.mark.parametrize("write", [write_tiny, write_tiny_embedding])
def test_agrees_with_the_oracle_on_models_that_engines_run(tmp_path: Path, write: Any) -> None:
    path = write(tmp_path / "tiny.gguf")
    assert_agrees(read_header(str(path)), path)


def test_metadata_of_a_generative_model(tmp_path: Path) -> None:
    metadata = read_facts(str(write_tiny(tmp_path / "t.gguf", name="tiny", layers=3))).metadata
    assert metadata.architecture == "llama"
    assert metadata.name == "tiny"
    assert metadata.quantization == "F32"
    assert (metadata.layers, metadata.heads, metadata.heads_kv) == (3, 2, 1)
    assert (metadata.context_length, metadata.embedding_length) == (4096, 64)
    assert metadata.vocabulary_size == 320
    assert (metadata.chat_template, metadata.thinking) == (True, False)
    assert metadata.purpose == "generative"
    assert metadata.complete


def test_metadata_of_an_embedding_model(tmp_path: Path) -> None:
    metadata = read_facts(str(write_tiny_embedding(tmp_path / "e.gguf"))).metadata
    assert (metadata.architecture, metadata.purpose) == ("bert", "embedding")
    assert metadata.chat_template is False


@pytest.mark.parametrize(
    ("extra", "purpose"),
    [
        ([make.key_u32("qwen3.pooling_type", 4)], "reranker"),
        ([make.key_texts("qwen3.classifier.output_labels", ["yes", "no"])], "reranker"),
        ([make.key_u32("qwen3.pooling_type", 3)], "embedding"),
        ([make.key_u32("qwen3.pooling_type", 0)], "generative"),
        ([], "generative"),
    ],
)
def test_purpose(tmp_path: Path, extra: list[bytes], purpose: str) -> None:
    path = make.write_small(tmp_path / "m.gguf", architecture="qwen3", extra=extra)
    assert read_facts(str(path)).metadata.purpose == purpose


def test_a_classifier_head_makes_a_reranker(tmp_path: Path) -> None:
    tensors = [make.tensor("cls.weight", [16], make.F32, 0)]
    path = make.write_small(tmp_path / "m.gguf", architecture="bert", tensors=tensors)
    assert read_facts(str(path)).metadata.purpose == "reranker"


@pytest.mark.parametrize(
    ("template", "thinks"),
    [
        ("{{ messages }}", False),
        ("{% if enable_thinking %}", True),
        ("<think>\n", True),
        ("{{ message.reasoning_content }}", True),
        ("<|channel|>analysis", True),
    ],
)
def test_thinking_is_told_from_the_chat_template(
    tmp_path: Path, template: str, thinks: bool
) -> None:
    extra = [make.key_text("tokenizer.chat_template", template)]
    metadata = read_facts(str(make.write_small(tmp_path / "m.gguf", extra=extra))).metadata
    assert (metadata.chat_template, metadata.thinking) == (True, thinks)


def test_quantisation_is_that_of_most_weights_when_no_file_type_is_given(tmp_path: Path) -> None:
    tensors = [
        make.tensor("a", [64], make.F32, 0),
        make.tensor("b", [1024], make.Q4_K, 256),
        make.tensor("c", [256], make.Q6_K, 256 + 576),
    ]
    path = make.write_small(tmp_path / "m.gguf", tensors=tensors)
    assert read_facts(str(path)).metadata.quantization == "Q4_K"


def test_heads_given_layer_by_layer(tmp_path: Path) -> None:
    per_layer = make.key_numbers("gemma.attention.head_count_kv", [0, 8, 4])
    extra = [per_layer, make.key_text("general.type", "model")]
    pairs = [p for p in make.small_pairs(architecture="gemma") if b"head_count_kv" not in p]
    path = tmp_path / "m.gguf"
    path.write_bytes(make.header([*pairs, *extra]))
    metadata = read_facts(str(path)).metadata
    assert (metadata.heads_kv, metadata.heads_kv_total) == (8, 12)


def vocabulary(count: int, rng: random.Random) -> list[str]:
    """Words of all sorts: empty, long, with zeros, and some that look like keys of a header."""
    odd = ["", "\0", "\0" * 9, " " * 300, "tokenizer.ggml.bos_token_id", "general.name", "日本語"]
    return [
        rng.choice(odd) if rng.random() < 0.01 else f"w{rng.randrange(10**9):x}"
        for _ in range(count)
    ]


@pytest.mark.parametrize("order", ["converted", "sorted", "adjacent"])
@pytest.mark.parametrize("seed", range(3))
def test_a_jump_over_the_vocabulary_lands_where_a_walk_does(
    tmp_path: Path, seed: int, order: str
) -> None:
    rng = random.Random(seed)
    tokens = rng.randrange(2_000, 30_000)
    template = make.key_text("tokenizer.chat_template", "x" * rng.randrange(100_000))
    merges = vocabulary(rng.randrange(1_100, 40_000), rng)
    merged = make.key_texts("tokenizer.ggml.merges", merges)
    kinds = make.key_numbers("tokenizer.ggml.token_type", [1] * tokens)
    words = make.key_texts("tokenizer.ggml.tokens", vocabulary(tokens, rng))
    file_type = make.key_u32("general.file_type", 15)
    extra = {
        "converted": [words, kinds, merged, template, file_type],
        "sorted": [file_type, template, merged, kinds, words],
        "adjacent": [words, merged, kinds, template, file_type],
    }[order]
    path = make.write_small(tmp_path / "m.gguf", extra=extra)
    header = read_header(str(path))
    assert header.lengths["tokenizer.ggml.tokens"] == tokens
    assert_agrees(header, path)


def test_a_jump_reads_a_fraction_of_the_vocabulary(tmp_path: Path) -> None:
    path = make.write_big(tmp_path / "big.gguf", name="Big")
    with path.open("rb") as file:
        raw = file.read(9_000_000)
        begin = raw.index(b"tokenizer.ggml.merges") + len(b"tokenizer.ggml.merges") + 16
        window = Window(file.fileno(), path.stat().st_size)
        window.skip(begin)
        assert window.seek(256_000, partial(first_key, starts=(b"tokenizer.",)))
        assert window.position == raw.index(b"tokenizer.ggml.bos_token_id") - 8
        assert window.glances < 100


def test_keys_that_hide_in_the_vocabulary_are_not_believed(tmp_path: Path) -> None:
    """Texts that are, byte for byte, further keys: only the exact walk reads past them."""
    hidden = make.key_u32("tokenizer.ggml.bos_token_id", 7)[8:]
    forged = hidden + make.text("x") * 40
    tokens: list[str | bytes] = [*["a"] * 5000, forged, *["b"] * 5000]
    extra = [
        make.key_texts("tokenizer.ggml.tokens", tokens),
        make.key_u32("tokenizer.ggml.bos_token_id", 3),
        make.key_u32("general.file_type", 15),
    ]
    header = read_header(str(make.write_small(tmp_path / "m.gguf", extra=extra)))
    assert header.values["tokenizer.ggml.bos_token_id"] == 3
    assert header.values["general.file_type"] == 15


def test_a_big_model_is_read_completely(tmp_path: Path) -> None:
    path = make.write_big(tmp_path / "big.gguf", name="Big")
    facts = read_facts(str(path))
    assert facts.metadata.parameters == 8_030_261_248
    assert facts.metadata.quantization == "Q4_K_M"
    assert facts.metadata.vocabulary_size == 128_256
    assert facts.metadata.chat_template


def test_a_quick_read_stops_at_the_vocabulary(tmp_path: Path) -> None:
    path = make.write_big(tmp_path / "big.gguf", name="Big")
    # With nothing behind the front of the file, only what is there can have been read.
    os.truncate(path, 2_000)
    with path.open("ab") as file:
        file.truncate(5_000_000_000)
    metadata = read_facts(str(path), complete=False).metadata
    assert not metadata.complete
    assert (metadata.name, metadata.context_length, metadata.layers) == ("Big", 131_072, 32)
    assert metadata.vocabulary_size == 128_256
    assert metadata.purpose == "generative"
    assert (metadata.parameters, metadata.quantization, metadata.chat_template) == (None,) * 3


GOOD = make.header(make.small_pairs(), [make.tensor("t", [8], make.F32, 0)]) + bytes(32)


def preamble(keys: int, tensors: int, *, version: int = 3) -> bytes:
    return b"GGUF" + make.u32(version) + make.u64(tensors) + make.u64(keys)


HOSTILE = {
    "empty": (b"", "is empty"),
    "short": (b"GG", "is not a GGUF file"),
    "magic only": (b"GGUF", "ends in the middle"),
    "html": (b"<!DOCTYPE html><html>404", "is not a GGUF file"),
    "version 1": (preamble(0, 0, version=1), "version 1"),
    "version 99": (preamble(0, 0, version=99), "version 99"),
    "big endian": (b"GGUF" + (3).to_bytes(4, "big") + bytes(16), "big-endian"),
    "keys lie": (preamble(2**63, 0) + GOOD[24:], "announces 9223372036854775808 keys"),
    "tensors lie": (preamble(1, 2**40) + GOOD[24:], "announces 1 keys and 1099511627776 tensors"),
    "one key too many": (preamble(8, 1) + GOOD[24:], "damaged"),
    "one key too few": (preamble(6, 1) + GOOD[24:], "damaged|missing"),
    "huge key": (preamble(1, 0) + make.u64(2**62) + bytes(99), "has a key of"),
    "empty key": (preamble(1, 0) + bytes(99), "has a key of 0 bytes"),
    "unknown value type": (preamble(1, 0) + make.text("k") + make.u32(77) + bytes(9), "type 77"),
    "huge text": (
        preamble(1, 0) + make.text("general.name") + make.u32(8) + make.u64(2**63) + bytes(9),
        "ends in the middle",
    ),
    "huge array of texts": (
        preamble(1, 0) + make.text("k") + make.u32(9) + make.u32(8) + make.u64(2**61) + bytes(9),
        "announces 2305843009213693952 texts",
    ),
    "huge array of numbers": (
        preamble(1, 0) + make.text("k") + make.u32(9) + make.u32(10) + make.u64(2**60) + bytes(9),
        "ends in the middle",
    ),
    "array of arrays": (
        preamble(1, 0) + make.text("k") + make.u32(9) + make.u32(9) + make.u64(1) + bytes(20),
        "array of type 9",
    ),
    "a text in an array lies": (
        preamble(1, 0) + make.text("k") + make.u32(9) + make.u32(8) + make.u64(2)
        + make.u64(2**64 - 1) + bytes(30),
        "ends in the middle",
    ),
    "no alignment": (
        make.header([make.key_u32("general.alignment", 0)], []) + bytes(64),
        "impossible alignment",
    ),
    "dimensions": (
        preamble(0, 1) + make.text("t") + make.u32(4_000_000) + bytes(64),
        "tensor of 4000000 dimensions",
    ),
    "tensor too large to be": (
        make.header([], [make.tensor("t", [2**60, 2**60], make.F32, 0)]) + bytes(64),
        "impossible size",
    ),
    "offset too large to be": (
        make.header([], [make.tensor("t", [8], make.F32, 2**63)]) + bytes(64),
        "impossible size",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_give_one_clear_error(tmp_path: Path, case: str) -> None:
    raw, message = HOSTILE[case]
    path = tmp_path / "bad.gguf"
    path.write_bytes(raw)
    with pytest.raises(HeaderError, match=message):
        read_header(str(path))


def test_a_torn_download_says_how_much_is_missing(tmp_path: Path) -> None:
    path = make.write_small(tmp_path / "torn.gguf", data=1 << 20)
    os.truncate(path, path.stat().st_size - 12_345)
    with pytest.raises(HeaderError, match=r"is cut short: 12345 of its \d+ bytes are missing"):
        read_header(str(path))


@pytest.mark.parametrize("size", [10, 100, 1_000_000, 5_000_000])
def test_a_big_model_torn_in_its_header(tmp_path: Path, size: int) -> None:
    path = make.write_big(tmp_path / "torn.gguf", name="Torn")
    os.truncate(path, size)
    with pytest.raises(HeaderError):
        read_header(str(path))


def test_sparse_nonsense_costs_neither_time_nor_memory(tmp_path: Path) -> None:
    """A terabyte of zeros that claims to be millions of empty texts."""
    path = tmp_path / "zeros.gguf"
    head = preamble(1, 0) + make.text("tokenizer.ggml.tokens") + make.u32(9) + make.u32(8)
    path.write_bytes(head + make.u64(2**36))
    os.truncate(path, 1 << 40)
    tracemalloc.start()
    began = time.process_time()
    with pytest.raises(HeaderError, match="no model has that many"):
        read_header(str(path))
    spent = time.process_time() - began
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert spent < 2
    assert peak < 4 << 20


def test_what_is_no_regular_file_is_an_error_not_a_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    with pytest.raises(HeaderError, match="not a regular file"):
        read_header(str(tmp_path / "pipe.gguf"))
    with pytest.raises(HeaderError, match="not a regular file"):
        read_header(str(tmp_path))


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_header(str(tmp_path / "none.gguf"))


scalars = st.one_of(
    st.integers(0, 2**32 - 1).map(lambda n: make.u32(4) + make.u32(n)),
    st.integers(0, 2**64 - 1).map(lambda n: make.u32(10) + make.u64(n)),
    st.booleans().map(lambda b: make.u32(7) + bytes([b])),
    st.text(max_size=40).map(lambda t: make.u32(8) + make.text(t)),
    st.lists(st.text(max_size=9), min_size=1, max_size=1500).map(
        lambda v: make.u32(9) + make.u32(8) + make.u64(len(v)) + b"".join(map(make.text, v))
    ),
    st.lists(st.integers(0, 255), min_size=1).map(
        lambda v: make.u32(9) + make.u32(0) + make.u64(len(v)) + bytes(v)
    ),
)
names = st.sampled_from(
    ["general.name", "general.file_type", "tokenizer.chat_template", "a.b", "llama.block_count"]
)


@IN_ONE_FOLDER
@given(
    pairs=st.dictionaries(names | st.text("abc.", min_size=1, max_size=9), scalars, max_size=8),
    shapes=st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=4), max_size=5),
)
def test_agrees_with_the_oracle_on_any_valid_file(
    tmp_path: Path, pairs: dict[str, bytes], shapes: list[list[int]]
) -> None:
    tensors: list[bytes] = []
    offset = 0
    for number, shape in enumerate(shapes):
        tensors.append(make.tensor(f"t{number}", shape, make.F32, offset))
        size = 4
        for side in shape:
            size *= side
        offset += -(-size // 32) * 32
    path = tmp_path / "valid.gguf"
    raw = make.header([make.text(key) + value for key, value in pairs.items()], tensors)
    path.write_bytes(raw + bytes(offset))
    assert_agrees(read_header(str(path)), path)


BASE = make.header(
    [
        *make.small_pairs(),
        make.key_texts("tokenizer.ggml.tokens", [f"t{i}" for i in range(1200)]),
        make.key_numbers("tokenizer.ggml.token_type", [1] * 1200),
        make.key_u32("general.file_type", 15),
    ],
    [make.tensor("a", [32], make.F32, 0), make.tensor("b", [256], make.Q4_K, 128)],
) + bytes(288)


@IN_ONE_FOLDER
@given(
    cuts=st.lists(st.tuples(st.integers(0, len(BASE)), st.binary(max_size=12)), max_size=6),
    keep=st.integers(0, len(BASE)) | st.none(),
    complete=st.booleans(),
)
def test_mutated_bytes_raise_nothing_but_a_header_error(
    tmp_path: Path, cuts: list[tuple[int, bytes]], keep: int | None, complete: bool
) -> None:
    raw = bytearray(BASE)
    for at, patch in cuts:
        raw[at : at + len(patch)] = patch
    assert_reads_or_refuses(tmp_path / "m.gguf", bytes(raw[:keep]), complete=complete)


@IN_ONE_FOLDER
@given(tail=st.binary(max_size=400), keys=st.integers(0, 4), tensors=st.integers(0, 4))
def test_random_bytes_raise_nothing_but_a_header_error(
    tmp_path: Path, tail: bytes, keys: int, tensors: int
) -> None:
    assert_reads_or_refuses(tmp_path / "m.gguf", tail, complete=True)
    assert_reads_or_refuses(tmp_path / "m.gguf", preamble(keys, tensors) + tail, complete=True)


def assert_reads_or_refuses(path: Path, raw: bytes, *, complete: bool) -> None:
    path.write_bytes(raw)
    began = time.process_time()
    try:
        read_facts(str(path), complete=complete)
    except HeaderError as error:
        message = str(error)
    else:
        message = "sound"
    assert message
    assert time.process_time() - began < 10
