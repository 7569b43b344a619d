"""How many CPUs this process may use, where that is fewer than the machine has.

Engines count the machine's cores. In a container that is given two of them, as many threads as the
machine has cores take turns, and all of them wait for each other: several times slower, not only
as slow as two cores are.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from functools import cache

from orchestrator.runtime import cgroups

VARIABLE = "ORCHESTRATE_THREADS"
QUOTA = "quota"
"""The word that asks for as many threads as there are CPUs for us."""


def parse_threads(said: str) -> int | str:
    """A number of threads, or `QUOTA`. Raises ValueError for anything else."""
    if said == QUOTA:
        return QUOTA
    if not (said.isascii() and said.isdecimal() and 0 < int(said) <= 512):
        raise ValueError(f"{said!r} is neither a number of threads (1 to 512) nor `{QUOTA}`")
    return int(said)


def default_threads(said: str | None) -> int | None:
    """The threads of an engine that is told nothing else; None leaves it to the engine.

    `said` is what `VARIABLE` has; what it may not say counts as nothing.
    """
    try:
        asked = parse_threads(said) if said else None
    except ValueError:
        return None
    return _allowed() if asked == QUOTA else asked if isinstance(asked, int) else None


@cache
def _allowed() -> int | None:
    """Looked up once: a limit that is changed under way is no reason to begin anything anew."""
    with contextlib.suppress(OSError):
        usable = len(os.sched_getaffinity(0))
        said, cores = cgroups.membership(), os.cpu_count() or 1
        return cpus_allowed(cgroups.ROOT, said, usable=usable, cores=cores)
    return None


def cpus_allowed(root: str, membership: str, *, usable: int, cores: int) -> int | None:
    """Whole CPUs that a process may keep busy, at least one; None when it may have all `cores`.

    `usable` are those that it may run on. `membership` is the content of `/proc/self/cgroup`.
    """
    least = min((usable, *_quotas(root, membership)))
    return max(math.floor(least), 1) if least < cores else None


def _quotas(root: str, membership: str) -> Iterator[float]:
    for folder in cgroups.folders(membership, "cpu", root):
        yield from _share(*_numbers(folder, "cpu.max"))
        quota, period = (_numbers(folder, f"cpu.cfs_{what}_us") for what in _V1)
        yield from _share(*quota, *period)


_V1 = ("quota", "period")


def _share(*numbers: int) -> Iterator[float]:
    """Microseconds in each so many microseconds; without a limit, the first is no number."""
    if len(numbers) == 2 and numbers[1]:
        yield numbers[0] / numbers[1]


def _numbers(folder: str, name: str) -> list[int]:
    try:
        with open(os.path.join(folder, name), encoding="ascii") as file:
            return [int(word) for word in file.read().split() if word.isdecimal()]
    except (OSError, UnicodeDecodeError):
        return []
