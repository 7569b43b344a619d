"""The tensor table of a GGUF header: what the tensors add up to, none of them kept."""

from __future__ import annotations

import struct
from math import prod

from msgspec import Struct

from orchestrator.discovery.gguf_types import TENSOR_TYPES
from orchestrator.discovery.gguf_window import HeaderError, Window

MAX_DIMENSIONS = 4
MAX_NAME = 1 << 16
CLASSIFIERS = frozenset({b"cls.weight", b"cls.output.weight"})
"""Tensors that only a reranker has."""

_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
_SHAPES = tuple(struct.Struct(f"<{dimensions}QIQ") for dimensions in range(MAX_DIMENSIONS + 1))


class Tensors(Struct, frozen=True):
    """What the tensor table adds up to. `elements` counts them by tensor type."""

    count: int
    parameters: int
    elements: dict[int, int]
    classifier: bool
    end: int
    """Bytes that the whole file must have."""


def read_tensors(window: Window, count: int, alignment: int) -> Tensors:
    """Read the `count` entries at the window's position. Raises `HeaderError` for nonsense."""
    table = _TensorTable(window, alignment)
    for _ in range(count):
        table.read_one()
    data_start = _padded(window.position, alignment)
    return Tensors(
        count=count,
        parameters=sum(table.elements.values()),
        elements=table.elements,
        classifier=table.classifier,
        # Without tensors there is no data, and the padding before it may be left out.
        end=data_start + table.end if count else window.position,
    )


class _TensorTable:
    """Adds up the tensor table as it goes by: nothing is kept for each tensor.

    Each tensor must stand at the padded end of the one before it, as llama.cpp demands too
    (gguf_init_from_file_impl in ggml/src/gguf.cpp): this is what gives lying counts away.
    """

    def __init__(self, window: Window, alignment: int) -> None:
        self._window = window
        self._alignment = alignment
        self.elements: dict[int, int] = {}
        self.classifier = False
        self.end = 0
        self._next: int | None = 0

    def read_one(self) -> None:
        window = self._window
        (length,) = window.unpack(_U64)
        if not 0 < length <= MAX_NAME:
            raise HeaderError(f"has a tensor name of {length} bytes (damaged?)")
        name = window.text(length)
        dimensions: int = window.unpack(_U32)[0]
        if dimensions > MAX_DIMENSIONS:
            raise HeaderError(f"has a tensor of {dimensions} dimensions (damaged?)")
        *shape, kind, offset = window.unpack(_SHAPES[dimensions])
        count = prod(shape)
        if not 0 < count < 1 << 62 or offset >= 1 << 62:
            raise HeaderError("has a tensor of an impossible size (damaged?)")
        self.elements[kind] = self.elements.get(kind, 0) + count
        self.classifier |= name in CLASSIFIERS
        self._place(kind, count, offset)

    def _place(self, kind: int, count: int, offset: int) -> None:
        known = TENSOR_TYPES.get(kind)
        size = -(-count // known[1]) * known[2] if known else 0
        if offset % self._alignment or self._next not in (None, offset):
            raise HeaderError("has a tensor table that does not add up (damaged?)")
        self.end = max(self.end, offset + size)
        # A type newer than this table has a size unknown here: the next offset is taken on trust.
        self._next = _padded(offset + size, self._alignment) if known else None


def _padded(position: int, alignment: int) -> int:
    return -(-position // alignment) * alignment
