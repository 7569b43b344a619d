"""Ollama's settings: which there are, by its own help, and what kind of value each takes.

Ollama only warns of a value that it cannot read, and goes on with its default. So values are
judged here, before anything is started.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, cast

from msgspec import Struct

from orchestrator.core.engine import FlagValue
from orchestrator.core.nodes import shown
from orchestrator.core.problem import did_you_mean
from orchestrator.core.units import parse_duration, parse_size

PREFIX = "OLLAMA_"
TRUSTED_VARIABLES = 8
"""A help that names fewer is a wrapper's: what it does not name may still be taken."""

_VARIABLE = re.compile(r"^\s+(OLLAMA_[A-Z0-9_]+)\s{2,}(\S.*)$", re.MULTILINE)


class Variables(Struct, frozen=True):
    """What `ollama serve --help` lists: each setting in small letters, and what it is for."""

    about: Mapping[str, str]

    @property
    def trusted(self) -> bool:
        return len(self.about) >= TRUSTED_VARIABLES

    def as_json(self) -> dict[str, Any]:
        """Plain data for a cache."""
        return {"variables": dict(self.about)}


def variables_from_json(data: object) -> Variables | None:
    """The inverse of `Variables.as_json`; None for anything else."""
    about = cast("dict[str, Any]", data).get("variables") if isinstance(data, dict) else None
    if not isinstance(about, dict):
        return None
    return Variables({name: str(text) for name, text in cast("dict[str, Any]", about).items()})


def parse_serve_help(text: str) -> Variables:
    """Read the variables from the help. Never fails: noise is passed over."""
    found = {name.removeprefix(PREFIX).lower(): said for name, said in _VARIABLE.findall(text)}
    return Variables(found)


def rendered(name: str, value: FlagValue) -> str:
    """The value as Ollama reads it. Raises ValueError saying what was expected instead."""
    return _KINDS.get(name, _text)(value)


def as_written(value: FlagValue) -> str:
    """The value where nothing is known of what it should be."""
    items = value if isinstance(value, list) else [value]
    return ",".join(_text(item) for item in items)


def _switch(value: FlagValue) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    raise ValueError(f"expected true or false, got {shown(value)}")


def _count(value: FlagValue) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST:
        return str(value)
    raise ValueError(f"expected a whole number from 0 to {_MOST}, got {shown(value)}")


def _level(value: FlagValue) -> str:
    """Of detail in the log: true is 1."""
    return _count(int(value) if isinstance(value, bool) else value)


def _bytes(value: FlagValue) -> str:
    size = parse_size(value)
    if size > _MOST_BYTES:
        raise ValueError(f"expected a size of at most 8 EiB, got {shown(value)}")
    return str(size)


def _duration(value: FlagValue) -> str:
    seconds = parse_duration(value)
    return f"{round(seconds * 1000)}ms" if seconds % 1 else f"{round(seconds)}s"


def _keep_alive(value: FlagValue) -> str:
    if value == -1 and isinstance(value, int):
        return "-1"
    try:
        return _duration(value)
    except ValueError:
        raise ValueError(
            f"expected a duration such as 10m, or -1 for ever, got {shown(value)}"
        ) from None


def _cache_type(value: FlagValue) -> str:
    if isinstance(value, str) and value in _CACHE_TYPES:
        return value
    near = did_you_mean(str(value), _CACHE_TYPES)
    raise ValueError(
        f"expected {', '.join(_CACHE_TYPES[:-1])} or {_CACHE_TYPES[-1]}, got {shown(value)}"
        + (f" ({near})" if near else "")
    )


def _origins(value: FlagValue) -> str:
    """What Ollama does not take for an origin ends it at once."""
    items = value.split(",") if isinstance(value, str) else value
    if not isinstance(items, list) or not items:
        raise ValueError(f"expected an origin or a list of origins, got {shown(value)}")
    words = [str(item).strip() for item in items]
    for word in words:
        right = word.count("*") == 1 or (word.startswith(_SCHEMES) and "*" not in word)
        if not right or "," in word or not word.isprintable():
            raise ValueError(f"expected an origin such as http://name or *, got {shown(word)}")
    return ",".join(words)


def _path(value: FlagValue) -> str:
    if isinstance(value, str) and value.strip():
        return _text(value)
    raise ValueError(f"expected the path of a folder, got {shown(value)}")


def _text(value: FlagValue) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float) and "\0" not in str(value):
        return str(value)
    raise ValueError(f"expected a plain value, got {shown(value)}")


_MOST = 2**31 - 1
_MOST_BYTES = 2**63 - 1
_SCHEMES = (
    *("http://", "https://", "chrome-extension://", "safari-extension://", "moz-extension://"),
    "ms-browser-extension://",
)
_CACHE_TYPES = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")
"""What the llama-server in it takes."""

_KINDS: Mapping[str, Callable[[FlagValue], str]] = {
    "context_length": _count,
    "debug": _level,
    "flash_attention": _switch,
    "gpu_overhead": _bytes,
    "igpu_enable": _switch,
    "keep_alive": _keep_alive,
    "kv_cache_type": _cache_type,
    "load_timeout": _duration,
    "max_loaded_models": _count,
    "max_queue": _count,
    "max_transfer_streams": _count,
    "models": _path,
    "no_cloud": _switch,
    "noprune": _switch,
    "num_parallel": _count,
    "origins": _origins,
    "sched_spread": _switch,
}
"""Settings whose values Ollama reads as more than text. What is new in a later Ollama is text."""
