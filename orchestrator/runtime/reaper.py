"""As the first process of a container: whom nobody waits for becomes ours, and is reaped here.

A process whose parent has ended is given to the first process of its PID namespace. Were it never
waited for, it would stay in the process table for as long as the container lives. But a blanket
wait would also take away the exit codes of our own children from whoever started them: so it is
looked first (`WNOWAIT`), and only reaped what is surely not our own.

- What is in a session that is led by somebody else was begun by somebody else.
- What leads its session may be an instance of ours, and what is in our own session a program that
  we run for a moment. Both are waited for at once, by a pidfd or in a thread. Who is still there
  after `PATIENCE` has nobody who waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Iterator

from orchestrator.runtime.identity import ProcStat, all_stats

PATIENCE = 5.0
"""Seconds after which a dead child whose parent might be us is taken for a stranger's."""


def is_first() -> bool:
    """True when the kernel gives us the children of others: as process 1."""
    return os.getpid() == 1


async def reap() -> None:
    """Reap the orphans that were given to us, as they end; until cancelled."""
    loop = asyncio.get_running_loop()
    somebody_died = asyncio.Event()
    loop.add_signal_handler(signal.SIGCHLD, somebody_died.set)
    doubtful: dict[tuple[int, int], float] = {}
    try:
        while True:
            doubtful = reap_strangers(doubtful, time.monotonic())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE if doubtful else None):
                    await somebody_died.wait()
            somebody_died.clear()
    finally:
        loop.remove_signal_handler(signal.SIGCHLD)


def reap_strangers(
    doubtful: dict[tuple[int, int], float], now: float
) -> dict[tuple[int, int], float]:
    """Reap what is surely nobody's. Those that may be ours, with when they were first seen dead.

    `doubtful` is what the last look gave back; a process is known by pid and start ticks.
    """
    found: dict[tuple[int, int], float] = {}
    for one in _dead_children():
        key = (one.pid, one.start_ticks)
        since = doubtful.get(key, now)
        if _is_a_strangers(one) or now - since >= PATIENCE:
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PID, one.pid, os.WEXITED | os.WNOHANG)
        else:
            found[key] = since
    return found


def _is_a_strangers(one: ProcStat) -> bool:
    return one.session not in (one.pid, os.getsid(0))


def _dead_children() -> Iterator[ProcStat]:
    """Those who wait to be waited for. Looking at the process table is spared if nobody does."""
    try:
        someone = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return
    if someone is None:
        return
    us = os.getpid()
    yield from (one for one in all_stats() if one.parent == us and not one.living)
