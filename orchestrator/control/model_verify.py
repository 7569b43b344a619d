"""Looks at the files of the models of one server now and then, and has mended what is damaged.

It looks at names and sizes, which costs a `stat` for each blob; a content that has changed without
them is for `models verify` to find. Only where the store's folder is known, so never for a server
that was attached to.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Sequence

from orchestrator.control.model_making import Making
from orchestrator.control.model_work import Bench
from orchestrator.core.refusal import Refusal
from orchestrator.core.status import ModelState
from orchestrator.discovery.verify import Fault, quick_check
from orchestrator.runtime.ollama_server import OllamaError, OllamaUnreachableError


class Verifying:
    """One look at a time. `nudge` is called when there is something to mend."""

    def __init__(
        self,
        bench: Bench,
        making: Making,
        *,
        nudge: Callable[[], None],
        bug: Callable[[str], None],
    ) -> None:
        self._bench = bench
        self._making = making
        self._nudge = nudge
        self._bug = bug
        self._last = time.monotonic()
        self._task: asyncio.Task[None] | None = None

    async def end(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def begin(self, names: Sequence[str], interval: float | None) -> float | None:
        """Look if it is time to; seconds until it is."""
        if interval is None or self._bench.store is None or not names:
            return None
        if self._task is not None and not self._task.done():
            return None
        left = self._last + interval - time.monotonic()
        if left > 0:
            return left
        self._task = asyncio.create_task(self._guarded(names), name="verify models")
        return interval

    async def _guarded(self, names: Sequence[str]) -> None:
        try:
            await self._look(names)
        except (OllamaError, OllamaUnreachableError):
            # What could not be removed is found again the next time.
            pass
        except Exception as error:  # noqa: BLE001 - a task boundary: the bug becomes an event
            self._bug(f"verify: {error!r}")
        finally:
            self._last = time.monotonic()

    async def _look(self, names: Sequence[str]) -> None:
        store = self._bench.store
        assert store is not None, "only a store that is known is looked at"
        faults: dict[str, Fault] = {}
        for name in names:
            fault = await asyncio.to_thread(quick_check, store, name)
            if fault is not None and fault.reason != "unreadable" and not self._making.busy(name):
                faults[name] = fault
        for name, fault in faults.items():
            words = f"{fault.path} {fault.message}"
            self._making.broken.add(name)
            missing = ModelState.MISSING
            self._bench.board.say(
                name, "corrupt", words, state=missing, reason="corrupt", message=words
            )
        damaged = {name: fault for name, fault in faults.items() if fault.reason == "corrupt"}
        for name in damaged:
            # A blob is only fetched again when it is gone, and it goes with its last model.
            await self._bench.server.delete(name)
        for name, fault in damaged.items():
            if os.path.exists(fault.path):
                message = f"{fault.path} {fault.message}, and other models use it"
                meaning = Refusal("corrupt", "never", "`orchestrate models verify` names them")
                self._making.fail(name, message, meaning)
        if faults:
            self._nudge()
