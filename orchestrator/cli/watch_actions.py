"""What keys ask for, what is asked back, and what is under way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from orchestrator.cli.render import duration, size

COSTLY_SECONDS = 3.0
"""A model that took so long to load is not let go of by one key."""
COSTLY_BYTES = 1 << 30

_DOWN = frozenset({"stopped", "failed"})
_DOES = {"restart": "restarting", "stop": "stopping", "start": "starting", "kill": "killing"}

VERBS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "r": lambda _: "restart",
    "s": lambda row: "start" if row["phase"] in _DOWN or row["held"] else "stop",
    "K": lambda _: "kill",
}
"""The verb that a key means for an instance."""


def question(verb: str, row: Mapping[str, Any]) -> str:
    """What to ask before, with what it costs; empty where it costs nothing."""
    name = row["name"]
    if verb == "kill":
        return f"kill {name}, without grace?"
    if verb == "start" or not row["managed"] or row["phase"] not in ("ready", "unready"):
        return ""
    took = row["ready_after_s"] or 0.0
    if took < COSTLY_SECONDS and row["memory_bytes"] < COSTLY_BYTES:
        return ""
    costs = [f"it has {size(row['memory_bytes'])}"]
    costs += [f"took {duration(took)} to be ready"] if took >= COSTLY_SECONDS else []
    return f"{verb} {name}? {', '.join(costs)}"


class Doing:
    """What was asked for and has not come to its end yet."""

    def __init__(self) -> None:
        self._open: list[tuple[str, str]] = []

    def begin(self, verb: str, name: str) -> Callable[[], None]:
        """To be called when it has ended."""
        one = (verb, name)
        self._open.append(one)
        return lambda: self._open.remove(one)

    def text(self) -> str:
        """All of it, in a line."""
        return ", ".join(f"{_DOES[verb]} {name} …" for verb, name in self._open)
