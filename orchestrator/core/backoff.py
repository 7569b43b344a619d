"""How long to wait before the next start. Pure: history and a seed in, seconds out."""

from __future__ import annotations

from zlib import crc32

from orchestrator.core.spec import RestartPolicy

LONGEST_WAIT = 2.0
"""Seconds between two looks at what passes by itself, at most."""


def delay_before(streak: int, *, was_ready: bool, policy: RestartPolicy, seed: str) -> float:
    """Seconds until the next start after `streak` earlier failures in a row.

    What was ready and has no recent failure restarts at once. Otherwise the delay doubles from
    `policy.initial` to `policy.max`, and is shortened by up to a quarter (by `seed`, so that the
    same history gives the same delay) lest instances that fell together rise together.
    """
    if was_ready and streak == 0:
        return 0.0
    exponent = min(streak - 1 if was_ready else streak, 32)
    full = min(policy.initial * 2.0**exponent, policy.max)
    return full * (1.0 - 0.25 * (crc32(seed.encode()) / 2**32))


def within_window(
    failures: tuple[float, ...], *, now: float, policy: RestartPolicy
) -> tuple[float, ...]:
    """The failures that still count, never more than can matter."""
    recent = [at for at in failures if now - policy.window <= at <= now]
    return tuple(recent[-(policy.limit + 1) :])
