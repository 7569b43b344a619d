"""Control groups as they are read: which a process is in, and what they let it have of memory.

Version 2, version 1, and both at once. A container without a namespace of its own sees its group
as the root: what is named on the way there does not exist then, and is passed over.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple, TextIO

ROOT = "/sys/fs/cgroup"


def membership(pid: int | str = "self") -> str:
    """Which groups a process is in, a line each. Raises OSError."""
    with opened(f"/proc/{pid}/cgroup") as file:
        return file.read()


def opened(path: str) -> TextIO:
    """Folders have names in any encoding, and find their way back as they came."""
    return open(path, encoding="utf-8", errors="surrogateescape", newline="\n")


def folders(said: str, controller: str, root: str = ROOT) -> Iterator[str]:
    """The folders of the groups that count for a controller: its own, then what they are in.

    `said` is what `membership` returned. Whether version 2 has that controller is not asked.
    """
    for line in said.split("\n"):
        if line.count(":") < 2:
            continue
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            yield from _above(unified(root), path)
        elif controller in controllers.split(","):
            yield from _above(os.path.join(root, controller), path)


def unified(root: str = ROOT) -> str:
    """Where version 2 is: beside the controllers of version 1, where there are any."""
    beside = os.path.join(root, "unified")
    return beside if os.path.isdir(beside) else root


def _above(root: str, path: str) -> list[str]:
    parts = [part for part in path.split("/") if part]
    return [os.path.join(root, *parts[:depth]) for depth in range(len(parts), -1, -1)]


class MemoryRoom(NamedTuple):
    """What a group may have, and what of it is free or can be made so, in bytes."""

    total: int
    free: int


class _Names(NamedTuple):
    """How a version calls its files, and begins the sums over all that is below."""

    limit: str
    usage: str
    sums: str


_VERSIONS = (
    _Names("memory.max", "memory.current", ""),
    _Names("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
)


def memory_room(folder: str, *, below: int | None = None) -> MemoryRoom | None:
    """Of one group; None where it has no limit, or none `below` so many bytes.

    What is cached of files counts as free, for it is given up when it is needed.
    """
    for names in _VERSIONS:
        total = number(os.path.join(folder, names.limit))
        if total is None or (below is not None and total >= below):
            continue
        used = number(os.path.join(folder, names.usage)) or 0
        known = numbers(os.path.join(folder, "memory.stat"))
        cached = sum(known.get(f"{names.sums}{one}_file", 0) for one in ("active", "inactive"))
        return MemoryRoom(total, max(total - used + min(cached, used), 0))
    return None


def number(path: str) -> int | None:
    """What a file with one number says; None where there is none, or it is `max`."""
    try:
        with opened(path) as file:
            text = file.read().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None


def numbers(path: str) -> dict[str, int]:
    """What a file of names and numbers says; empty when it cannot be read."""
    found: dict[str, int] = {}
    try:
        with opened(path) as file:
            for line in file:
                name, *values = line.split() or [""]
                if values and values[0].isdecimal():
                    found[name] = int(values[0])
    except OSError:
        return {}
    return found
