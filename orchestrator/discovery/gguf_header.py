"""Reads what a GGUF file says of itself, fast and without trust.

The arrays of a header (a vocabulary is some 8 MB of it) are never built. A string array can only
be passed exactly by walking its lengths, 40 ms of plain Python for a big vocabulary, so a complete
read first *jumps*, in 1 ms: it seeks the next key, and believes what it found only if from there on
exactly the announced keys follow, and then a tensor table whose offsets all add up. Else the file
is walked.

Every read is bounded and goes through `pread` (a mapped file that shrinks kills the process).
`HeaderError` is the only thing that the contents of a file can raise.
"""

from __future__ import annotations

import os
import stat
import struct
from functools import partial

from msgspec import Struct, field

from orchestrator.discovery.gguf_tensors import Tensors, read_tensors
from orchestrator.discovery.gguf_types import ARRAY, SCALAR_FORMATS, STRING
from orchestrator.discovery.gguf_window import HeaderError, Window, first_key, first_tensor

MAGIC = b"GGUF"
VERSIONS = (2, 3)

MAX_KEYS = 1 << 16
MAX_TENSORS = 1 << 17
MAX_STRINGS = 1 << 22
"""Strings that may be walked in one header: eight times the largest vocabulary in use."""
MAX_KEY_BYTES = 1 << 16
MAX_KEPT_KEY = 128
"""Bytes kept of a key: none that is of use is longer, and a hostile header has 65,536 of them."""
MAX_TEXT = 1 << 18
"""Bytes kept of a string value; the rest is passed over."""
FEW = 1024
"""A string array up to this long is walked on the spot; a longer one is jumped."""
DEFAULT_ALIGNMENT = 32

KEY_STARTS = (b"tokenizer.", b"general.", b"split.", b"quantize.")
"""What may follow a long string array; keys that begin with the architecture may too."""
MAX_ARRAYS = 16
"""Arrays whose numbers are kept."""

KEPT_TEXTS = frozenset(
    {
        "general.architecture",
        "general.name",
        "general.type",
        "tokenizer.ggml.model",
        "tokenizer.chat_template",
    }
)
KEPT_ARRAYS = (".head_count", ".head_count_kv", ".sliding_window_pattern")

Value = str | int | float | bool | tuple[int | float | bool, ...]

_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
_PREFIX = struct.Struct("<IQQ")
_ELEMENTS = struct.Struct("<IQ")
_SCALARS = {code: struct.Struct(form) for code, form in SCALAR_FORMATS.items()}
_WIDTHS = {code: struct.calcsize(form) for code, form in SCALAR_FORMATS.items()}


class Header(Struct):
    """Scalars and the few texts and arrays that are of use, by key; of other arrays the length.

    `tensors` is None, and `complete` False, when only what stands before the vocabulary was read.
    """

    version: int
    values: dict[str, Value] = field(default_factory=dict[str, Value])
    lengths: dict[str, int] = field(default_factory=dict[str, int])
    tensors: Tensors | None = None
    complete: bool = False


class _Astray(HeaderError):
    """A jump led nowhere: walk this file. Never leaves this module."""


def read_header(path: str, *, complete: bool = True) -> Header:
    """Read the header of a GGUF file; with `complete=False` only what comes before the vocabulary.

    Raises `HeaderError`, whose text continues "PATH ...", when the file is not a sound GGUF file,
    and `OSError` when it cannot be read at all.
    """
    # Non-blocking: a FIFO somebody called x.gguf must not hang the scan.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        info = os.fstat(descriptor)
        if not stat.S_ISREG(info.st_mode):
            raise HeaderError("is not a regular file")
        return _read(descriptor, info.st_size, complete)
    finally:
        os.close(descriptor)


def _read(descriptor: int, size: int, complete: bool) -> Header:
    if size == 0:
        raise HeaderError("is empty")
    if not complete:
        return _Reader(Window(descriptor, size), jumps=False).read(complete=False)
    try:
        return _Reader(Window(descriptor, size), jumps=True).read(complete=True)
    except _Astray:
        return _Reader(Window(descriptor, size), jumps=False).read(complete=True)


class _Reader:
    """One pass over one header. After a jump, any nonsense means `_Astray`, not a bad file."""

    def __init__(self, window: Window, *, jumps: bool) -> None:
        self._window = window
        self._jumps = jumps
        self._jumped = False
        self._keys_left = 0
        self._strings = 0
        self._arrays = 0

    def read(self, *, complete: bool) -> Header:
        version, tensors, keys = self._preamble()
        header = Header(version)
        try:
            for number in range(keys):
                self._keys_left = keys - number - 1
                if not self._key_value(header, complete=complete):
                    return header
            if complete or tensors <= FEW:
                header.tensors = self._tensors(tensors, _alignment(header))
                header.complete = True
        except HeaderError:
            if self._jumped:
                raise _Astray("astray") from None
            raise
        if header.tensors is not None:
            self._check_extent(header.tensors)
        return header

    def _preamble(self) -> tuple[int, int, int]:
        window = self._window
        magic = window.text(min(4, window.size))
        if magic != MAGIC:
            raise HeaderError(f"is not a GGUF file (it begins with {magic!r})")
        version, tensors, keys = window.unpack(_PREFIX)
        if version not in VERSIONS:
            swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
            if swapped in VERSIONS:
                raise HeaderError("is a big-endian GGUF file, made for another kind of machine")
            raise HeaderError(f"has GGUF version {version}; versions 2 and 3 can be read")
        # The least that a key and its value, or a tensor, can take: 13 and 24 bytes.
        if keys > MAX_KEYS or tensors > MAX_TENSORS or 13 * keys + 24 * tensors > window.size:
            raise HeaderError(
                f"announces {keys} keys and {tensors} tensors, which cannot be in {window.size} "
                f"bytes (damaged?)"
            )
        return version, tensors, keys

    def _key_value(self, header: Header, *, complete: bool) -> bool:
        """Read one pair into `header`; False when the vocabulary is reached and not wanted."""
        window = self._window
        (length,) = window.unpack(_U64)
        if not 0 < length <= MAX_KEY_BYTES:
            raise HeaderError(f"has a key of {length} bytes in its header (damaged?)")
        key = window.text(length)[:MAX_KEPT_KEY].decode("utf-8", "replace")
        (kind,) = window.unpack(_U32)
        form = _SCALARS.get(kind)
        if form is not None:
            header.values.setdefault(key, window.unpack(form)[0])
        elif kind == STRING:
            self._string(header, key)
        elif kind == ARRAY:
            return self._array(header, key, complete=complete)
        else:
            raise HeaderError(f"has a value of unknown type {kind} for {key[:80]!r} (damaged?)")
        return True

    def _string(self, header: Header, key: str) -> None:
        window = self._window
        (length,) = window.unpack(_U64)
        if key in KEPT_TEXTS:
            kept = window.text(min(length, MAX_TEXT))
            header.values.setdefault(key, kept.decode("utf-8", "replace"))
            length -= len(kept)
        else:
            header.lengths.setdefault(key, length)
        window.skip(length)

    def _array(self, header: Header, key: str, *, complete: bool) -> bool:
        window = self._window
        kind, count = window.unpack(_ELEMENTS)
        header.lengths.setdefault(key, count)
        if kind == STRING:
            if 8 * count > window.left:
                raise HeaderError(f"announces {count} texts for {key[:80]!r}, more than it holds")
            if count > FEW and not complete:
                return False
            self._strings_of(header, key, count)
            return True
        width = _WIDTHS.get(kind)
        if width is None:
            raise HeaderError(f"has an array of type {kind} for {key[:80]!r}, which none can load")
        if count <= FEW and key.endswith(KEPT_ARRAYS) and self._arrays < MAX_ARRAYS:
            self._arrays += 1
            form = struct.Struct(f"<{count}{SCALAR_FORMATS[kind][1]}")
            header.values.setdefault(key, window.unpack(form))
        else:
            window.skip(count * width)
        return True

    def _strings_of(self, header: Header, key: str, count: int) -> None:
        if count > FEW and self._jumps and self._jump(header, key, count):
            self._jumped = True
            return
        self._strings += count
        if self._strings > MAX_STRINGS:
            raise HeaderError(f"announces {count} texts for {key[:80]!r}: no model has that many")
        self._window.skip_strings(count)

    def _jump(self, header: Header, key: str, count: int) -> bool:
        if self._keys_left == 0:
            # Ollama writes its keys sorted: the vocabulary comes last, then the tensor table.
            return self._window.seek(count, first_tensor)
        if key.endswith(".tokens"):
            # The merges may come next, and look alike: search all of it for their key.
            near = partial(first_key, starts=KEY_STARTS[:1])
            if self._window.seek(count, near, glance=False):
                return True
        architecture = str(header.values.get("general.architecture", "general"))
        starts = (*KEY_STARTS, f"{architecture}.".encode())
        return self._window.seek(count, partial(first_key, starts=starts))

    def _tensors(self, count: int, alignment: int) -> Tensors:
        tensors = read_tensors(self._window, count, alignment)
        if self._jumped and not count and self._window.left >= alignment:
            # Nothing adds up when there is nothing: then the header must end where the file does.
            raise HeaderError("does not add up")
        return tensors

    def _check_extent(self, tensors: Tensors) -> None:
        missing = tensors.end - self._window.size
        if missing > 0:
            raise HeaderError(
                f"is cut short: {missing} of its {tensors.end} bytes are missing (a torn download?)"
            )


def _alignment(header: Header) -> int:
    value = header.values.get("general.alignment", DEFAULT_ALIGNMENT)
    if not isinstance(value, int) or value <= 0 or value & (value - 1) or value > 1 << 24:
        raise HeaderError(f"has an impossible alignment of {value!r} bytes (damaged?)")
    return value
