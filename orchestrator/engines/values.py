"""One flag's value: whether it fits the flag's row, and the argv words that say it.

The engine itself checks little: `--ctx-size 8k` starts with a context of 8, `--port 80000`
"listens". So a value is refused here unless the row allows it.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from orchestrator.core.engine import FlagValue
from orchestrator.core.problem import did_you_mean, listing
from orchestrator.engines.flags import Flag

_INTEGER = re.compile(r"[+-]?\d+")
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
_SIZE = re.compile(r"(\d+)\s*([kKmM])i?[bB]?")
_INTEGER_BITS = 32


class BadValueError(ValueError):
    """A value that the row does not allow: what was expected, and what to write instead."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class Rendered(Struct, frozen=True):
    """`words` are the flag and its values as argv takes them, none when the value says "not set".

    `doubt` is a warning: the value is passed on, though the help does not mention it.
    """

    words: tuple[str, ...]
    doubt: str = ""
    hint: str = ""


def rendered(flag: Flag, value: FlagValue, folder: str) -> Rendered:
    """Check `value` against the row and spell it. Relative paths are relative to `folder`.

    Raises `BadValueError`.
    """
    if flag.kind in ("bare", "pair"):
        return _switch(flag, value)
    if flag.kind == "two":
        return _two(flag, value)
    if isinstance(value, list):
        return _several(flag, value, folder)
    word = _word(flag, value)
    if flag.comma:
        return _several(flag, word.split(","), folder)
    doubt, hint = _doubt(flag, word)
    return Rendered((flag.name, _located(flag, word, folder)), doubt, hint)


def _switch(flag: Flag, value: FlagValue) -> Rendered:
    if not isinstance(value, bool):
        raise BadValueError(
            f"flag {flag.key!r} takes no value, not {_shown(value)}", "write true or false"
        )
    if value:
        return Rendered((flag.name,))
    return Rendered((flag.negative_name,) if flag.kind == "pair" else ())


def _two(flag: Flag, value: FlagValue) -> Rendered:
    if not isinstance(value, list) or len(value) != 2:
        raise BadValueError(
            f"flag {flag.key!r} takes two values, {flag.metavar}", "write a list: [first, second]"
        )
    return Rendered((flag.name, *(_text(flag, item) for item in value)))


def _several(flag: Flag, items: Sequence[Any], folder: str) -> Rendered:
    if not flag.comma:
        raise BadValueError(
            f"flag {flag.key!r} takes one value, not a list", "of a repeated flag the last one wins"
        )
    if not items:
        raise BadValueError(f"flag {flag.key!r} needs a value", "write null to unset it")
    words = [_text(flag, item) for item in items]
    split = next((word for word in words if "," in word), None)
    if split is not None:
        raise BadValueError(f"an item of {flag.key!r} holds a comma: {split!r}")
    doubts = [found for word in words if (found := _doubt(flag, word))[0]]
    doubt, hint = doubts[0] if doubts else ("", "")
    joined = ",".join(_located(flag, word, folder) for word in words)
    return Rendered((flag.name, joined), doubt, hint)


def _word(flag: Flag, value: FlagValue) -> str:
    if flag.choices:
        return _choice(flag, value)
    if flag.number:
        return _number(flag, value)
    return _text(flag, value)


def _choice(flag: Flag, value: FlagValue) -> str:
    """A closed enumeration; a boolean says `on`/`off` or 1/0 where the row has these."""
    if isinstance(value, bool):
        yes, no = ("1", "0") if "1" in flag.choices else ("on", "off")
        word = yes if value else no
        if word in flag.choices:
            return word
    elif isinstance(value, (str, int)) and str(value) in flag.choices:
        return str(value)
    raise BadValueError(
        f"flag {flag.key!r} takes one of {listing(flag.choices, limit=12)}, not {_shown(value)}",
        did_you_mean(str(value), flag.choices) if isinstance(value, str) else "",
    )


def _number(flag: Flag, value: FlagValue) -> str:
    word = repr(value) if isinstance(value, float) else str(value)
    if isinstance(value, str) and value in flag.words:
        return value
    whole = flag.number == "integer"
    pattern = _INTEGER if whole else _NUMBER
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise _not_a_number(flag, value)
    if isinstance(value, float) and whole and value.is_integer():
        word = str(int(value))
    if not pattern.fullmatch(word):
        raise _not_a_number(flag, value)
    if whole:
        _check_bounds(flag, int(word))
    return word


def _check_bounds(flag: Flag, value: int) -> None:
    if flag.range and not flag.range[0] <= value <= flag.range[1]:
        low, high = flag.range
        raise BadValueError(f"flag {flag.key!r} takes {low} to {high}, not {value}")
    # Seeds are unsigned, everything else is signed: beyond both, the engine fails to start.
    if not -(2 ** (_INTEGER_BITS - 1)) <= value < 2**_INTEGER_BITS:
        raise BadValueError(f"flag {flag.key!r} cannot hold {value}", "a 32-bit number is needed")


def _not_a_number(flag: Flag, value: FlagValue) -> BadValueError:
    kind = "a whole number" if flag.number == "integer" else "a number"
    words = f" or one of {listing(flag.words)}" if flag.words else ""
    hint = ""
    if isinstance(value, str):
        size = _SIZE.fullmatch(value.strip())
        if size:
            factor = 1024 if size[2] in "kK" else 1024**2
            hint = f"sizes are written out: {int(size[1]) * factor}"
        else:
            hint = did_you_mean(value, flag.words)
    return BadValueError(f"flag {flag.key!r} takes {kind}{words}, not {_shown(value)}", hint)


def _text(flag: Flag, value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise BadValueError(
            f"flag {flag.key!r} needs a value ({flag.metavar}), not {_shown(value)}"
        )
    word = str(value)
    if "\0" in word:
        raise BadValueError(f"the value of {flag.key!r} holds a NUL character")
    return word


def _doubt(flag: Flag, word: str) -> tuple[str, str]:
    if flag.number or flag.choices or not flag.words or word in flag.words:
        return "", ""
    return (
        f"the help of {flag.key!r} does not mention {word!r}",
        did_you_mean(word, flag.words) or f"it names {listing(flag.words, limit=12)}",
    )


def _located(flag: Flag, word: str, folder: str) -> str:
    """A path-valued word made absolute, so that the same instance is the same in any folder."""
    if not flag.path or not word:
        return word
    if word.startswith("~"):
        raise BadValueError(
            f"'~' is not expanded in flag {flag.key!r}", "write ${env:HOME} or the whole path"
        )
    path, colon, scale = word.rpartition(":") if flag.path == "scaled" else (word, "", "")
    if not path:
        path, colon, scale = word, "", ""
    return posixpath.normpath(posixpath.join(folder, path)) + colon + scale


def _shown(value: object) -> str:
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else repr(value)
