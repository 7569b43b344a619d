"""Brings the models of one running Ollama instance to what is declared, and keeps them so.

One `Provisioner` for one run of one instance. It compares whole levels: what its spec declares
now, and what the server says that it has. It posts what it sees and does as `model` events.
"""

from __future__ import annotations

from collections.abc import Collection

from orchestrator.control.bus import Bus
from orchestrator.control.model_board import Board
from orchestrator.control.model_upkeep import Calls, Upkeep
from orchestrator.control.model_work import Bench
from orchestrator.control.served import Served
from orchestrator.control.workshop import Workshop
from orchestrator.core.event import Event, EventType
from orchestrator.core.spec import ModelSet
from orchestrator.runtime.ollama_server import OllamaServer
from orchestrator.runtime.runners import Runners


class Provisioner:
    """Owns the work on one server's models: at most one thing at a time for one model."""

    def __init__(self, served: Served, *, bus: Bus, workshop: Workshop) -> None:
        self._served = served
        self._bus = bus
        self._workshop = workshop
        self._calls = Calls()

    def wake(self) -> None:
        """Something else is declared, or somebody asked for another try."""
        self._calls.asked = True
        self._calls.nudge()

    def suspect(self, paths: Collection[str]) -> bool:
        """Read these files, if they are in the store of this server: somebody has found them
        damaged. False when they are not, or cannot be looked at from here."""
        store = self._holds().store if self._served.managed else ""
        mine = {path for path in paths if store and path.startswith(f"{store}/")}
        self._calls.suspected |= mine
        if mine:
            self._calls.nudge()
        return bool(mine)

    async def keep(self) -> None:
        """Until cancelled, which ends what is under way on the server, too."""
        # A server for which no models are declared costs nothing.
        while not self._holds().models and not self._served.rows():
            await self._calls.wait(None)
        await self._served.ready.wait()
        server = OllamaServer(self._served.spec().endpoint)
        runners = Runners(self._served.pid, self._calls.nudge)
        try:
            await Upkeep(
                self._bench(server),
                holds=self._holds,
                rows=self._served.rows,
                runners=runners,
                calls=self._calls,
                bug=self._bug,
            ).keep()
        finally:
            runners.close()
            await server.close()

    def _holds(self) -> ModelSet:
        return self._served.spec().holds or ModelSet()

    def _bench(self, server: OllamaServer) -> Bench:
        store = self._holds().store if self._served.managed else ""
        return Bench(
            server=server,
            workshop=self._workshop,
            board=Board(self._served.name, self._served.start_id, self._bus),
            key=store or self._served.spec().endpoint.url,
            store=store or None,
        )

    def _bug(self, message: str) -> None:
        self._bus.post(Event(EventType.BUG, self._served.name, message=message))
