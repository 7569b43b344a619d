"""What instances took over the last minutes, as charts that have the height of a line."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msgspec import Struct, field

STEP = 10.0
"""Seconds that a sign of a chart stands for: as often as the daemon takes a sample."""
KEPT = 60

_SIGNS = "▁▂▃▄▅▆▇█"


class _Samples(Struct):
    memory: deque[float] = field(default_factory=lambda: deque[float](maxlen=KEPT))
    cpu: deque[float] = field(default_factory=lambda: deque[float](maxlen=KEPT))
    begun_at: float = float("-inf")


class Trends:
    """Samples by instance. What the daemon kept comes first, what is seen here goes on from it."""

    def __init__(self) -> None:
        self._of: dict[str, _Samples] = {}

    def recall(self, history: Mapping[str, Any]) -> None:
        """Begin anew with what `/v1/history` knows."""
        self._of = {}
        for name, series in history["instances"].items():
            samples = self._of.setdefault(name, _Samples())
            samples.memory.extend(value or 0 for value in series["memory_bytes"])
            samples.cpu.extend(value or 0 for value in series["cpu_percent"])

    def note(self, instances: Iterable[Mapping[str, Any]], now: float) -> None:
        """What is so now; `now` is in seconds of any clock. Of a step, the most counts."""
        for one in instances:
            samples = self._of.setdefault(one["name"], _Samples())
            fresh = now - samples.begun_at >= STEP
            if fresh:
                samples.begun_at = now
            for kept, value in (
                (samples.memory, one["memory_bytes"]),
                (samples.cpu, one["cpu_percent"]),
            ):
                if fresh or not kept:
                    kept.append(value)
                else:
                    kept[-1] = max(kept[-1], value)

    def memory(self, name: str, columns: int) -> str:
        """Bytes, against the most that there were."""
        values = self._last(name, columns, memory=True)
        return spark(values, max(values, default=0.0) * 1.2)

    def cpu(self, name: str, columns: int) -> str:
        """Percent, against one core or the most that there were."""
        values = self._last(name, columns, memory=False)
        return spark(values, max([100.0, *values]))

    def _last(self, name: str, columns: int, *, memory: bool) -> list[float]:
        samples = self._of.get(name) or _Samples()
        return list(samples.memory if memory else samples.cpu)[-columns:]


def spark(values: Sequence[float], ceiling: float) -> str:
    """A sign for each value, as high as it is."""
    if ceiling <= 0:
        return _SIGNS[0] * len(values)
    top = len(_SIGNS) - 1
    return "".join(_SIGNS[min(max(round(top * one / ceiling), 0), top)] for one in values)


def bar(share: float, columns: int) -> str:
    """A part of a whole."""
    full = round(min(max(share, 0.0), 1.0) * columns)
    return "█" * full + "░" * (columns - full)
