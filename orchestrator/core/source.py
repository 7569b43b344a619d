"""The text of one file and its lines: bytes in, text out, or the place where it is not text."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache

from orchestrator.core.problem import Path, Place, Problem

MAX_BYTES = 1 << 20
"""Bytes of a profile. One of 200 instances has about 60,000."""

_LONGEST_SOURCE = 4096
"""Characters of a line kept in a `Place`: errors travel over the control socket."""

_BREAK = re.compile(r"\r\n|\r|\n")
_MARKS = (
    (b"\xef\xbb\xbf", "UTF-8 with a byte order mark"),
    (b"\xff\xfe\x00\x00", "UTF-32"),
    (b"\x00\x00\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
)


@dataclass(frozen=True, slots=True)
class Source:
    """A file's text, and its lines without their ends."""

    file: str
    text: str
    lines: list[str] = field(repr=False)

    def line(self, number: int) -> str:
        """The whole of a line, counted from 1; empty beyond the end."""
        return self.lines[number - 1] if number <= len(self.lines) else ""

    def place(self, line: int, column: int) -> Place:
        """`line` and `column` count from 1; beyond the end there is no source line to show."""
        return Place(self.file, line, column, self.line(line)[:_LONGEST_SOURCE])

    def problem(
        self, message: str, line: int, column: int, *, hint: str = "", path: Path = ()
    ) -> Problem:
        """What is wrong at a position of this file."""
        return Problem(message, self.place(line, column), path, hint)


def read_source(data: bytes, file: str) -> Source | Problem:
    """The text of `data`, which must be UTF-8 of bounded size with nothing unprintable in it."""
    if len(data) > MAX_BYTES:
        size = f"{len(data):,} bytes, a profile may have {MAX_BYTES:,}"
        return Problem(f"the file is too large: {size}", Place(file, 1, 1))
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return Problem(
                f"the file is {encoding}, expected plain UTF-8",
                Place(file, 1, 1),
                hint="save it as UTF-8 without a byte order mark",
            )
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        return _undecodable(data, error.start, file)
    source = Source(file, text, _BREAK.split(text))
    if text.replace("\n", "").replace("\r", "").replace("\t", "").isprintable():
        return source
    forbidden = _forbidden().search(text)
    return source if forbidden is None else _unprintable(source, forbidden.start())


@cache
def _forbidden() -> re.Pattern[str]:
    """What YAML calls unprintable; and U+0085, U+2028 and U+2029, which some take for line breaks.

    To compile it takes longer than to read a profile: only for a text that Python calls unprintable
    too, which has all of it, and more.
    """
    return re.compile(
        "[^\t\n\r\x20-\x7e\u00a0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]"
    )


def _undecodable(data: bytes, offset: int, file: str) -> Problem:
    before = data[:offset].decode("utf-8")
    ahead = _BREAK.split(data.decode("utf-8", errors="replace"))
    source = Source(file, "", ahead)
    line, column = _position(before)
    message = f"the byte 0x{data[offset]:02x} is not valid UTF-8"
    return source.problem(message, line, column, hint="save the file as UTF-8")


def _unprintable(source: Source, offset: int) -> Problem:
    line, column = _position(source.text[:offset])
    character = ord(source.text[offset])
    if character == 0:
        message, hint = "a NUL byte is not allowed", "is this UTF-16, or not a text file at all?"
    else:
        message = f"the character U+{character:04X} is not allowed"
        hint = f'remove it, or write it as "\\u{character:04x}" in double quotes'
    return source.problem(message, line, column, hint=hint)


def _position(before: str) -> tuple[int, int]:
    """Line and column of what follows `before`, from 1."""
    lines = _BREAK.split(before)
    return len(lines), len(lines[-1]) + 1
