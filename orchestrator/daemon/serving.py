"""What only serves people: the API, the look at files, housekeeping; loaded after first starts."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import os
import time
from collections.abc import Iterable
from typing import Any

import orchestrator
from orchestrator.control import second_look
from orchestrator.control.foresight import foresee
from orchestrator.control.history import History
from orchestrator.control.intents import Intents
from orchestrator.control.overview import Overview
from orchestrator.control.profile_files import ProfileFiles
from orchestrator.core.event import timestamp
from orchestrator.daemon.announcing import Announcing
from orchestrator.daemon.ending import Ending
from orchestrator.daemon.options import Options
from orchestrator.daemon.parts import Parts
from orchestrator.runtime.beat import until_beat
from orchestrator.runtime.files import is_full
from orchestrator.runtime.watch import RECHECK, Watch
from orchestrator.settings import captured

AFTER_FIRST_STARTS = (
    "orchestrator.api.server",
    "orchestrator.control.ollama_token",
    "orchestrator.control.provisioner",
)
"""Loaded now at the latest, though some of it may never be used: what is loaded later could be that
of another version, installed in the meantime."""

HOUSEKEEPING = 15.0
"""Seconds between two looks at the sizes of the logs."""


class Serving:
    """Serves from the first starts until it is cancelled.

    `read_again` is set when somebody wants the applied files to be read, changed or not.
    """

    def __init__(
        self,
        parts: Parts,
        options: Options,
        ending: Ending,
        announcing: Announcing,
        read_again: asyncio.Event,
    ) -> None:
        self._parts = parts
        self._options = options
        self._ending = ending
        self._announcing = announcing
        self._read_again = read_again
        self._doors: Any = None
        self._history = History(parts.bus, parts.reconciler, parts.traffic)
        self._born = time.time()
        self._watch = Watch(lambda: parts.applied.paths, lambda: parts.applied.look_within)
        parts.applied.on_change = self._watch.look_again

    async def run(self) -> None:
        """Until cancelled; what fails here ends the daemon."""
        server, *_ = await asyncio.to_thread(_load, AFTER_FIRST_STARTS)
        parts = self._parts
        sock = server.bind_unix(parts.settings.socket_path)
        hosts = parts.settings.hosts
        async with server.serving(self._control(), sock, parts.tcp, hosts) as self._doors:
            if self._options.on_listening is not None:
                self._options.on_listening()
            self._announcing.serves()
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._watch_files(), name="watch files")
                    group.create_task(self._answer_read_again(), name="read again")
                    group.create_task(self._keep_house(), name="keep house")
                    group.create_task(parts.gauges.run(), name="gauges")
                    group.create_task(parts.idling.run(), name="idling")
                    group.create_task(self._history.run(), name="history")
                    for look, name in second_look.looks(parts.bus, parts.reconciler, parts.applied):
                        group.create_task(look, name=name)
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(parts.settings.socket_path)

    def _control(self) -> Any:
        reach = importlib.import_module("orchestrator.api.reach")
        parts, settings = self._parts, self._parts.settings
        return reach.Control(
            bus=parts.bus,
            store=parts.store,
            logs=parts.logs,
            reconciler=parts.reconciler,
            applied=parts.applied,
            profiles=ProfileFiles(parts.applied, settings.profiles_dir, _own_shell),
            history=self._history,
            toolchain=parts.toolchain,
            traffic=parts.traffic,
            budget=parts.budget.now,
            cache_dir=settings.cache_dir,
            token=lambda: parts.token,
            intents=Intents(parts.bus, parts.reconciler, foresee),
            overview=Overview(
                version=orchestrator.__version__,
                reconciler=parts.reconciler,
                applied=parts.applied,
                traffic=parts.traffic,
                describe=self._describe,
                notes=self._notes,
            ),
            suspect=parts.executor.suspect,
            down=self._ending.down,
            leave=self._ending.leave,
        )

    def _describe(self) -> dict[str, Any]:
        listens = self._doors.url if self._doors is not None else None
        return {"pid": os.getpid(), "since": timestamp(self._born), "listen": listens}

    def _notes(self) -> list[str]:
        """What is wrong with the machine now, as far as it is ours to see."""
        notes: list[str] = []
        if is_full(where := self._parts.settings.logs_dir):
            what = "instances go on, their output is lost"
            notes.append(f"the disk of the logs is full ({where}): {what}")
        if self._watch.lack:
            notes.append(f"edits are seen every {RECHECK:.0f} s only: {self._watch.lack}")
        return notes

    async def _watch_files(self) -> None:
        # What was edited while no daemon looked.
        await self._parts.applied.refresh()
        async for _ in self._watch.changes():
            await self._parts.applied.refresh()

    async def _answer_read_again(self) -> None:
        while True:
            await self._read_again.wait()
            self._read_again.clear()
            async with self._announcing.reloading():
                await self._parts.applied.refresh(anew=True)

    async def _keep_house(self) -> None:
        while True:
            await asyncio.sleep(until_beat(HOUSEKEEPING))
            await asyncio.to_thread(self._rotate, list(self._parts.reconciler.observed))

    def _rotate(self, names: list[str]) -> None:
        for name in names:
            with contextlib.suppress(OSError):
                self._parts.logs.rotate_large(name)


def _own_shell(names: Iterable[str]) -> dict[str, str]:
    """What the daemon's own environment gives a profile that nobody has applied from a shell."""
    return captured(os.environ, names)


def _load(names: Iterable[str]) -> list[Any]:
    return [importlib.import_module(name) for name in names]


logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
