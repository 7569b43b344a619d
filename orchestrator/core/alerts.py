"""What is to be told about how much an instance takes: limits that it passes, and a leak. Pure.

Whoever measures hands over what was measured; what is found is compared with what is known, so
that each alert is told once when it comes, and once when it has passed.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from orchestrator.core.spec import Limits
from orchestrator.core.units import format_duration, format_size

AlertKind = Literal["memory", "cpu", "restarts", "leak"]

CPU_SPAN = 60.0
"""Seconds over which the CPU is averaged: a burst is what it is there for."""

CALM = 0.9
"""The share of a limit below which an alert has passed: about the limit it must not flutter."""

TREND_PARTS = 6
LEAK_BYTES = 64 << 20
LEAK_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class Sample:
    """What an instance took at an instant (boot clock): bytes, and percent of one core."""

    at: float
    memory: int
    cpu: float


@dataclass(frozen=True, slots=True)
class Measured:
    """What is known of one instance. `recent` is dense and short, `trend` sparse and long: all
    that was seen since it had settled. `restarts` are the instants of its restarts, counted from
    `since` on: what was before that is not known."""

    recent: Sequence[Sample] = ()
    trend: Sequence[Sample] = ()
    restarts: Sequence[float] = ()
    since: float = float("-inf")


def alerts(
    limits: Limits, measured: Measured, *, now: float, raised: Collection[str]
) -> dict[AlertKind, str]:
    """What is wrong now, each with words for people. `raised` is what was so until now."""
    found: dict[AlertKind, str] = {}
    # Of one that is down nothing new comes: what it took once says nothing of it.
    if measured.recent and measured.recent[-1].at >= now - CPU_SPAN:
        took = measured.recent[-1].memory
        if _passes(took, limits.memory_warn, "memory" in raised):
            found["memory"] = f"takes {format_size(took)} of memory{_warns(limits.memory_warn)}"
        span = [one.cpu for one in measured.recent if one.at >= now - CPU_SPAN]
        covered = measured.recent[0].at <= now - CPU_SPAN * CALM
        busy = sum(span) / len(span) if span else 0.0
        if covered and _passes(busy, limits.cpu_warn, "cpu" in raised):
            found["cpu"] = f"takes {busy:.0f}% of a core for a minute, warn: {limits.cpu_warn:g}%"
    begin = now - limits.restarts_window
    often = [at for at in measured.restarts if at >= begin]
    # Whoever raised it may have counted what is not known here: it stays until that is out.
    stays = "restarts" in raised and measured.since > begin
    if limits.restarts_warn is not None and (stays or len(often) >= limits.restarts_warn):
        window = format_duration(limits.restarts_window)
        times = "once" if len(often) == 1 else f"{len(often)} times"
        found["restarts"] = f"was restarted {times} within {window}"
    if leak := growth(measured.trend):
        found["leak"] = f"its memory grows steadily, by {format_size(round(leak))} an hour"
    return found


def over_limit(limits: Limits, measured: Measured) -> str:
    """Why the instance must be ended, for people; empty when it need not."""
    if limits.memory_max is None or not measured.recent:
        return ""
    took = measured.recent[-1].memory
    if took <= limits.memory_max:
        return ""
    return f"takes {format_size(took)} of memory, at most {format_size(limits.memory_max)}"


def growth(trend: Sequence[Sample]) -> float | None:
    """Bytes an hour of a rise that never paused; None where it is no such rise.

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
    if not steady or rise < max(LEAK_BYTES, LEAK_SHARE * least[0]):
        return None
    return rise / (trend[-1].at - trend[0].at) * len(least) / len(steps) * 3600.0


def _passes(value: float, limit: float | None, raised: bool) -> bool:
    return limit is not None and value > limit * (CALM if raised else 1.0)


def _warns(limit: int | None) -> str:
    return f", warn: {format_size(limit)}" if limit is not None else ""
