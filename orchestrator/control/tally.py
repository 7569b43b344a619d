"""Counts what happens in one life of the daemon, for whoever measures it over time.

Fed by the reconciler as it folds and as it ends a pass, so that nothing that happened is missed,
and nothing is done while nothing happens. What an instance counts goes when it is forgotten.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator

from msgspec import Struct, field

from orchestrator.core.event import Event, EventType
from orchestrator.core.status import InstanceStatus
from orchestrator.core.successor import base_of

PASS_BOUNDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
"""Seconds: a pass of nothing takes less than the first, one of a hundred instances a few ms."""

START_BOUNDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0)
"""Seconds: a small model is there at once, a large one on a slow disk after minutes."""

UNKNOWN = "unknown"
"""The cause of a restart of which none was told."""


class Spread:
    """How many of something took at most so many seconds, and how many seconds all of it took."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.total += seconds

    @property
    def count(self) -> int:
        return sum(self.counts)

    def steps(self) -> Iterator[tuple[float, int]]:
        """Each bound, and how many took at most as long; the last bound is infinite."""
        reached = 0
        for bound, count in zip((*self.bounds, float("inf")), self.counts, strict=True):
            reached += count
            yield bound, reached


class InstanceTally(Struct):
    """Of one instance: its restarts by what ended it, and what its starts took until ready."""

    restarts: Counter[str] = field(default_factory=Counter[str])
    starts: Spread = field(default_factory=lambda: Spread(START_BOUNDS))


class Tally:
    """All that is counted. Times of the boot clock, so that no wall clock moves them."""

    def __init__(self) -> None:
        self.passes = Spread(PASS_BOUNDS)
        self.convergences = Spread(START_BOUNDS)
        self.events: dict[EventType, int] = dict.fromkeys(EventType, 0)
        self.instances: dict[str, InstanceTally] = {}
        self._apart_since: float | None = None

    def fold(
        self, event: Event, before: InstanceStatus | None, after: InstanceStatus | None
    ) -> None:
        """An event was folded, and made this of its instance."""
        self.events[event.type] += 1
        if event.type is EventType.CONVERGED:
            since = event.at if self._apart_since is None else self._apart_since
            self.convergences.add(max(event.at - since, 0.0))
            self._apart_since = None
        if after is None:
            self.instances.pop(event.instance, None)
        elif before is not after and event.type is not EventType.PROMOTED:
            # Of who takes over all was counted when it happened.
            self._compare(before, after)

    def _compare(self, before: InstanceStatus | None, after: InstanceStatus) -> None:
        """Levels, not edges: a restart is one where the number of restarts has risen."""
        if before is not None and after.restarts > before.restarts:
            self._of(after.name).restarts[before.reason or UNKNOWN] += 1
        took = after.ready_after_s
        first = after.ready_at is not None and (before is None or before.ready_at is None)
        if first and took is not None:
            self._of(after.name).starts.add(took)

    def _of(self, name: str) -> InstanceTally:
        # What a successor counts is its instance's.
        return self.instances.setdefault(base_of(name), InstanceTally())

    def passed(self, seconds: float, *, apart_since: float | None) -> None:
        """A pass has ended. `apart_since` is now, where what runs is not what is declared, and
        None where it is, or where it is not known what is declared."""
        self.passes.add(seconds)
        if apart_since is None:
            self._apart_since = None
        elif self._apart_since is None:
            self._apart_since = apart_since
