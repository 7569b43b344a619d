"""Whether a server that does not answer works: what it and its children compute and read."""

from __future__ import annotations

import os

from msgspec import Struct

from orchestrator.runtime.families import Families
from orchestrator.runtime.identity import all_stats

_TICKS = os.sysconf("SC_CLK_TCK")


class Effort(Struct, frozen=True):
    """Since their start: seconds computed, or waited for a core; bytes read from disk.

    Waiting for a core counts, for a machine that is short of them does not make a server hang.
    """

    cpu: float
    read: int


def effort_of(pid: int) -> Effort | None:
    """Of a process and all that descend from it; None when it is gone. Takes milliseconds."""
    own = Families(all_stats()).tree(pid)
    if not own:
        return None
    waited = sum(_waited(stat.pid) for stat in own)
    cpu = sum(stat.cpu_ticks for stat in own) / _TICKS
    return Effort(cpu + waited, sum(_read(stat.pid) for stat in own))


def _waited(pid: int) -> float:
    """Seconds for which its threads could have run, and had no core."""
    total = 0
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/schedstat", "rb") as file:
                total += int(file.read().split()[1])
    except (OSError, IndexError, ValueError):
        pass
    return total / 1e9


def _read(pid: int) -> int:
    """Pages of a model that was pushed out of memory are read again when it is asked."""
    try:
        with open(f"/proc/{pid}/io", "rb") as file:
            fields = dict(line.split(b": ") for line in file.read().splitlines())
        return int(fields[b"read_bytes"])
    except (OSError, KeyError, ValueError):
        return 0
