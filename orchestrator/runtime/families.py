"""Who belongs together, at one look at the process table: by group, and by who began whom."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property

from orchestrator.runtime.identity import ProcStat


class Families:
    """Each question costs what its answer is long, not another walk of the whole table."""

    def __init__(self, stats: Iterable[ProcStat]) -> None:
        self._stats = stats = list(stats)
        self._groups: dict[int, list[ProcStat]] = {}
        for stat in stats:
            self._groups.setdefault(stat.group, []).append(stat)

    def group(self, leader: int) -> Sequence[ProcStat]:
        """All that carry that group, whether its leader is still there or not."""
        return self._groups.get(leader, ())

    def tree(self, root: int) -> list[ProcStat]:
        """A process and all that descend from it; nothing where it is gone."""
        found = [self._by_pid[root]] if root in self._by_pid else []
        # It grows while it is walked. Nobody is twice in it, for each has one parent; nor would the
        # root be, had it by some chance come to descend from itself while the table was read.
        for stat in found:
            found += [one for one in self._children.get(stat.pid, ()) if one.pid != root]
        return found

    @cached_property
    def _by_pid(self) -> dict[int, ProcStat]:
        return {stat.pid: stat for stat in self._stats}

    @cached_property
    def _children(self) -> dict[int, list[ProcStat]]:
        found: dict[int, list[ProcStat]] = {}
        for stat in self._stats:
            found.setdefault(stat.parent, []).append(stat)
        return found
