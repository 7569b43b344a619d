"""Random models of several shapes, for measuring memory: up to 200 MB, written in a second.

The same technique as `models/make_tiny.py`, with what decides about memory made variable: layers,
widths, key/value heads, the vocabulary, the type of the weights, and a window of attention.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import gguf
import numpy as np

HEAD = 64
"""The width of one head: as in most models of that size."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What a generated model is like. `weights`: the type of its matrices."""

    name: str
    layers: int = 4
    embedding: int = 256
    heads_kv: int = 2
    feed_forward: int = 1024
    vocabulary: int = 2048
    context: int = 32768
    weights: Literal["f32", "f16", "q8_0", "q4_0"] = "f32"
    architecture: Literal["llama", "gemma3"] = "llama"
    window: int = 0

    @property
    def heads(self) -> int:
        return self.embedding // HEAD


SHAPES = (
    Shape("small", embedding=256, layers=4),
    Shape("deep", embedding=256, layers=24, heads_kv=4),
    Shape("wide", embedding=1024, layers=6, heads_kv=4, feed_forward=2816, weights="f16"),
    Shape("words", embedding=512, layers=4, vocabulary=64_000, weights="q8_0"),
    Shape("quantized", embedding=1024, layers=16, heads_kv=8, feed_forward=3072, weights="q4_0"),
    Shape("eight-bit", embedding=1024, layers=12, heads_kv=8, feed_forward=3072, weights="q8_0"),
    Shape("window", embedding=256, layers=12, heads_kv=4, architecture="gemma3", window=512),
)


def write(shape: Shape, folder: Path) -> Path:
    """The model of a shape, written if it is not there yet."""
    target = folder / f"{shape.name}.gguf"
    if target.exists():
        return target
    part = target.with_suffix(".part")
    writer = gguf.GGUFWriter(part, shape.architecture)
    _describe(writer, shape)
    _add_vocabulary(writer, shape.vocabulary)
    matrices = _Matrices(writer, shape.weights)
    matrices.add("token_embd.weight", shape.vocabulary, shape.embedding)
    for layer in range(shape.layers):
        _add_layer(matrices, writer, shape, f"blk.{layer}")
    _norm(writer, "output_norm", shape.embedding)
    if shape.architecture == "llama":
        matrices.add("output.weight", shape.vocabulary, shape.embedding)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    part.replace(target)
    return target


def _describe(writer: gguf.GGUFWriter, shape: Shape) -> None:
    writer.add_name(shape.name)
    writer.add_context_length(shape.context)
    writer.add_block_count(shape.layers)
    writer.add_embedding_length(shape.embedding)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.heads_kv)
    writer.add_key_length(HEAD)
    writer.add_value_length(HEAD)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(HEAD)
    if shape.window:
        writer.add_sliding_window(shape.window)


def _add_layer(matrices: _Matrices, writer: gguf.GGUFWriter, shape: Shape, block: str) -> None:
    width, narrow = shape.embedding, shape.heads_kv * HEAD
    _norm(writer, f"{block}.attn_norm", width)
    matrices.add(f"{block}.attn_q.weight", shape.heads * HEAD, width)
    matrices.add(f"{block}.attn_k.weight", narrow, width)
    matrices.add(f"{block}.attn_v.weight", narrow, width)
    matrices.add(f"{block}.attn_output.weight", width, shape.heads * HEAD)
    _norm(writer, f"{block}.ffn_norm", width)
    matrices.add(f"{block}.ffn_gate.weight", shape.feed_forward, width)
    matrices.add(f"{block}.ffn_up.weight", shape.feed_forward, width)
    matrices.add(f"{block}.ffn_down.weight", width, shape.feed_forward)
    if shape.architecture == "gemma3":
        for name in ("attn_q_norm", "attn_k_norm"):
            _norm(writer, f"{block}.{name}", HEAD)
        for name in ("post_attention_norm", "post_ffw_norm"):
            _norm(writer, f"{block}.{name}", width)


def _norm(writer: gguf.GGUFWriter, name: str, width: int) -> None:
    writer.add_tensor(f"{name}.weight", np.ones(width, np.float32))


class _Matrices:
    """Adds random matrices of one type."""

    def __init__(self, writer: gguf.GGUFWriter, kind: str) -> None:
        self._writer = writer
        self._kind = kind
        self._random = np.random.default_rng(1)

    def add(self, name: str, rows: int, columns: int) -> None:
        values = self._random.standard_normal((rows, columns), dtype=np.float32)
        values *= np.float32(columns**-0.5)
        if self._kind == "f32":
            self._writer.add_tensor(name, values)
        elif self._kind == "f16":
            self._writer.add_tensor(name, values.astype(np.float16))
        else:
            kind = gguf.GGMLQuantizationType[self._kind.upper()]
            packed = gguf.quants.quantize(values, kind)
            self._writer.add_tensor(name, packed, raw_dtype=kind)


def _add_vocabulary(writer: gguf.GGUFWriter, size: int) -> None:
    tokens: list[str] = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    kinds = [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL]
    kinds += [gguf.TokenType.BYTE] * 256
    tokens += [f"\u2581w{number}" for number in range(size - len(tokens))]
    kinds += [gguf.TokenType.NORMAL] * (size - len(kinds))
    writer.add_vocab_size(size)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([-float(number) for number in range(size)])
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
