"""Signs of life: what a server that does not answer shows of its work, at two moments."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from msgspec import Struct

from orchestrator.runtime.effort import Effort, effort_of

BUSY_CORES = 0.5
BUSY_BYTES = 1 << 20
"""A server works when, each second, it computes, or reads from disk, at least so much."""


class Signs(Struct, frozen=True):
    """At one moment. `slots` tells how far each request is; empty where nothing is to be seen."""

    at: float
    effort: Effort | None
    slots: tuple[tuple[Any, ...], ...] = ()


async def signs_of(pid: int | None) -> Signs:
    """What a server and its children have done so far; nothing where its pid is not visible."""
    at = time.monotonic()
    # In a thread: it walks the whole process table.
    return Signs(at, await asyncio.to_thread(effort_of, pid) if pid is not None else None)


def worked(before: Signs, after: Signs) -> str:
    """How it shows that the server worked between two moments; empty when nothing does."""
    if before.slots and after.slots and before.slots != after.slots:
        return "every slot is generating"
    span = after.at - before.at
    if before.effort is None or after.effort is None or span <= 0:
        return ""
    cores = (after.effort.cpu - before.effort.cpu) / span
    if cores >= BUSY_CORES:
        return f"and {cores:.1f} cores computing"
    if (after.effort.read - before.effort.read) / span >= BUSY_BYTES:
        return "and reading its model from disk"
    return ""
