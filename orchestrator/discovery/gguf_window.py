"""A bounded window on a file: values by position, read in chunks, never past the end."""

from __future__ import annotations

import os
from collections.abc import Callable
from struct import Struct
from struct import error as StructError
from typing import Any

CHUNK = 1 << 15
"""Bytes of one ordinary read: most headers without their vocabulary fit."""
WALK_CHUNK = 1 << 18
"""Bytes of one read while strings are walked: stays in the processor's cache."""
MIN_STRIDE, MAX_STRIDE = 1 << 12, 1 << 16
"""Bytes between two glances of a gallop."""
MAX_GLANCES = 1 << 10
"""Bounds all gallops through one header: 64 MB, eight times the largest vocabulary in use."""
MAX_MISSES = 8
"""Strides in a row with neither strings nor what is sought, after which it is given up."""
GLANCE = 1024
GLANCED_STRINGS = 3
ZEROS = bytes(7)
"""All but the first byte of the length of a short string."""
OVERLAP = 512
"""Bytes read past a searched stride, for a key that begins at its end."""
TENSOR_END = b".weight"
MAX_TENSOR_NAME = 64
"""As ggml has it: GGML_MAX_NAME."""

_U64 = Struct("<Q")


class HeaderError(Exception):
    """What is wrong with a file, as the end of a sentence that begins with its path."""


class Window:
    """Reads forward over one open file of `size` bytes. Not shared between threads."""

    def __init__(self, descriptor: int, size: int) -> None:
        self.size = size
        self._descriptor = descriptor
        self._start = 0
        self._at = 0
        self._buffer = b""
        self.glances = 0
        """Reads that gallops have cost so far."""

    @property
    def position(self) -> int:
        """Of the next byte to be read; may lie past the end after a skip."""
        return self._start + self._at

    @property
    def left(self) -> int:
        return self.size - self.position

    def unpack(self, form: Struct) -> tuple[Any, ...]:
        """The next value or values."""
        at = self._at
        end = at + form.size
        if end > len(self._buffer):
            self._fill(form.size)
            at, end = 0, form.size
        self._at = end
        return form.unpack_from(self._buffer, at)

    def text(self, length: int) -> bytes:
        """The next `length` bytes. The caller bounds `length`."""
        at = self._at
        end = at + length
        if end > len(self._buffer):
            self._fill(length)
            at, end = 0, length
        self._at = end
        return self._buffer[at:end]

    def skip(self, length: int) -> None:
        """Pass over `length` bytes without reading them."""
        if length > self.left:
            raise HeaderError("ends in the middle of its header (a torn download?)")
        self._at += length

    def skip_strings(self, count: int) -> None:
        """Pass over `count` strings, each a length and its bytes: the exact walk."""
        while count:
            if self._at + 8 > len(self._buffer):
                self._fill(8, WALK_CHUNK)
            buffer, at, unpack = self._buffer, self._at, _U64.unpack_from
            # Leaving the loop by the error, at the end of the buffer, halves the time of the walk.
            left = count
            try:
                for left in range(count, 0, -1):  # noqa: B007 - what is left at the error
                    at += 8 + unpack(buffer, at)[0]
                left = 0
            except (StructError, OverflowError):
                pass
            self._at, count = at, left
            self.skip(0)

    def seek(self, count: int, first: Callable[[bytes], int], *, glance: bool = True) -> bool:
        """Move to what follows the array of `count` strings here, as `first` finds it; or stay.

        `first` says where in some bytes the thing stands, or -1. Goes stride by stride, and with
        `glance` passes over a stride unsearched when strings are what is seen at its end. The
        stride is shorter than the array of numbers that follows a vocabulary (4 bytes each), so
        that glancing cannot run through it into the next array of strings.
        """
        stride = min(max(2 * count, MIN_STRIDE), MAX_STRIDE)
        # The lengths alone take this much.
        at = self.position + 8 * count
        misses = 0
        while at < self.size and self.glances < MAX_GLANCES and misses < MAX_MISSES:
            self.glances += 1
            strings = _looks_like_strings(os.pread(self._descriptor, GLANCE, at + stride))
            if not (strings and glance):
                found = first(os.pread(self._descriptor, stride + OVERLAP, at))
                if found >= 0:
                    self._move(at + found)
                    return True
            misses = 0 if strings else misses + 1
            at += stride
        return False

    def _move(self, position: int) -> None:
        self._start, self._at, self._buffer = position, 0, b""

    def _fill(self, length: int, chunk: int = CHUNK) -> None:
        """Make the next `length` bytes the beginning of the buffer."""
        position = self.position
        if length > self.size - position:
            raise HeaderError("ends in the middle of its header (a torn download?)")
        self._move(position)
        self._buffer = os.pread(self._descriptor, max(length, chunk), position)
        if len(self._buffer) < length:
            raise HeaderError("became shorter while it was read")


def _looks_like_strings(glimpse: bytes) -> bool:
    """Whether these bytes, from the middle of something, are short strings with their lengths."""
    at = glimpse.find(ZEROS, 1) - 1
    if at < 0:
        return False
    for _ in range(GLANCED_STRINGS):
        if at + 8 > len(glimpse):
            return False
        (length,) = _U64.unpack_from(glimpse, at)
        if not 0 < length < 256:
            return False
        at += 8 + length
    return True


def first_key(stretch: bytes, starts: tuple[bytes, ...]) -> int:
    """Where the first key that begins with one of `starts` stands, its length before it; or -1."""
    first = -1
    for start in starts:
        at = stretch.find(start, 8)
        while at >= 0 and (first < 0 or at - 8 < first):
            if _is_key(stretch, at, len(start)):
                first = at - 8
                break
            at = stretch.find(start, at + 1)
    return first


def first_tensor(stretch: bytes) -> int:
    """Where the first entry of a tensor table stands in `stretch`, or -1: a name that ends so."""
    at = stretch.find(TENSOR_END, 8)
    while at >= 0:
        end = at + len(TENSOR_END)
        for length in range(len(TENSOR_END) + 1, min(MAX_TENSOR_NAME, end - 8) + 1):
            begin = end - length - 8
            if stretch[begin] == length and _U64.unpack_from(stretch, begin)[0] == length:
                return begin
        at = stretch.find(TENSOR_END, end)
    return -1


def _is_key(stretch: bytes, at: int, least: int) -> bool:
    (length,) = _U64.unpack_from(stretch, at - 8)
    if not least < length <= OVERLAP // 2 or at + length + 4 > len(stretch):
        return False
    kind = int.from_bytes(stretch[at + length : at + length + 4], "little")
    return kind <= 12 and stretch[at : at + length].isascii()
