"""Round after round over the models of one server: look, compare, begin what is due.

A round never waits for what it began: whatever ends calls for the next one.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Collection, Mapping

from msgspec.structs import replace

from orchestrator.control.model_board import NO_BYTES
from orchestrator.control.model_dropping import Dropping
from orchestrator.control.model_making import Making
from orchestrator.control.model_memory import Memory, Sight
from orchestrator.control.model_verify import Verifying
from orchestrator.control.model_work import Bench
from orchestrator.core.provision import Tag, dropped, same_name
from orchestrator.core.spec import ModelSet, ModelSpec
from orchestrator.core.status import ModelState, ModelStatus
from orchestrator.runtime.ollama_server import OllamaError, OllamaUnreachableError
from orchestrator.runtime.runners import Runners

MEMORY_EVERY = 5.0
"""Seconds between two looks at what is in memory, where something is to stay there."""
TAGS_EVERY = 15.0
"""Seconds between two looks at which models there are."""
AGAIN = 1.0
"""Seconds after which a server that did not answer is asked again."""
SHORTEST = 0.05


class Calls:
    """Why to look again before it is time."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self.asked = False
        """Somebody wants it; else something of our own has ended."""
        self.suspected: set[str] = set()
        """Blobs, by path, that somebody has read and found damaged."""

    def nudge(self) -> None:
        self._event.set()

    async def wait(self, seconds: float | None) -> bool:
        """False when the time was up."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._event.wait()
        called = self._event.is_set()
        self._event.clear()
        return called


class Upkeep:
    """The rounds of one run of one server. `holds` and `rows` are asked anew each time."""

    def __init__(
        self,
        bench: Bench,
        *,
        holds: Callable[[], ModelSet],
        rows: Callable[[], tuple[ModelStatus, ...]],
        runners: Runners,
        calls: Calls,
        bug: Callable[[str], None],
    ) -> None:
        self._bench = bench
        self._holds = holds
        self._rows = rows
        self._runners = runners
        self._calls = calls
        self._bug = bug
        self._making = Making(bench, nudge=calls.nudge, bug=bug)
        self._memory = Memory(bench, nudge=calls.nudge, bug=bug)
        self._verifying = Verifying(
            bench, self._making, calls.suspected, nudge=calls.nudge, bug=bug
        )
        self._dropping = Dropping(bench, self._memory, holds=holds, nudge=calls.nudge, bug=bug)
        self._tags: dict[str, Tag] = {}
        self._tags_due = 0.0
        self._make_due = 0.0
        """When to compare what is there with what is declared: anew with each list of it."""
        self._sight = Sight()
        self._had: set[str] = set()
        self._asked = True
        """Somebody waits for word of a look: after `apply`, and at the beginning."""

    async def keep(self) -> None:
        """Until cancelled."""
        rows = [row for row in self._rows() if row.state is ModelState.PRESENT]
        self._had = {row.name for row in rows}
        # An earlier daemon may have known why something that is there is not in memory.
        self._bench.board.rows.update({row.name: row for row in rows})
        try:
            while True:
                pause = await self._guarded_round()
                if await self._calls.wait(pause):
                    self._tags_due = 0.0
                if self._calls.asked:
                    self._calls.asked = False
                    self._asked = True
                    self._again()
        finally:
            for part in (self._making, self._memory, self._verifying, self._dropping):
                await part.end()

    async def _guarded_round(self) -> float | None:
        try:
            return await self._round()
        except (OllamaError, OllamaUnreachableError):
            # Whether the server is well is watched elsewhere.
            return AGAIN
        except Exception as error:  # noqa: BLE001 - a task boundary: the bug becomes an event
            self._bug(f"models: {error!r}")
            return TAGS_EVERY

    def _again(self) -> None:
        """What is declared may have put rows in question: those are tried, and said, anew."""
        board = self._bench.board
        rows = {row.name: row for row in self._rows()}
        for name, known in list(board.rows.items()):
            row = rows.get(name)
            if row is None or row.state is not ModelState.FAILED:
                self._making.again([name])
            if row is not None and known.state is not row.state:
                # To say once more what was would be taken for what came of the new try.
                board.rows[name] = row
            elif row != known:
                board.again(name)
        self._memory.again()

    async def _round(self) -> float | None:
        """Seconds until the next one is due at the latest."""
        holds = self._holds()
        rows = {row.name: row for row in self._rows()}
        gone = dropped(holds.models, {*rows, *self._bench.board.rows})
        if not holds.models and not gone and not self._dropping.busy:
            return None
        if time.monotonic() >= self._tags_due:
            found = await self._bench.server.tags()
            self._tags = {same_name(tag.name): tag for tag in found}
            self._tags_due = time.monotonic() + TAGS_EVERY
            self._make_due = 0.0
        await self._look_at_memory()
        self._say_vanished(holds.models)
        self._dropping.begin([name for name in gone if not self._making.busy(name)], self._tags)
        pause = await self._act(holds, rows)
        if self._asked:
            self._asked = False
            self._bench.board.looked()
        return pause

    async def _look_at_memory(self) -> None:
        """While the server loads a model it does not say what it has in memory: until then it is
        what it was."""
        if self._memory.busy:
            self._sight = replace(self._sight, alive=None)
            return
        at = time.monotonic()
        before = self._runners.blobs()
        try:
            running = await self._bench.server.running()
        except OllamaUnreachableError:
            self._sight = replace(self._sight, blind=True)
            return
        blobs = {await self._memory.blob(one.name, one.digest) for one in running}
        if before is not None and not blobs <= before:
            # Either it was killed, or another runner has taken its place since the last look.
            self._runners.forget()
        after = self._runners.blobs()
        # One that was killed is missing before and after the server says that it is there.
        alive = None if before is None or after is None else before | after
        self._sight = Sight(tuple(running), at, alive)

    async def _act(self, holds: ModelSet, rows: Mapping[str, ModelStatus]) -> float:
        models = holds.models
        if time.monotonic() >= self._make_due:
            there, pause = self._making.begin(models, self._tags)
            self._make_due = math.inf if pause is None else time.monotonic() + pause
            self._had = {name for name in there if not self._making.busy(name)}
        self._settle(self._had)
        present = [
            model
            for model in models
            if same_name(model.name) in self._tags and not self._making.busy(model.name)
        ]
        # A server that was attached to has settings of its own.
        limit = holds.limit if self._bench.store is not None else None
        memory_pause = await self._memory.look(
            present, self._tags, self._sight, limit=limit, rows=rows
        )
        held = any(model.preload or model.keep_alive is not None for model in models)
        pauses = [
            MEMORY_EVERY if held else TAGS_EVERY,
            self._tags_due - time.monotonic(),
            self._make_due - time.monotonic(),
            memory_pause,
            self._verifying.begin(sorted(self._had), holds.verify),
        ]
        return max(min(pause for pause in pauses if pause is not None), SHORTEST)

    def _settle(self, names: Collection[str]) -> None:
        """They are there; whether they can be loaded is another matter."""
        board = self._bench.board
        for name in names:
            if self._memory.failed(name, self._tags):
                continue
            if board.row(name).state is not ModelState.PRESENT or name not in board.rows:
                board.show(name, state=ModelState.PRESENT, reason="", message="", **NO_BYTES)
            tag = self._tags.get(same_name(name))
            if tag is not None:
                board.show(name, facts=tag.facts)

    def _say_vanished(self, models: Collection[ModelSpec]) -> None:
        for model in models:
            name = model.name
            there = same_name(name) in self._tags or name in self._making.broken
            if name in self._had and not there:
                self._bench.board.say(
                    name,
                    "vanished",
                    "somebody removed it from the server",
                    state=ModelState.MISSING,
                    loaded=False,
                )
