"""Lets go of models that are not declared any more: out of memory, and by word out of the store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping

from orchestrator.control.model_memory import Memory
from orchestrator.control.model_work import Bench
from orchestrator.core.provision import Tag, dropped, same_name
from orchestrator.core.refusal import backoff
from orchestrator.core.spec import ModelSet
from orchestrator.core.status import ModelState
from orchestrator.runtime.ollama_server import OllamaError, OllamaUnreachableError


class Dropping:
    """One task for one model. `holds` is what is declared now, asked anew each time; `nudge` is
    called when one has ended."""

    def __init__(
        self,
        bench: Bench,
        memory: Memory,
        *,
        holds: Callable[[], ModelSet],
        nudge: Callable[[], None],
        bug: Callable[[str], None],
    ) -> None:
        self._bench = bench
        self._memory = memory
        self._holds = holds
        self._nudge = nudge
        self._bug = bug
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._refusals: dict[str, int] = {}
        """How often in a row each was not done."""
        self._told: dict[str, str] = {}
        """What was said of each: the same again is no news."""

    @property
    def busy(self) -> bool:
        return bool(self._tasks)

    async def end(self) -> None:
        """Cancel all."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def begin(self, names: Iterable[str], tags: Mapping[str, Tag]) -> None:
        """Let go of these."""
        for name in names:
            if name not in self._tasks:
                work = self._drop(name, tags)
                self._tasks[name] = asyncio.create_task(work, name=f"drop {name}")

    async def _drop(self, name: str, tags: Mapping[str, Tag]) -> None:
        try:
            words = await self._let_go(name, tags)
            self._refusals.pop(name, None)
            self._told.pop(name, None)
            if words:
                self._bench.board.gone(name, words)
        except OllamaUnreachableError:
            # Whether the server is well is watched elsewhere.
            await self._pause(name)
        except OllamaError as error:
            self._say_refused(name, str(error))
            await self._pause(name)
        except Exception as error:  # noqa: BLE001 - a task boundary: the bug becomes an event
            self._bug(f"drop {name}: {error!r}")
            await self._pause(name)
        finally:
            del self._tasks[name]
            self._nudge()

    async def _pause(self, name: str) -> None:
        """Before the server is asked again: longer each time."""
        self._refusals[name] = self._refusals.get(name, 0) + 1
        await asyncio.sleep(backoff(self._refusals[name]))

    def _say_refused(self, name: str, why: str) -> None:
        words = f"cannot be let go of: {why}; tried again and again"
        if self._told.get(name) == words or not self._is_dropped(name):
            return
        self._told[name] = words
        failed = ModelState.FAILED
        self._bench.board.say(
            name, "failed", words, state=failed, reason="drop-refused", message=words
        )

    def _is_dropped(self, name: str) -> bool:
        """Not declared any more: it may be by now, while a server was asked for something."""
        return bool(dropped(self._holds().models, [name]))

    async def _let_go(self, name: str, tags: Mapping[str, Tag]) -> str:
        """What became of it, for people; empty where it is wanted again."""
        bench = self._bench
        tag = tags.get(same_name(name))
        if tag is not None:
            blob = await self._memory.blob(name, tag.digest)
            others = [
                await self._memory.blob(model.name, tags[same_name(model.name)].digest)
                for model in self._holds().models
                if same_name(model.name) in tags
            ]
            if blob not in others:
                # Asked of a model that is not in memory, it does nothing.
                await bench.server.unload(name)
        # To leave memory takes a while: what is declared by now decides what becomes of the rest.
        if not self._is_dropped(name):
            return ""
        if tag is None or not self._holds().prune or bench.store is None:
            return "is not declared any more"
        if bench.workshop.wanted_elsewhere(bench.store, name):
            return "is not declared any more; it is kept for another instance with this store"
        await bench.server.delete(name)
        return "deleted, as it is not declared any more"
