"""A real Ollama whose models a provisioner keeps, and the status that comes of it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from orchestrator.control.bus import Bus
from orchestrator.control.provisioner import Provisioner
from orchestrator.control.served import Served
from orchestrator.control.workshop import Workshop
from orchestrator.core.event import Event, EventType
from orchestrator.core.fold import fold
from orchestrator.core.spec import (
    Built,
    Command,
    Endpoint,
    Imported,
    InputFile,
    InstanceSpec,
    ModelSet,
    ModelSpec,
)
from orchestrator.core.status import InstanceStatus, ModelStatus, Phase
from orchestrator.runtime.files import identity_of
from tests.ollama_world import Server
from tests.world import PATIENCE


class Kept:
    """A server whose models are kept by a provisioner, with the status that comes of its events."""

    def __init__(self, server: Server, workshop: Workshop, *, managed: bool = True) -> None:
        self.port = server.port
        self.workshop = workshop
        self.bus = Bus()
        command = Command((), {}, "/")
        holds = ModelSet(store=str(server.store))
        endpoint = Endpoint("127.0.0.1", server.port)
        self.spec = InstanceSpec("o", "ollama", command, endpoint, holds=holds)
        self.observed = {
            "o": InstanceStatus("o", Phase.READY, self.spec, start_id="s1", ready_at=1.0)
        }
        self.events: list[Event] = []
        served = Served(
            "o",
            "s1",
            lambda: self.observed["o"].spec,
            managed=managed,
            rows=lambda: self.observed["o"].models,
            pid=lambda: server.pid,
        )
        served.ready.set()
        self.provisioner = Provisioner(served, bus=self.bus, workshop=workshop)

    def declare(self, *models: ModelSpec, **more: Any) -> None:
        """An edit of the profile: recorded first, then the provisioner is woken."""
        assert self.spec.holds is not None
        holds = replace(self.spec.holds, models=models, **more)
        self.spec = replace(self.spec, holds=holds)
        self._fold(self.bus.stamp(Event(EventType.UPDATED, "o", spec=self.spec)))
        self.provisioner.wake()

    def ask_again(self) -> None:
        """What the verb `apply` does for models that failed."""
        for kind, spec in ((EventType.RELEASED, None), (EventType.UPDATED, self.spec)):
            self._fold(self.bus.stamp(Event(kind, "o", spec=spec)))
        self.provisioner.wake()

    def row(self, name: str) -> ModelStatus:
        """What the status says of a model."""
        return next(
            (row for row in self.observed["o"].models if row.name == name), ModelStatus(name)
        )

    def rows(self) -> tuple[ModelStatus, ...]:
        """What the status says of all models."""
        return self.observed["o"].models

    def told(self, name: str) -> list[str]:
        """The timeline of a model, by reasons."""
        return [
            event.reason
            for event in self.events
            if event.type is EventType.MODEL and event.data["model"]["name"] == name
        ]

    def words(self, name: str, reason: str) -> str:
        """What the timeline says of a model, for that reason at last."""
        return [
            event.message
            for event in self.events
            if event.reason == reason and event.data["model"]["name"] == name
        ][-1]

    async def until(self, what: Callable[[], Any]) -> None:
        """Fold what comes until it is so."""
        try:
            async with asyncio.timeout(PATIENCE):
                while True:
                    self.take_in()
                    if what():
                        return
                    with suppress(TimeoutError):
                        async with asyncio.timeout(0.1):
                            await self.bus.posted()
        except TimeoutError:
            seen = [(e.type.value, e.reason, e.message) for e in self.events]
            raise AssertionError(f"never came: {self.observed['o'].models}\n{seen}") from None

    async def until_row(self, name: str, **wanted: Any) -> ModelStatus:
        await self.until(lambda: all(getattr(self.row(name), k) == v for k, v in wanted.items()))
        return self.row(name)

    def take_in(self) -> None:
        for event in self.bus.drain():
            assert isinstance(event, Event)
            assert event.type is not EventType.BUG, event.message
            self.events.append(event)
            self._fold(event)

    def _fold(self, event: Event) -> None:
        self.observed = fold(self.observed, event)


@asynccontextmanager
async def keeping(
    server: Server, folder: Path, *, managed: bool = True, workshop: Workshop | None = None
) -> AsyncGenerator[Kept]:
    kept = Kept(server, workshop or Workshop(str(folder / "cache"), lambda: {}), managed=managed)
    task = asyncio.create_task(kept.provisioner.keep())
    try:
        yield kept
        kept.take_in()
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def play(scene: Coroutine[Any, Any, None]) -> None:
    asyncio.run(scene)


def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def imported(name: str, path: Path, **more: Any) -> ModelSpec:
    return ModelSpec(
        name, Imported((InputFile("model", str(path), identity_of(str(path))),)), **more
    )


def built(name: str, folder: Path, text: str, **more: Any) -> ModelSpec:
    return ModelSpec(name, Built(str(folder / "Modelfile"), text), **more)


def runners(server: Server) -> dict[int, str]:
    """The processes that the server has its models in, by pid."""
    found: dict[int, str] = {}
    for task in Path(f"/proc/{server.pid}/task").iterdir():
        for pid in (task / "children").read_text().split():
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            if b"sha256-" in command:
                found[int(pid)] = command.decode().replace("\0", " ")
    return found
