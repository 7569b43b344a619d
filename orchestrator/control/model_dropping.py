"""Lets go of models that are not declared any more: out of memory, and by word out of the store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping

from orchestrator.control.model_memory import Memory
from orchestrator.control.model_work import Bench
from orchestrator.core.provision import Tag, same_name
from orchestrator.core.spec import ModelSet
from orchestrator.runtime.ollama_server import OllamaError, OllamaUnreachableError

AGAIN = 1.0
"""Seconds after which a server that did not do it is asked again."""


class Dropping:
    """One task for one model. `nudge` is called when one has ended."""

    def __init__(
        self,
        bench: Bench,
        memory: Memory,
        *,
        nudge: Callable[[], None],
        bug: Callable[[str], None],
    ) -> None:
        self._bench = bench
        self._memory = memory
        self._nudge = nudge
        self._bug = bug
        self._tasks: dict[str, asyncio.Task[None]] = {}

    @property
    def busy(self) -> bool:
        return bool(self._tasks)

    async def end(self) -> None:
        """Cancel all."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def begin(self, names: Iterable[str], holds: ModelSet, tags: Mapping[str, Tag]) -> None:
        """Let go of these; `holds` is what is declared now."""
        for name in names:
            if name not in self._tasks:
                work = self._drop(name, holds, tags)
                self._tasks[name] = asyncio.create_task(work, name=f"drop {name}")

    async def _drop(self, name: str, holds: ModelSet, tags: Mapping[str, Tag]) -> None:
        try:
            words = await self._let_go(name, holds, tags)
            self._bench.board.gone(name, words)
        except (OllamaError, OllamaUnreachableError):
            await asyncio.sleep(AGAIN)
        except Exception as error:  # noqa: BLE001 - a task boundary: the bug becomes an event
            self._bug(f"drop {name}: {error!r}")
            await asyncio.sleep(AGAIN)
        finally:
            del self._tasks[name]
            self._nudge()

    async def _let_go(self, name: str, holds: ModelSet, tags: Mapping[str, Tag]) -> str:
        bench = self._bench
        tag = tags.get(same_name(name))
        if tag is None:
            return "is not declared any more"
        blob = await self._memory.blob(name, tag.digest)
        others = [
            await self._memory.blob(model.name, tags[same_name(model.name)].digest)
            for model in holds.models
            if same_name(model.name) in tags
        ]
        if blob not in others:
            # Asked of a model that is not in memory, it does nothing.
            await bench.server.unload(name)
        if not holds.prune or bench.store is None:
            return "is not declared any more"
        if bench.workshop.wanted_elsewhere(bench.store, name):
            return "is not declared any more; it is kept for another instance with this store"
        await bench.server.delete(name)
        return "deleted, as it is not declared any more"
