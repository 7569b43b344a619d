"""How values are said to people: as they would write them in a profile. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def as_written(value: Any) -> Any:
    """Lists with commas, true and false as YAML has them; everything else as it is."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return ", ".join(str(as_written(one)) for one in value) or "none"  # pyright: ignore[reportUnknownVariableType]
    return value


def how_many(ready: int, idle: int, count: int) -> str:
    """In words, as in `2 of 3 ready, 1 idle`."""
    return f"{ready} of {count} ready" + f", {idle} idle" * bool(idle)


def is_idle(row: Mapping[str, Any]) -> bool:
    """Whether a row of the status is of an instance that is down as declared: it runs on demand,
    and nobody asks for it."""
    return row["phase"] == "stopped" and row["reason"] == "idle"
