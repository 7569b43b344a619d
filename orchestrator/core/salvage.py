"""What is left of a broken profile without all that is blamed: resolved for its errors only.

A profile with a wrong key may name an unknown model too. People want to hear of both at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from orchestrator.core.check import check
from orchestrator.core.nodes import Plain
from orchestrator.core.problem import Path
from orchestrator.core.profile import Profile

_ROUNDS = 3
"""Taking something out may show another error; more than a few times is not worth it."""


def salvage(values: Plain, blamed: Iterable[Path]) -> Profile | None:
    """The profile that remains, or None when nothing sensible does."""
    rest = _copied(values)
    paths = list(blamed)
    for _ in range(_ROUNDS):
        for path in paths:
            _remove(rest, path)
        profile, issues = check(rest)
        if not issues:
            return profile
        paths = [issue.path for issue in issues]
    return None


def _copied(value: Plain) -> Plain:
    if isinstance(value, dict):
        return {key: _copied(inner) for key, inner in value.items()}
    return [_copied(inner) for inner in value] if isinstance(value, list) else value


def _remove(root: Plain, path: Path) -> None:
    """Take out what `path` names, or the nearest thing around it that is there."""
    parent: Any = root
    for part in path[:-1]:
        inner = _inner(parent, part)
        if not isinstance(inner, (dict, list)):
            break
        parent = cast("dict[Any, Any] | list[Any]", inner)
    if path and isinstance(parent, dict):
        cast("dict[Any, Any]", parent).pop(path[-1], None)
    elif path and isinstance(parent, list) and isinstance(path[-1], int):
        items = cast("list[Any]", parent)
        del items[path[-1] : path[-1] + 1]


def _inner(parent: Any, part: str | int) -> Any:
    if isinstance(parent, dict):
        return cast("dict[Any, Any]", parent).get(part)
    if isinstance(parent, list) and isinstance(part, int):
        items = cast("list[Any]", parent)
        return items[part] if part < len(items) else None
    return None
