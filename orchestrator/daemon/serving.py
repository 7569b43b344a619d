"""What only serves people: the API, the look at files, housekeeping; loaded after first starts."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import os
import time
from typing import Any

import orchestrator
from orchestrator.control import second_look
from orchestrator.control.intents import Intents
from orchestrator.control.overview import Overview
from orchestrator.core.event import timestamp
from orchestrator.daemon.ending import Ending
from orchestrator.daemon.options import Options
from orchestrator.daemon.parts import Parts
from orchestrator.runtime.files import is_full
from orchestrator.runtime.watch import RECHECK, Watch

HOUSEKEEPING = 15.0
"""Seconds between two looks at the sizes of the logs."""


class Serving:
    """Serves from the first starts until it is cancelled."""

    def __init__(self, parts: Parts, options: Options, ending: Ending) -> None:
        self._parts = parts
        self._options = options
        self._ending = ending
        self._read_again = asyncio.Event()
        self._born = time.time()
        self._watch = Watch(lambda: parts.applied.paths, lambda: parts.applied.look_within)
        parts.applied.on_change = self._watch.look_again

    def read_again(self) -> None:
        """Somebody wants the applied files to be read, changed or not."""
        self._read_again.set()

    async def run(self) -> None:
        """Until cancelled; what fails here ends the daemon."""
        server = await asyncio.to_thread(importlib.import_module, "orchestrator.api.server")
        parts = self._parts
        sock = server.bind_unix(parts.settings.socket_path)
        async with server.serving(self._control(), sock):
            if self._options.on_listening is not None:
                self._options.on_listening()
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._watch_files(), name="watch files")
                    group.create_task(self._answer_read_again(), name="read again")
                    group.create_task(self._keep_house(), name="keep house")
                    group.create_task(parts.gauges.run(), name="gauges")
                    for look, name in second_look.looks(parts.bus, parts.reconciler, parts.applied):
                        group.create_task(look, name=name)
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(parts.settings.socket_path)

    def _control(self) -> Any:
        app = importlib.import_module("orchestrator.api.app")
        parts = self._parts
        return app.Control(
            bus=parts.bus,
            store=parts.store,
            logs=parts.logs,
            reconciler=parts.reconciler,
            applied=parts.applied,
            intents=Intents(parts.bus, parts.reconciler),
            overview=Overview(
                version=orchestrator.__version__,
                reconciler=parts.reconciler,
                applied=parts.applied,
                describe=self._describe,
                notes=self._notes,
            ),
            suspect=parts.executor.suspect,
            down=self._ending.down,
            leave=self._ending.leave,
        )

    def _describe(self) -> dict[str, Any]:
        return {"pid": os.getpid(), "since": timestamp(self._born)}

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
            await self._parts.applied.refresh(anew=True)

    async def _keep_house(self) -> None:
        while True:
            await asyncio.sleep(HOUSEKEEPING)
            for name in list(self._parts.reconciler.observed):
                with contextlib.suppress(OSError):
                    await asyncio.to_thread(self._parts.logs.rotate_large, name)


logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
