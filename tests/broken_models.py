"""Models that no engine can load, each for another reason."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

from models.make_tiny import write_tiny


def write_all(folder: Path) -> dict[str, Path]:
    """Every kind by its name, `tiny` (whole) and `gone` (no file at all) among them."""
    tiny = write_tiny(folder / "tiny.gguf")
    whole = tiny.read_bytes()
    found = {"tiny": tiny, "gone": folder / "gone.gguf"}
    contents = {
        "truncated": whole[: len(whole) // 2],
        "header": whole[:300],
        "empty": b"",
        "text": b"this is no model at all\n" * 50,
        "version": whole[:4] + bytes([99]) + whole[5:],
        "tokenizer": _renamed(whole, b"tokenizer.ggml.model", b"llama", b"lxxma"),
        "tensors": whole.replace(b"blk.1.ffn_gate", b"blk.1.ffn_gone"),
    }
    for name, data in contents.items():
        found[name] = folder / f"{name}.gguf"
        found[name].write_bytes(data)
    found["folder"] = folder / "folder.gguf"
    found["folder"].mkdir(exist_ok=True)
    found["alien"] = write_alien(folder / "alien.gguf")
    return found


def _renamed(whole: bytes, key: bytes, old: bytes, new: bytes) -> bytes:
    """With another value, of the same length, behind the first place where `key` stands."""
    at = whole.index(old, whole.index(key) + len(key))
    return whole[:at] + new + whole[at + len(old) :]


def write_alien(path: Path) -> Path:
    """A model of an architecture that nobody has invented yet."""
    writer = gguf.GGUFWriter(path, "martian")
    writer.add_context_length(128)
    writer.add_block_count(1)
    writer.add_tensor("token_embd.weight", np.zeros((8, 8), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
