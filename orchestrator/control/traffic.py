"""What the gateway is told and what it tells: the table out, what is under way in.

The gateway is a process of its own, so what is known of it here is what it said last, and of which
table. A later daemon begins with nothing, and hears as soon as the gateway has its table.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any
from uuid import uuid4

from msgspec.structs import asdict

from orchestrator.control.bus import Bus
from orchestrator.control.fallbacks import Fallbacks
from orchestrator.control.reconciler import Reconciler
from orchestrator.core import served
from orchestrator.core.figures import Figures, NameFigures
from orchestrator.core.gateway_spec import GATEWAY
from orchestrator.core.on_demand import InUse, Use
from orchestrator.core.status import Phase


class Traffic:
    """One for the daemon."""

    def __init__(self, bus: Bus, reconciler: Reconciler) -> None:
        self._bus = bus
        self._reconciler = reconciler
        self._me = uuid4().hex[:8]
        self._number = 0
        self._body: dict[str, Any] = {}
        self._followers = 0
        self._figures = Figures()
        self._told = asyncio.Event()
        self._fallbacks = Fallbacks(bus, reconciler)
        self.on_figures: Callable[[], None] = _nothing
        """Called whenever the gateway has told."""

    @property
    def figures(self) -> Figures | None:
        """What the gateway said last of what it does; None while none is connected."""
        return self._figures if self._followers else None

    def by_instance(self) -> dict[str, dict[str, Any]]:
        """What goes through the gateway to each instance, as JSON has it; the gateway's own is all
        of it."""
        if not self._followers:
            return {}
        rows = {name: one.row() for name, one in self._figures.instances.items()}
        return {**rows, GATEWAY: self._figures.whole.row()}

    def names(self) -> list[dict[str, Any]]:
        """The names that clients may ask for: who serves each, and how often it was asked for."""
        said = self._figures.names
        return [
            {**row, **asdict(said.get(row["name"], NameFigures()))}
            for row in served.names_shown(self.table())
        ]

    def use(self) -> InUse | None:
        """Who is at work, and when each was used last; None while the gateway has told nothing to
        this daemon yet."""
        if not self._followers or self._figures.daemon != self._me:
            return None
        return {
            name: Use(one.used_at or 0.0, bool(one.in_flight or one.waiting))
            for name, one in self._figures.instances.items()
        }

    def table(self) -> dict[str, Any]:
        """What the gateway is to know now; `number` rises with every change."""
        reconciler = self._reconciler
        body = served.table(reconciler.desired or {}, reconciler.observed, reconciler.plan)
        if body != self._body:
            self._body, self._number = body, self._number + 1
        return {"daemon": self._me, "number": self._number, **self._body}

    async def tables(self) -> AsyncGenerator[dict[str, Any]]:
        """The table, then each that is another; for the one gateway that there is."""
        with self._bus.listening() as subscription:
            self._followers += 1
            try:
                sent = -1
                while not (subscription.lost or self._bus.over):
                    table = self.table()
                    if table["number"] != sent and self._reconciler.desired is not None:
                        sent = table["number"]
                        yield table
                    await subscription.next()
            finally:
                self._followers -= 1
                if not self._followers:
                    self._figures = Figures()
                self._told.set()

    def take(self, figures: Figures) -> None:
        """The gateway tells."""
        self._figures = figures
        self._told.set()
        self._fallbacks.take(figures)
        self.on_figures()

    async def drained(self, start_id: str, *, within: float) -> None:
        """Until the gateway sends no more to this run of an instance, and has all that it asked.

        Returns after `within` seconds at the latest, and at once where no gateway is: one that
        runs, and has not said anything yet, is about to find this daemon.
        """
        try:
            async with asyncio.timeout(within):
                number = self.table()["number"]
                while self._is_busy(start_id, number):
                    self._told.clear()
                    await self._told.wait()
        except TimeoutError:
            return

    def _is_busy(self, start_id: str, number: int) -> bool:
        if not self._followers:
            gateway = self._reconciler.observed.get(GATEWAY)
            return gateway is not None and gateway.phase is Phase.READY
        said = self._figures
        knows = said.daemon == self._me and said.number >= number
        return not knows or said.runs.get(start_id, 0) > 0


def _nothing() -> None:
    """Nobody wants to know."""
