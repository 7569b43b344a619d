"""Writes a tiny random model that real engines load and run: half a megabyte, no download.

    python models/make_tiny.py models/tiny.gguf
    python models/make_tiny.py --embedding models/tiny-embed.gguf

The same arguments always give the same bytes. What it says is nonsense, made of real words: its
vocabulary has the 256 bytes, so that it can read any text, and some words, which it prefers.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt

WORDS: str = """
the of and to a in is it that was for on are as with they be at one have this from by hot word but
what some can out other were all there when up use your how said an each she which do their time if
will way about many then them would write like so these her long make thing see him two has look
"""
VOCABULARY = 320
CONTEXT = 4096
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)

Matrix = npt.NDArray[np.float32]


class _Weights:
    """Random matrices of a seed, in the order they are asked for."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)

    def matrix(self, rows: int, columns: int) -> Matrix:
        scale = np.float32(columns**-0.5)
        return self._random.standard_normal((rows, columns), dtype=np.float32) * scale


def write_tiny(
    path: str | os.PathLike[str],
    *,
    name: str = "tiny-random",
    layers: int = 2,
    embedding: int = 64,
    seed: int = 1,
    context: int = CONTEXT,
) -> Path:
    """Write a llama model that generates text. Folders are made; an existing file is replaced."""
    # Heads of 32, the least that a quantised KV cache can hold (`--cache-type-k q8_0`).
    heads, heads_kv, feed_forward = max(2, embedding // 32), 1, 2 * embedding
    path, part = _prepared(path)
    writer = gguf.GGUFWriter(part, "llama")
    _describe(writer, name, layers=layers, embedding=embedding, context=context, heads=heads)
    writer.add_head_count_kv(heads_kv)
    writer.add_feed_forward_length(feed_forward)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(embedding // heads)
    _add_sentencepiece(writer)
    writer.add_chat_template(CHAT_TEMPLATE)
    random = _Weights(seed)
    writer.add_tensor("token_embd.weight", random.matrix(VOCABULARY, embedding))
    narrow = embedding * heads_kv // heads
    for layer in range(layers):
        block = f"blk.{layer}"
        writer.add_tensor(f"{block}.attn_norm.weight", np.ones(embedding, np.float32))
        writer.add_tensor(f"{block}.attn_q.weight", random.matrix(embedding, embedding))
        writer.add_tensor(f"{block}.attn_k.weight", random.matrix(narrow, embedding))
        writer.add_tensor(f"{block}.attn_v.weight", random.matrix(narrow, embedding))
        writer.add_tensor(f"{block}.attn_output.weight", random.matrix(embedding, embedding))
        writer.add_tensor(f"{block}.ffn_norm.weight", np.ones(embedding, np.float32))
        writer.add_tensor(f"{block}.ffn_gate.weight", random.matrix(feed_forward, embedding))
        writer.add_tensor(f"{block}.ffn_up.weight", random.matrix(feed_forward, embedding))
        writer.add_tensor(f"{block}.ffn_down.weight", random.matrix(embedding, feed_forward))
    writer.add_tensor("output_norm.weight", np.ones(embedding, np.float32))
    output = 4 * random.matrix(VOCABULARY, embedding)
    # Logits of 0 for bytes and control tokens: words win, and nothing ends a text before its time.
    output[: VOCABULARY - len(_words())] = 0
    writer.add_tensor("output.weight", output)
    return _finish(writer, part, path)


def write_tiny_embedding(
    path: str | os.PathLike[str],
    *,
    name: str = "tiny-embed",
    layers: int = 2,
    embedding: int = 64,
    seed: int = 2,
    context: int = 512,
) -> Path:
    """Write a bert model that embeds text (mean pooling), to be run with `--embeddings`."""
    heads, feed_forward = 4, 2 * embedding
    path, part = _prepared(path)
    writer = gguf.GGUFWriter(part, "bert")
    _describe(writer, name, layers=layers, embedding=embedding, context=context, heads=heads)
    writer.add_feed_forward_length(feed_forward)
    writer.add_layer_norm_eps(1e-12)
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.MEAN)
    tokens = _add_wordpiece(writer)
    random = _Weights(seed)
    writer.add_tensor("token_embd.weight", random.matrix(tokens, embedding))
    writer.add_tensor("token_types.weight", random.matrix(2, embedding))
    writer.add_tensor("position_embd.weight", random.matrix(context, embedding))
    _add_norm(writer, "token_embd_norm", embedding)
    for layer in range(layers):
        block = f"blk.{layer}"
        for part_name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            _add_linear(writer, f"{block}.{part_name}", random.matrix(embedding, embedding))
        _add_norm(writer, f"{block}.attn_output_norm", embedding)
        _add_linear(writer, f"{block}.ffn_up", random.matrix(feed_forward, embedding))
        _add_linear(writer, f"{block}.ffn_down", random.matrix(embedding, feed_forward))
        _add_norm(writer, f"{block}.layer_output_norm", embedding)
    return _finish(writer, part, path)


def _describe(
    writer: gguf.GGUFWriter, name: str, *, layers: int, embedding: int, context: int, heads: int
) -> None:
    writer.add_name(name)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_context_length(context)
    writer.add_block_count(layers)
    writer.add_embedding_length(embedding)
    writer.add_head_count(heads)


def _add_linear(writer: gguf.GGUFWriter, name: str, weight: Matrix) -> None:
    writer.add_tensor(f"{name}.weight", weight)
    writer.add_tensor(f"{name}.bias", np.zeros(weight.shape[0], np.float32))


def _add_norm(writer: gguf.GGUFWriter, name: str, size: int) -> None:
    writer.add_tensor(f"{name}.weight", np.ones(size, np.float32))
    writer.add_tensor(f"{name}.bias", np.zeros(size, np.float32))


def _words() -> list[str]:
    return WORDS.split()[: VOCABULARY - 3 - 256]


def _add_sentencepiece(writer: gguf.GGUFWriter) -> None:
    tokens: list[str] = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    kinds = [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL]
    kinds += [gguf.TokenType.BYTE] * 256
    tokens += [f"\u2581{word}" for word in _words()]
    kinds += [gguf.TokenType.NORMAL] * (VOCABULARY - len(kinds))
    assert len(tokens) == len(kinds) == VOCABULARY
    writer.add_vocab_size(VOCABULARY)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([-float(number) for number in range(VOCABULARY)])
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)


def _add_wordpiece(writer: gguf.GGUFWriter) -> int:
    """Words begin with the mark that bert's converter gives them; letters alone continue one."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,!?"
    tokens: list[str] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    kinds = [gguf.TokenType.CONTROL] * len(tokens)
    tokens += [f"\u2581{letter}" for letter in letters]
    tokens += list(letters)
    tokens += [f"\u2581{word}" for word in WORDS.split() if len(word) > 1]
    kinds += [gguf.TokenType.NORMAL] * (len(tokens) - len(kinds))
    writer.add_vocab_size(len(tokens))
    writer.add_token_type_count(2)
    writer.add_tokenizer_model("bert")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    for key, token in (("unknown", 1), ("cls", 2), ("seperator", 3), ("padding", 0), ("mask", 4)):
        writer.add_uint32(f"tokenizer.ggml.{key}_token_id", token)
    writer.add_bos_token_id(2)
    writer.add_eos_token_id(3)
    return len(tokens)


def _prepared(path: str | os.PathLike[str]) -> tuple[Path, Path]:
    """The target, and where it is written first: a reader never sees half a model."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    return target, target.with_name(f".{target.name}.{os.getpid()}")


def _finish(writer: gguf.GGUFWriter, part: Path, target: Path) -> Path:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    part.replace(target)
    return target


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a tiny random model that engines can run.")
    parser.add_argument("path", help="file to write, such as models/tiny.gguf")
    parser.add_argument("--embedding", action="store_true", help="a model that embeds text")
    parser.add_argument("--name", help="general.name in its header")
    parser.add_argument("--seed", type=int, help="another seed, other weights")
    given = parser.parse_args()
    options = {key: value for key in ("name", "seed") if (value := getattr(given, key)) is not None}
    write = write_tiny_embedding if given.embedding else write_tiny
    path = write(given.path, **options)
    print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
