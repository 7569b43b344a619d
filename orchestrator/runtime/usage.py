"""What the instances take: memory and CPU, summed over their process groups."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence

from orchestrator.core.report import Usage
from orchestrator.core.status import ProcessRef
from orchestrator.runtime.identity import ProcStat, all_stats

_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICKS = os.sysconf("SC_CLK_TCK")
MIN_SPAN = 0.25
"""Seconds between two samples: CPU over a shorter span is noise."""

_Key = ProcessRef | int
"""Whose usage: a group of ours by its leader, somebody else's process by its pid."""


class UsageMeter:
    """Sampled when somebody looks, at the cost of one reading of the process table."""

    def __init__(self) -> None:
        self._taken_at = 0.0
        self._ticks: dict[_Key, int] = {}
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
        if now - self._taken_at < MIN_SPAN and keys.keys() == self._last.keys():
            return self._last
        stats = all_stats()
        span = now - self._taken_at
        found: dict[str, Usage] = {}
        ticks: dict[_Key, int] = {}
        groups: dict[int, list[ProcStat]] = {}
        for stat in stats:
            groups.setdefault(stat.group, []).append(stat)
        for name, key in keys.items():
            own = tree(key, stats) if isinstance(key, int) else groups.get(key.pid, [])
            ticks[key] = sum(stat.cpu_ticks for stat in own)
            before = self._ticks.get(key)
            busy = 0 if before is None else max(ticks[key] - before, 0)
            memory = sum(stat.rss_pages for stat in own) * _PAGE
            found[name] = Usage(memory, 100.0 * busy / _TICKS / span if span else 0.0)
        self._taken_at, self._ticks, self._last = now, ticks, found
        return found


def tree(root: int, stats: Sequence[ProcStat]) -> list[ProcStat]:
    """A process and all that descend from it."""
    members, found = {root}, [stat for stat in stats if stat.pid == root]
    while more := [s for s in stats if s.parent in members and s.pid not in members]:
        members.update(stat.pid for stat in more)
        found += more
    return found
