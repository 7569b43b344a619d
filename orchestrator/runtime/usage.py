"""What the instances take: memory and CPU, summed over their process groups."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from orchestrator.core.report import Usage
from orchestrator.core.status import ProcessRef
from orchestrator.runtime.families import Families
from orchestrator.runtime.identity import ProcStat, all_pids, cpu_clock, read_stat

_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICK = 10**9 // os.sysconf("SC_CLK_TCK")
"""Nanoseconds."""
MIN_SPAN = 0.25
"""Seconds between two samples: CPU over a shorter span is noise."""

WHOLE_EVERY = 60.0
"""Seconds after which every process is looked at again: its number may be another's by then."""

BRIEFLY = 1_000_000
"""Nanoseconds: a process that has not run for longer since it was read has hardly changed."""

AS_IT_WAS = 5.0
"""Seconds after which it is read again all the same: the kernel may take pages of files from it."""

_Key = ProcessRef | int
"""Whose usage: a group of ours by its leader, somebody else's process by its pid."""


class _Sight(NamedTuple):
    """A process as it was when its clock showed that; not to be trusted from an instant on."""

    stat: ProcStat
    clock: int
    until: float


class Table:
    """The process table, less those that are known to count for nobody. Who has hardly run since it
    was read is not read again: an engine at rest wakes up once a second, and looks at a clock."""

    def __init__(self) -> None:
        self._strangers: set[int] = set()
        self._whole_at = float("-inf")
        self._seen: dict[int, _Sight] = {}
        self._clocks: dict[int, int] = {}

    def read(self, *, anew: bool) -> list[ProcStat]:
        """One look; `anew` when others may count than before."""
        now = time.monotonic()
        if anew or now - self._whole_at >= WHOLE_EVERY:
            self._strangers.clear()
            self._whole_at = now
        pids = set(all_pids())
        self._strangers &= pids
        before, self._seen, self._clocks = self._seen, {}, {}
        for pid in pids - self._strangers:
            # Before the rest is read: what runs in between shows at the next look.
            clock, known = cpu_clock(pid), before.get(pid)
            if clock is None or known is None or not _is_as_known(known, clock, now):
                stat = read_stat(pid)
                if stat is None:
                    continue
                clock = stat.cpu_ticks * _TICK if clock is None else clock
                known = _Sight(stat, clock, now + AS_IT_WAS)
            self._seen[pid], self._clocks[pid] = known, clock
        return [sight.stat for sight in self._seen.values()]

    def ran(self, pid: int) -> int:
        """Nanoseconds that a process has computed, as of the last look."""
        return self._clocks[pid]

    def pass_over(self, strangers: Iterable[int]) -> None:
        """These pids counted for nobody when they were looked at."""
        self._strangers.update(strangers)


def _is_as_known(known: _Sight, clock: int, now: float) -> bool:
    # A clock that went back is another's, who has the number now.
    return 0 <= clock - known.clock < BRIEFLY and now < known.until


class _Count(NamedTuple):
    """Nanoseconds that the processes there were at the last look had computed, and all that were
    ever seen computed."""

    key: _Key
    ran: int
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
            ran = pages = 0
            for stat in own:
                ran += self._table.ran(stat.pid)
                pages += stat.rss_pages
                counted.add(stat.pid)
            known = self._counts.get(name)
            busy, spent = _since(known, ran) if known and known.key == key else (0, ran)
            counts[name] = _Count(key, ran, spent)
            percent = 100.0 * busy / 1e9 / span if span else 0.0
            found[name] = Usage(pages * _PAGE, percent, spent / 1e9)
        self._table.pass_over(stat.pid for stat in stats if stat.pid not in counted)
        self._keys, self._taken_at, self._counts, self._last = keys, now, counts, found
        return found


def _since(known: _Count, ran: int) -> tuple[int, int]:
    """Nanoseconds computed since then, and in all: what a member has used that has ended since is
    not to be seen any more, but was used."""
    busy = max(ran - known.ran, 0)
    return busy, known.spent + busy
