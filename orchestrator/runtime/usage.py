"""What the instances take: memory and CPU, summed over their process groups."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from orchestrator.core.report import Usage
from orchestrator.core.status import ProcessRef
from orchestrator.runtime.families import Families
from orchestrator.runtime.identity import ProcStat, all_pids, read_stat

_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICKS = os.sysconf("SC_CLK_TCK")
MIN_SPAN = 0.25
"""Seconds between two samples: CPU over a shorter span is noise."""

WHOLE_EVERY = 60.0
"""Seconds after which every process is looked at again: its number may be another's by then."""

_Key = ProcessRef | int
"""Whose usage: a group of ours by its leader, somebody else's process by its pid."""


class Table:
    """The process table, less those that are known to count for nobody."""

    def __init__(self) -> None:
        self._strangers: set[int] = set()
        self._whole_at = float("-inf")

    def read(self, *, anew: bool) -> list[ProcStat]:
        """One look; `anew` when others may count than before."""
        now = time.monotonic()
        if anew or now - self._whole_at >= WHOLE_EVERY:
            self._strangers.clear()
            self._whole_at = now
        pids = set(all_pids())
        self._strangers &= pids
        return [stat for pid in pids - self._strangers if (stat := read_stat(pid)) is not None]

    def pass_over(self, strangers: Iterable[int]) -> None:
        """These pids counted for nobody when they were looked at."""
        self._strangers.update(strangers)


class _Count(NamedTuple):
    """CPU ticks of the processes there were at the last look, and all that were ever seen used."""

    key: _Key
    ticks: int
    spent: int


class UsageMeter:
    """Sampled when somebody looks. The first time that costs one reading of the process table;
    after that a look at those that count, and at those that are new."""

    def __init__(self) -> None:
        self._table = Table()
        self._keys: dict[str, _Key] = {}
        self._taken_at = 0.0
        self._counts: dict[str, _Count] = {}
        self._last: dict[str, Usage] = {}

    def read(
        self, leaders: Mapping[str, ProcessRef], foreign: Mapping[str, int] | None = None
    ) -> dict[str, Usage]:
        """Usage by instance name. CPU is over the time since the last reading, 0 at the first.

        `foreign` are the pids of servers that are not ours: each counts with its descendants, for
        its group may be that of a whole terminal.
        """
        keys: dict[str, _Key] = {**leaders, **(foreign or {})}
        now = time.monotonic()
        # By what they are: of another process of that name nothing is known yet.
        anew = keys != self._keys
        if not anew and now - self._taken_at < MIN_SPAN:
            return self._last
        stats = self._table.read(anew=anew)
        families = Families(stats)
        span = now - self._taken_at
        found: dict[str, Usage] = {}
        counts: dict[str, _Count] = {}
        counted: set[int] = set()
        for name, key in keys.items():
            own = families.tree(key) if isinstance(key, int) else families.group(key.pid)
            ticks = pages = 0
            for stat in own:
                ticks += stat.cpu_ticks
                pages += stat.rss_pages
                counted.add(stat.pid)
            known = self._counts.get(name)
            busy, spent = _since(known, ticks) if known and known.key == key else (0, ticks)
            counts[name] = _Count(key, ticks, spent)
            percent = 100.0 * busy / _TICKS / span if span else 0.0
            found[name] = Usage(pages * _PAGE, percent, spent / _TICKS)
        self._table.pass_over(stat.pid for stat in stats if stat.pid not in counted)
        self._keys, self._taken_at, self._counts, self._last = keys, now, counts, found
        return found


def _since(known: _Count, ticks: int) -> tuple[int, int]:
    """Ticks used since then, and in all: what a member has used that has ended since is not to be
    seen any more, but was used."""
    busy = max(ticks - known.ticks, 0)
    return busy, known.spent + busy
