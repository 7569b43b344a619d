"""What each instance took over the last minutes, for small charts: bytes and percent of a core;
and what went through the gateway.

One reading of the process table every ten seconds, and none while nothing runs: cheap enough to go
on whether somebody looks or not, so that whoever comes sees what was before.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Any

from orchestrator.control.bus import Bus
from orchestrator.control.guard import going_on
from orchestrator.control.overview import processes
from orchestrator.control.reconciler import Reconciler
from orchestrator.control.traffic import Traffic
from orchestrator.core.report import Usage
from orchestrator.core.successor import is_aside
from orchestrator.runtime.beat import until_beat
from orchestrator.runtime.usage import UsageMeter

EVERY = 10.0
"""Seconds between two samples."""

KEPT = 60
"""Samples kept: ten minutes."""

TRAFFIC = ("tokens_s", "first_token_s", "requests_s")
"""What is kept of what goes through the gateway: by instance, and of all under its own name."""

Rows = dict[str, dict[str, Any]]


class History:
    """One task, for as long as the daemon lives. Its meter is its own: percent of a core are over
    the whole time between two samples, whoever else looks meanwhile."""

    def __init__(self, bus: Bus, reconciler: Reconciler, traffic: Traffic) -> None:
        self._bus = bus
        self._reconciler = reconciler
        self._traffic = traffic
        self._meter = UsageMeter()
        self._samples: deque[tuple[float, dict[str, Usage], Rows]] = deque(maxlen=KEPT)

    async def run(self) -> None:
        await going_on(self._rounds, "history", self._bus)

    async def _rounds(self) -> None:
        while True:
            self.sample(time.time())
            await asyncio.sleep(until_beat(EVERY))

    def sample(self, now: float) -> None:
        """Take one. `now` is wall time: a chart shows it to people."""
        ours, theirs = processes(self._reconciler.observed.values())
        usage = self._meter.read(ours, theirs) if ours or theirs else {}
        taken = {name: took for name, took in usage.items() if not is_aside(name)}
        self._samples.append((now, taken, self._traffic.by_instance()))

    def document(self) -> dict[str, Any]:
        """As the API shows it: a list of instants, and as many values, None where unknown."""
        names = dict.fromkeys(name for _, usage, _ in self._samples for name in usage)
        return {
            "every_s": EVERY,
            "at": [round(at, 3) for at, _, _ in self._samples],
            "instances": {name: self._of(name) for name in names},
        }

    def _of(self, name: str) -> dict[str, list[float | None]]:
        rows = [usage.get(name) for _, usage, _ in self._samples]
        taken: dict[str, list[float | None]] = {
            "memory_bytes": [row and row.memory_bytes for row in rows],
            "cpu_percent": [row and round(row.cpu_percent, 1) for row in rows],
        }
        said = [requests.get(name, {}) for _, _, requests in self._samples]
        for key in TRAFFIC:
            if any(key in row for row in said):
                taken[key] = [row.get(key) for row in said]
        return taken
