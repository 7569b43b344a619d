"""The flags of one llama-server: a row for each entry of its `--help`, found by any spelling.

What a profile may say is decided by the very binary that will run, for flags come and go between
releases. `help_parser` makes a table from the text; here is only what is needed once there is one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Literal, cast

from msgspec import Struct, to_builtins

Kind = Literal["bare", "pair", "value", "two"]
"""`bare` and `pair` take no value, `two` takes two of them."""

TRUSTED_ENTRIES = 50
_FORMAT = 1


class Flag(Struct, frozen=True, omit_defaults=True):
    """One entry of the help. `key` is how profiles and plans spell it, whatever its aliases."""

    key: str
    kind: Kind
    positive: tuple[str, ...]
    negative: tuple[str, ...] = ()
    metavar: str = ""
    number: Literal["", "integer", "number"] = ""
    """Set when the value is a number; `words` are then the only other values."""
    choices: tuple[str, ...] = ()
    """The only values, where the help lists them as such; empty otherwise."""
    words: tuple[str, ...] = ()
    """Values that the help mentions: the whole truth for a number, a hint for a text."""
    range: tuple[int, int] | None = None
    env: str = ""
    removed: str = ""
    """What to use instead, for a flag that is only still known in order to be refused."""
    comma: bool = False
    """True when one value may be a list joined with commas."""
    path: Literal["", "path", "scaled"] = ""
    """`path`: names files or a folder; `scaled`: files, each followed by `:SCALE`."""
    exits: bool = False
    """True when the server would print something and exit."""
    downloads: bool = False
    """True for the presets that stand for a model on the internet."""

    @property
    def name(self) -> str:
        """The spelling that is rendered: the longest positive one."""
        return longest(self.positive)

    @property
    def negative_name(self) -> str:
        """The longest negative spelling of a pair."""
        return longest(self.negative)

    @property
    def spellings(self) -> tuple[str, ...]:
        return self.positive + self.negative


class FlagTable(Struct, frozen=True, dict=True):
    """Every flag of one binary, found by any of its spellings."""

    flags: tuple[Flag, ...]

    @cached_property
    def trusted(self) -> bool:
        """False when so few flags were found that the help must be something else."""
        return len(self.flags) >= TRUSTED_ENTRIES

    @cached_property
    def by_spelling(self) -> Mapping[str, Flag]:
        """Rows by each spelling, dashes included."""
        return {spelling: flag for flag in self.flags for spelling in flag.spellings}

    @cached_property
    def by_env(self) -> Mapping[str, Flag]:
        """Rows by the environment variable that sets the same thing."""
        return {flag.env: flag for flag in self.flags if flag.env}

    def find(self, key: str) -> tuple[Flag, bool] | None:
        """The row that `key` names, and whether by a negative spelling.

        A key is a spelling without its dashes, with `_` or `-` between the words.
        """
        bare = key.strip().lstrip("-").replace("_", "-")
        for spelling in (f"--{bare}", f"-{bare}"):
            flag = self.by_spelling.get(spelling)
            if flag is not None:
                return flag, spelling in flag.negative
        return None

    def names(self) -> list[str]:
        """Every long spelling without dashes, for suggestions."""
        return [name[2:] for name in self.by_spelling if name.startswith("--")]

    def as_json(self) -> dict[str, Any]:
        """Plain data for a cache; what has its default is left out."""
        return {"format": _FORMAT, "flags": [to_builtins(flag) for flag in self.flags]}


def table_from_json(data: object) -> FlagTable | None:
    """The inverse of `FlagTable.as_json`; None for anything else, an older format included."""
    if not isinstance(data, dict):
        return None
    content = cast(dict[str, Any], data)
    if content.get("format") != _FORMAT:
        return None
    try:
        return FlagTable(tuple(_row_from_json(row) for row in content["flags"]))
    except (KeyError, TypeError, AttributeError):
        return None


def longest(names: Sequence[str]) -> str:
    """The longest of the long spellings, the first of equals; a short one if there is no other."""
    longs = [name for name in names if name.startswith("--")]
    return max(longs or names, key=len, default="")


def _row_from_json(row: Any) -> Flag:
    values: dict[str, Any] = dict(row.items())
    return Flag(**{name: _frozen(value) for name, value in values.items()})


def _frozen(value: Any) -> Any:
    return tuple(cast(list[Any], value)) if isinstance(value, list) else value
