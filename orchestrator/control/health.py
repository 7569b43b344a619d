"""Asks the health path of an instance that was ready, and says how it is.

One whose every connection is taken by requests that it works on gives no answer either: what it
computes meanwhile tells it from one that hangs.
"""

from __future__ import annotations

import asyncio
import time

from msgspec import Struct

from orchestrator.control.signs import Signs, signs_of, worked
from orchestrator.core.liveness import LOADS, Outcome, Verdict, judge
from orchestrator.core.spec import InstanceSpec
from orchestrator.runtime.probe import HttpProbe

HEALTHY = frozenset({200, 401})
"""A server that asks for its key is up: while it loads, it says 503 to everybody."""


class Silence(Struct):
    """How long one run has given no answer: since its first question that got none."""

    since: float | None = None
    """On the monotonic clock; None after an answer."""


async def health(probe: HttpProbe, spec: InstanceSpec, pid: int, silence: Silence) -> Verdict:
    """How it is; nothing is left open. Takes at most `liveness.timeout`, and a look at `pid`.

    One that computes may be silent for `readiness.deadline`: threads that spin compute, too.
    """
    within = spec.liveness.timeout
    began = time.monotonic()
    looks: list[asyncio.Task[Signs]] = []
    half = asyncio.get_running_loop().call_later(
        within / 2, lambda: looks.append(asyncio.create_task(signs_of(pid)))
    )
    try:
        status = await probe.status(within=within)
        before = await looks[0] if looks else None
    finally:
        half.cancel()
        for look in looks:
            look.cancel()
        await probe.close()
    silence.since = None if status is not None else silence.since or began
    if status in HEALTHY:
        return Verdict("healthy", "")
    now = time.monotonic()
    if status is not None:
        # One that loads, again, is no use to anybody, but does not hang.
        return Verdict("down", f"answers {status}", counts=status != LOADS)
    if before is None:
        return Verdict("down", "takes no connection, or breaks it off", counts=True)
    busy = worked(before, await signs_of(pid))
    silent = now - (silence.since or began)
    if busy and silent >= spec.readiness.deadline:
        return Verdict("down", f"no answer for {silent:.0f} s, {busy}", counts=True)
    return judge(Outcome(now - began, None, "its health", busy=busy), slow=within)
