"""How values are said to people: as they would write them in a profile. Pure."""

from __future__ import annotations

from typing import Any


def as_written(value: Any) -> Any:
    """Lists with commas, true and false as YAML has them; everything else as it is."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return ", ".join(str(as_written(one)) for one in value) or "none"  # pyright: ignore[reportUnknownVariableType]
    return value
