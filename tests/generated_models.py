"""GGUF files made for tests: headers of any shape and size, their tensor data a hole in the file.

The header of a real quantised model is rebuilt key by key in its order: `general.file_type` comes
after a vocabulary of 128k tokens and 256k merges. Such a header is made once and reused: only the
name at its front differs from file to file.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

ALIGNMENT = 32
Q4_K, Q6_K, F32 = 12, 14, 0
Q4_K_M = 15
TEMPLATE = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"


def u32(value: int) -> bytes:
    return struct.pack("<I", value)


def u64(value: int) -> bytes:
    return struct.pack("<Q", value)


def text(value: str | bytes) -> bytes:
    raw = value if isinstance(value, bytes) else value.encode()
    return u64(len(raw)) + raw


def key_u32(key: str, value: int) -> bytes:
    return text(key) + u32(4) + u32(value)


def key_text(key: str, value: str) -> bytes:
    return text(key) + u32(8) + text(value)


def key_texts(key: str, values: Sequence[str | bytes]) -> bytes:
    return text(key) + u32(9) + u32(8) + u64(len(values)) + b"".join(text(v) for v in values)


def key_numbers(key: str, values: Iterable[int]) -> bytes:
    packed = [struct.pack("<i", value) for value in values]
    return text(key) + u32(9) + u32(5) + u64(len(packed)) + b"".join(packed)


def tensor(name: str, shape: Sequence[int], kind: int, offset: int) -> bytes:
    return text(name) + u32(len(shape)) + b"".join(map(u64, shape)) + u32(kind) + u64(offset)


def header(pairs: Sequence[bytes], tensors: Sequence[bytes] = (), *, version: int = 3) -> bytes:
    """A whole header, padded to where the tensor data begins."""
    raw = b"GGUF" + u32(version) + u64(len(tensors)) + u64(len(pairs))
    raw += b"".join(pairs) + b"".join(tensors)
    return raw + bytes(-len(raw) % ALIGNMENT)


def small_pairs(name: str = "small", *, architecture: str = "llama") -> list[bytes]:
    """What stands before the vocabulary."""
    return [
        key_text("general.architecture", architecture),
        key_text("general.name", name),
        key_u32(f"{architecture}.context_length", 2048),
        key_u32(f"{architecture}.block_count", 2),
        key_u32(f"{architecture}.embedding_length", 64),
        key_u32(f"{architecture}.attention.head_count", 4),
        key_u32(f"{architecture}.attention.head_count_kv", 2),
    ]


def write_small(
    path: Path,
    *,
    name: str = "small",
    architecture: str = "llama",
    extra: Sequence[bytes] = (),
    data: int = 4096,
    tensors: Sequence[bytes] | None = None,
) -> Path:
    """A sound small model: one F32 tensor of `data` bytes (a hole), unless others are given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if tensors is None:
        tensors = [tensor("token_embd.weight", [data // 4], F32, 0)]
    raw = header([*small_pairs(name, architecture=architecture), *extra], tensors)
    with path.open("wb") as file:
        file.write(raw)
        file.truncate(len(raw) + data)
    return path


@cache
def big_tail(tokens: int = 128_256, merges: int = 256_000) -> tuple[bytes, int, int]:
    """(everything after the name, number of keys in it, bytes of tensor data) of a big model."""
    pairs = [
        key_u32("llama.context_length", 131_072),
        key_u32("llama.block_count", 32),
        key_u32("llama.embedding_length", 4096),
        key_u32("llama.feed_forward_length", 14_336),
        key_u32("llama.attention.head_count", 32),
        key_u32("llama.attention.head_count_kv", 8),
        key_text("tokenizer.ggml.model", "gpt2"),
        key_text("tokenizer.ggml.pre", "llama-bpe"),
        key_texts("tokenizer.ggml.tokens", [f"\u0120tok{i:x}" for i in range(tokens)]),
        key_numbers("tokenizer.ggml.token_type", [1] * tokens),
        key_texts("tokenizer.ggml.merges", [f"\u0120t{i % 997:x} o{i:x}" for i in range(merges)]),
        key_u32("tokenizer.ggml.bos_token_id", 128_000),
        key_u32("tokenizer.ggml.eos_token_id", 128_009),
        key_text("tokenizer.chat_template", TEMPLATE),
        key_u32("general.quantization_version", 2),
        key_u32("general.file_type", Q4_K_M),
    ]
    table, data = _llama_tensors(tokens)
    return b"".join(pairs) + b"".join(table), len(pairs), data


@cache
def _llama_tensors(tokens: int) -> tuple[tuple[bytes, ...], int]:
    shapes: list[tuple[str, list[int], int]] = [("token_embd.weight", [4096, tokens], Q4_K)]
    for layer in range(32):
        shapes += [
            (f"blk.{layer}.attn_norm.weight", [4096], F32),
            (f"blk.{layer}.attn_q.weight", [4096, 4096], Q4_K),
            (f"blk.{layer}.attn_k.weight", [4096, 1024], Q4_K),
            (f"blk.{layer}.attn_v.weight", [4096, 1024], Q6_K),
            (f"blk.{layer}.attn_output.weight", [4096, 4096], Q4_K),
            (f"blk.{layer}.ffn_norm.weight", [4096], F32),
            (f"blk.{layer}.ffn_gate.weight", [4096, 14336], Q4_K),
            (f"blk.{layer}.ffn_up.weight", [4096, 14336], Q4_K),
            (f"blk.{layer}.ffn_down.weight", [14336, 4096], Q6_K),
        ]
    shapes += [("output_norm.weight", [4096], F32), ("output.weight", [4096, tokens], Q6_K)]
    table: list[bytes] = []
    offset = 0
    for name, shape, kind in shapes:
        table.append(tensor(name, shape, kind, offset))
        count = 1
        for side in shape:
            count *= side
        block, size = {F32: (1, 4), Q4_K: (256, 144), Q6_K: (256, 210)}[kind]
        offset += -(-(count // block * size) // ALIGNMENT) * ALIGNMENT
    return tuple(table), offset


def write_big(path: Path, *, name: str, tokens: int = 128_256, merges: int = 256_000) -> Path:
    """One model with a real-sized vocabulary: 8 MB of header, 5 GB of tensors that are a hole."""
    tail, keys, data = big_tail(tokens, merges)
    front = key_text("general.architecture", "llama") + key_text("general.name", name)
    counts = u64(len(_llama_tensors(tokens)[0])) + u64(keys + 2)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        size = os.writev(descriptor, [b"GGUF" + u32(3) + counts + front, tail])
        os.ftruncate(descriptor, size + -size % ALIGNMENT + data)
    finally:
        os.close(descriptor)
    return path


def write_many(folder: Path, count: int) -> None:
    """`count` big models, each a file of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        write_big(folder / f"model-{number:04d}-Q4_K_M.gguf", name=f"Model {number}")
