"""`GET /metrics`: what is, and what was counted, for Prometheus.

The status document and the counts are taken in one go; they are written in small parts with room
for others in between, so that a scrape holds nothing up. Prometheus's client is loaded by the first
scrape: a daemon that nobody scrapes does without.

Whether engines are asked too is the scraper's to say (`?relay=1`), for it pays: a scrape then takes
as long as the slowest of them, and its series are as many as theirs.
"""

from __future__ import annotations

import asyncio
import importlib
import time
from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from orchestrator.api.relay import Relayed, relayed
from orchestrator.control.reconciler import Reconciler
from orchestrator.control.traffic import Traffic
from orchestrator.core.admission import BudgetNow
from orchestrator.runtime.identity import boot_clock

OFF = ("", "0", "false")


class Metrics:
    """The endpoint. `document` is the status as everybody is shown it."""

    def __init__(
        self,
        *,
        document: Callable[[], dict[str, Any]],
        reconciler: Reconciler,
        traffic: Traffic,
        budget: BudgetNow,
    ) -> None:
        self._document = document
        self._reconciler = reconciler
        self._traffic = traffic
        self._budget = budget
        self._boot_time = time.time() - boot_clock()
        self._families: Any = None

    async def answer(self, request: Request) -> Response:
        """One scrape."""
        asks = request.query_params.get("relay", "") not in OFF
        said = await relayed(self._reconciler.observed) if asks else Relayed()
        families = await self._loaded()
        sheet = families.Sheet()
        for _ in families.filled(sheet, self._now(families)):
            await asyncio.sleep(0)
        sheet.put_relayed(said)
        parts, content_type = families.written(sheet.metrics(), request.headers.get("accept", ""))
        body = bytearray()
        for part in parts:
            body += part
            await asyncio.sleep(0)
        return Response(bytes(body), headers={"content-type": content_type})

    async def _loaded(self) -> Any:
        if self._families is None:
            name = "orchestrator.api.families"
            self._families = await asyncio.to_thread(importlib.import_module, name)
        return self._families

    def _now(self, families: Any) -> Any:
        reconciler = self._reconciler
        return families.Moment(
            document=self._document(),
            observed=reconciler.observed,
            tally=reconciler.tally,
            budget=self._budget({}),
            saved=not reconciler.store_error,
            boot_time=self._boot_time,
            figures=self._traffic.figures,
        )
