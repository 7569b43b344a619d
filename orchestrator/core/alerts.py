"""What is to be told about how much an instance takes: limits that it passes, and a leak. Pure.

Whoever measures hands over what was measured; what is found is compared with what is known, so
that each alert is told once when it comes, and once when it has passed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Literal, get_args

from msgspec import Struct

from orchestrator.core.spec import Limits
from orchestrator.core.units import format_duration, format_size

AlertKind = Literal["memory", "cpu", "restarts", "leak"]

MEASURED: frozenset[str] = frozenset(get_args(AlertKind))
"""Those that are about what an instance takes; of the gateway's others are told."""

CPU_SPAN = 60.0
"""Seconds over which the CPU is averaged: a burst is what it is there for."""

CALM = 0.9
"""The share of a limit below which an alert has passed: about the limit it must not flutter."""

TREND_PARTS = 6
LEAK_BYTES = 64 << 20
LEAK_SHARE = 0.1


class Sample(Struct, frozen=True):
    """What an instance took at an instant (boot clock): bytes, and percent of one core since the
    sample before."""

    at: float
    memory: int
    cpu: float


class Measured(Struct, frozen=True):
    """What is known of one instance. `recent` is dense and short, `trend` sparse and long: all
    that was seen since it had settled. `restarts` are the instants of its restarts, counted from
    `since` on: what was before that is not known, and the run `began` before or after it."""

    recent: Sequence[Sample] = ()
    trend: Sequence[Sample] = ()
    restarts: Sequence[float] = ()
    since: float = float("-inf")
    began: float = float("inf")

    @property
    def is_of_earlier(self) -> bool:
        """Whether an earlier daemon may know more of this run."""
        return self.began < self.since


def alerts(
    limits: Limits, measured: Measured, *, now: float, raised: Mapping[str, str]
) -> dict[AlertKind, str]:
    """What is wrong now, each with words for people. `raised` is what was so until now."""
    found: dict[AlertKind, str] = {}
    if memory := _memory(limits, measured, now, raised):
        found["memory"] = memory
    if cpu := _cpu(limits, measured, now, raised):
        found["cpu"] = cpu
    if restarts := _restarts(limits, measured, now, raised):
        found["restarts"] = restarts
    if leak := _leak(measured, raised):
        found["leak"] = leak
    return found


def _memory(limits: Limits, measured: Measured, now: float, raised: Mapping[str, str]) -> str:
    # Of one that is down nothing new comes: what it took once says nothing of it.
    if not measured.recent or measured.recent[-1].at < now - CPU_SPAN:
        return ""
    took = measured.recent[-1].memory
    if not _passes(took, limits.memory_warn, "memory" in raised):
        return ""
    return f"takes {format_size(took)} of memory{_warns(limits.memory_warn)}"


def _cpu(limits: Limits, measured: Measured, now: float, raised: Mapping[str, str]) -> str:
    if limits.cpu_warn is None:
        return ""
    busy = _busy(measured.recent, now - CPU_SPAN)
    if busy is None:
        stays = measured.is_of_earlier and measured.since > now - CPU_SPAN
        return raised.get("cpu", "") if stays else ""
    if not _passes(busy, limits.cpu_warn, "cpu" in raised):
        return ""
    return f"takes {busy:.0f}% of a core for a minute, warn: {limits.cpu_warn:g}%"


def _busy(recent: Sequence[Sample], since: float) -> float | None:
    """The mean from then on; None where too much of that time was not seen.

    Samples may have come every few seconds or once a minute: each counts for its own time.
    """
    parts = [
        (min(after.at - before.at, after.at - since), after.cpu)
        for before, after in pairwise(recent)
        if after.at > since
    ]
    seen = sum(seconds for seconds, _ in parts)
    if seen < CPU_SPAN * CALM:
        return None
    return sum(seconds * cpu for seconds, cpu in parts) / seen


def _restarts(limits: Limits, measured: Measured, now: float, raised: Mapping[str, str]) -> str:
    begin = now - limits.restarts_window
    often = sum(at >= begin for at in measured.restarts)
    if limits.restarts_warn is None:
        return ""
    if often < limits.restarts_warn:
        # Whoever raised it may have counted what is not known here: it stays until that is out.
        return raised.get("restarts", "") if measured.since > begin else ""
    times = "once" if often == 1 else f"{often} times"
    return f"was restarted {times} within {format_duration(limits.restarts_window)}"


def _leak(measured: Measured, raised: Mapping[str, str]) -> str:
    if len(measured.trend) < 2 * TREND_PARTS and measured.is_of_earlier:
        return raised.get("leak", "")
    leak = growth(measured.trend, known="leak" in raised)
    return f"its memory grows steadily, by {format_size(round(leak))} an hour" if leak else ""


def over_limit(limits: Limits, measured: Measured) -> str:
    """Why the instance must be ended, for people; empty when it need not."""
    if limits.memory_max is None or not measured.recent:
        return ""
    took = measured.recent[-1].memory
    if took <= limits.memory_max:
        return ""
    return f"takes {format_size(took)} of memory, at most {format_size(limits.memory_max)}"


def growth(trend: Sequence[Sample], *, known: bool = False) -> float | None:
    """Bytes an hour of a rise that never paused; None where it is no such rise. How much it has
    risen by does not count for one that is `known`.

    The least of each part counts, so that what comes and goes is no leak; and a cache that fills
    up has stopped growing by the last part.
    """
    size = len(trend) // TREND_PARTS
    if size < 2:
        return None
    trend = trend[-size * TREND_PARTS :]
    least = [
        min(one.memory for one in trend[part * size : (part + 1) * size])
        for part in range(TREND_PARTS)
    ]
    steps = [after - before for before, after in pairwise(least)]
    rise = least[-1] - least[0]
    steady = min(steps) > 0 and min(steps) >= rise / len(steps) / 4
    if not steady or (not known and rise < max(LEAK_BYTES, LEAK_SHARE * least[0])):
        return None
    return rise / (trend[-1].at - trend[0].at) * len(least) / len(steps) * 3600.0


def _passes(value: float, limit: float | None, raised: bool) -> bool:
    return limit is not None and value > limit * (CALM if raised else 1.0)


def _warns(limit: int | None) -> str:
    return f", warn: {format_size(limit)}" if limit is not None else ""
