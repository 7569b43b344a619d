"""An applied set on real files, and what it posts; nothing that it declares is ever started."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from orchestrator.control.applied import Accepted, AppliedSet, Rejected
from orchestrator.control.bus import Bus, NewDesired
from orchestrator.control.reconciler import Reconciler
from orchestrator.control.resolution import Machine
from orchestrator.control.toolchain import Toolchain
from orchestrator.core.event import Event, EventType
from orchestrator.core.spec import Built, Desired
from orchestrator.runtime.state import AppliedSource, Store

PATIENCE = 20.0


class Story:
    """An applied set, its folder of profiles, and what it posts."""

    def __init__(self, folder: Path, model: Path, toolchain: tuple[Toolchain, str]) -> None:
        self.folder = folder / "profiles"
        self.folder.mkdir()
        self._state = folder
        self._model = model
        self._toolchain, self._binary = toolchain
        self.taken: set[int] = set()
        self.begin()

    def begin(self) -> None:
        """What a daemon does when it starts."""
        self.store = Store.open(str(self._state / "state.db"))
        self.bus = Bus(last_id=self.store.last_event_id())
        self.reconciler = Reconciler(bus=self.bus, store=self.store, observed={})
        self.set = AppliedSet(
            bus=self.bus, store=self.store, reconciler=self.reconciler, machine=self._machine
        )
        self.desired: Desired = {}
        self.events: list[Event] = []

    def _machine(self) -> Machine:
        return Machine(
            toolchain=self._toolchain,
            cache_dir=str(self._state / "cache"),
            run_dir="/",
            held_ports=self.store.ports(),
            taken_ports=frozenset(self.taken),
            ephemeral=(32768, 60999),
        )

    def path(self, name: str) -> Path:
        return self.folder / f"{name}.yaml"

    def write(self, stem: str, instances: Mapping[str, Any] | str, **more: Any) -> Path:
        """A profile: instances by name, or text as it is."""
        if isinstance(instances, str):
            text = instances
        else:
            whole = {
                key: {"model": str(self._model), **(value or {})}
                for key, value in instances.items()
            }
            text = yaml.safe_dump({**more, "instances": whole}, sort_keys=False)
        self.path(stem).write_text(text)
        return self.path(stem)

    async def apply(self, *paths: Path, add: bool = False, **env: str) -> Accepted | Rejected:
        shell = {"ORCHESTRATE_LLAMA_SERVER": self._binary, "PATH": os.environ["PATH"], **env}
        sources = [AppliedSource(str(path), path.is_dir(), shell, "/") for path in paths]
        outcome = await self.set.apply(sources, add=add)
        self.look()
        return outcome

    async def accepted(self, *paths: Path, add: bool = False) -> Accepted:
        outcome = await self.apply(*paths, add=add)
        assert isinstance(outcome, Accepted), outcome
        return outcome

    async def refresh(self) -> list[NewDesired]:
        await self.set.refresh()
        return self.look()

    def look(self) -> list[NewDesired]:
        """Take in what was posted."""
        news: list[NewDesired] = []
        for item in self.bus.drain():
            if isinstance(item, NewDesired):
                news.append(item)
                self.desired = item.desired
                self.events += [item.event] if item.event is not None else []
            else:
                self.events.append(item)
        return news

    def said(self, kind: EventType) -> list[str]:
        return [event.message for event in self.events if event.type is kind]

    def errors(self) -> dict[str, list[str]]:
        """Messages by file, of those that are not in force as they are."""
        return {
            Path(report.file).stem: [error["message"] for error in report.errors]
            for report in self.set.reports()
            if not report.ok
        }

    def ctx(self, name: str) -> str:
        argv = self.desired[name].command.argv
        return argv[argv.index("--ctx-size") + 1]

    def ports(self) -> dict[str, int]:
        return {name: spec.endpoint.port for name, spec in self.desired.items()}


def run(story: Story, steps: Callable[[], Awaitable[None]]) -> None:
    async def all_of_it() -> None:
        try:
            await steps()
        finally:
            story.store.close()

    asyncio.run(all_of_it())


def ctx(size: int, **more: Any) -> dict[str, Any]:
    return {"flags": {"ctx-size": size}, **more}


def built(story: Story) -> str:
    holds = story.desired["o"].holds
    assert holds is not None
    origin = holds.models[0].origin
    assert isinstance(origin, Built)
    return origin.text
