"""Keeps the declared models of one server in its memory, as long as is declared."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence, Set
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from orchestrator.control.model_work import Bench
from orchestrator.core.provision import Tag, same_name
from orchestrator.core.refusal import Refusal, Trial, after_failure, backoff
from orchestrator.core.residency import (
    FOREVER,
    Absence,
    Loaded,
    Outlook,
    Resident,
    Tenure,
    outlook,
    residents,
)
from orchestrator.core.spec import ModelSpec
from orchestrator.core.status import ModelState, ModelStatus
from orchestrator.runtime.ollama_server import (
    OllamaError,
    OllamaUnreachableError,
    Running,
    Shown,
)

Tags = Mapping[str, Tag]


class Sight(Struct, frozen=True):
    """What a server said that it has in memory, when it was asked (monotonic), and the blobs that
    have a living process, None where that cannot be told."""

    running: tuple[Running, ...] = ()
    at: float = -math.inf
    alive: Set[str] | None = None
    blind: bool = False
    """It did not answer, so it may be loading for somebody else: nothing is begun meanwhile."""


class Memory:
    """What is in memory, and what is being done about it: one thing at a time for one blob."""

    def __init__(self, bench: Bench, *, nudge: Callable[[], None], bug: Callable[[str], None]):
        self._bench = bench
        self._nudge = nudge
        self._bug = bug
        self._shown: dict[str, Shown] = {}
        self._tenures: dict[str, Tenure] = {}
        self._arrived: Mapping[str, float] = {}
        """Since when each blob is in memory."""
        self._contexts: dict[str, int] = {}
        """Context of each blob as our own load, which asks for none, made it."""
        self._loading: set[str] = set()
        self._own_loads: dict[str, str] = {}
        """Blobs that were just loaded, and not looked at since, with what is to be told of it."""
        self._ended: dict[str, float] = {}
        """When the last work on each blob ended: what was seen before says nothing of it."""
        self._trials: dict[str, Trial] = {}
        self._told: dict[str, str] = {}
        """The last failure that was told of each model: the same again is no news."""
        self._tasks: dict[str, asyncio.Task[None]] = {}

    @property
    def busy(self) -> bool:
        """While a model is being loaded, a server does not say what it has in memory."""
        return bool(self._tasks)

    async def end(self) -> None:
        """Cancel all that is under way."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def again(self) -> None:
        """Somebody asked for another try: what failed is loaded, what was evicted if it fits."""
        self._trials.clear()
        self._tenures = {
            blob: replace(tenure, load_at=0.0) for blob, tenure in self._tenures.items()
        }

    async def blob(self, name: str, digest: str) -> str:
        """What tells the weights of a model from others; learnt once for each digest."""
        if digest not in self._shown:
            try:
                self._shown[digest] = await self._bench.server.show(name)
            except OllamaError:
                # Removed while it is in memory, or damaged: that is no reason to know nothing else.
                return digest
        blobs = self._shown[digest].blobs
        return blobs[0] if blobs else digest

    async def look(
        self,
        models: Sequence[ModelSpec],
        tags: Tags,
        sight: Sight,
        *,
        limit: int | None,
        rows: Mapping[str, ModelStatus],
    ) -> float | None:
        """Compare and act; seconds until the next look. `models` are those that are there."""
        if sight.blind:
            return None
        held = any(model.preload or model.keep_alive is not None for model in models)
        if not sight.running and not held:
            self._show_loaded(models, {}, set())
            return None
        loaded = [
            Loaded(one.name, await self.blob(one.name, one.digest), one.expires_at, one.context)
            for one in sight.running
        ]
        busy = {*self._tasks, *(blob for blob, at in self._ended.items() if at >= sight.at)}
        blobs = await self._blobs(models, tags)
        wanted = residents(models, blobs)
        self._recall(wanted, rows)
        now = time.time()
        dead: set[str] = set()
        if sight.alive is not None:
            dead = {one.blob for one in loaded} - sight.alive
            loaded = [one for one in loaded if one.blob in sight.alive]
        for one in loaded:
            if one.blob not in busy:
                # Somebody else's request has brought it into memory.
                self._trials.pop(one.blob, None)
        plan = outlook(
            wanted,
            loaded,
            self._tenures,
            now=now,
            limit=limit,
            busy=busy,
            dead=dead,
            arrived=self._arrived,
        )
        self._tenures, self._arrived = dict(plan.tenures), plan.arrived
        self._say_lost(plan)
        self._look_at_own_loads(wanted, loaded, busy)
        known = {name: blob for name, blob in blobs.items() if blob not in busy}
        idle = [model for model in models if model.name in known]
        self._show_loaded(idle, known, {one.blob for one in loaded})
        pause = self._act(plan, tags)
        wakes = [pause, None if plan.wake_at is None else plan.wake_at - now]
        return min((one for one in wakes if one is not None), default=None)

    async def _blobs(self, models: Sequence[ModelSpec], tags: Tags) -> dict[str, str]:
        there = [(model.name, tags[same_name(model.name)].digest) for model in models]
        blobs = await asyncio.gather(*(self.blob(name, digest) for name, digest in there))
        return {name: blob for (name, _), blob in zip(there, blobs, strict=True)}

    def _recall(self, wanted: Iterable[Resident], rows: Mapping[str, ModelStatus]) -> None:
        """What an earlier daemon knew of why something is not in memory is not forgotten."""
        for resident in wanted:
            if resident.blob in self._tenures:
                continue
            row = next((rows[name] for name in resident.names if name in rows), None)
            if row is not None and row.rested:
                self._tenures[resident.blob] = Tenure(was=True, absence=Absence.RESTED)
            elif row is not None and row.reason == Absence.EVICTED:
                self._tenures[resident.blob] = Tenure(was=True, absence=Absence.EVICTED)

    def _say_lost(self, plan: Outlook) -> None:
        board = self._bench.board
        for resident in plan.lost:
            absence = plan.tenures[resident.blob].absence
            for name in resident.names:
                if not resident.preload or absence is None:
                    continue
                evicted = absence is Absence.EVICTED
                board.say(
                    name,
                    absence.value,
                    _LOST[absence],
                    loaded=False,
                    rested=absence is Absence.RESTED,
                    reason=absence.value if evicted else "",
                    message=_LOST[absence] if evicted else "",
                )

    def _show_loaded(
        self, models: Sequence[ModelSpec], blobs: Mapping[str, str], there: set[str]
    ) -> None:
        board = self._bench.board
        for model in models:
            loaded = blobs.get(model.name) in there
            row = board.row(model.name)
            if loaded and not row.loaded and (model.preload or row.reason == Absence.EVICTED):
                board.show(model.name, loaded=True, rested=False, reason="", message="")
            elif loaded != row.loaded:
                board.show(model.name, loaded=loaded, rested=row.rested and not loaded)

    def _act(self, plan: Outlook, tags: Tags) -> float | None:
        """Begin to load and to hold; seconds until a failed load is tried again."""
        now = time.monotonic()
        waits: list[float] = []
        for resident in plan.load:
            trial = self._trials.get(resident.blob)
            if trial is not None and trial.retry_at > now:
                waits.append(trial.retry_at - now)
            else:
                self._start(resident, self._load(resident, _embeds(resident, tags)))
        for resident, entry in plan.hold:
            self._start(resident, self._hold(resident, entry, _embeds(resident, tags)))
        return min(waits, default=None)

    def _start(self, resident: Resident, work: Coroutine[Any, Any, None]) -> None:
        if resident.blob in self._tasks:
            work.close()
            return
        self._tasks[resident.blob] = asyncio.create_task(
            self._guarded(resident, work), name=f"hold {resident.names[0]}"
        )

    async def _guarded(self, resident: Resident, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except OllamaError as error:
            self._fail(resident, str(error))
        except OllamaUnreachableError:
            # It says nothing of the model: the server itself is minded by others.
            last = self._trials.get(resident.blob)
            failures = last.failures + 1 if last is not None else 1
            retry_at = time.monotonic() + backoff(failures)
            self._trials[resident.blob] = Trial(failures, retry_at, False, _FAILED)
        except Exception as error:  # noqa: BLE001 - a task boundary: the bug becomes an event
            self._bug(f"hold {resident.names[0]}: {error!r}")
            self._fail(resident, repr(error))
        finally:
            del self._tasks[resident.blob]
            self._loading.discard(resident.blob)
            self._ended[resident.blob] = time.monotonic()
            self._nudge()

    async def _load(self, resident: Resident, embeds: bool) -> None:
        began = time.monotonic()
        board, server = self._bench.board, self._bench.server
        for name in resident.names:
            board.show(name, message="is being loaded")
        self._loading.add(resident.blob)
        assert resident.keep_alive is not None, "what is preloaded has a time to stay"
        await server.keep(resident.names[0], seconds=resident.keep_alive, embeds=embeds)
        self._trials.pop(resident.blob, None)
        told = self._tenures.get(resident.blob, Tenure()).told(time.time())
        self._tenures[resident.blob] = replace(told, since=time.time())
        took = f"in memory after {time.monotonic() - began:.1f} s"
        if len(self._loading) > 1:
            self._say_loaded(resident, took)
            took = ""
        # Of the last one the next look tells, which sees as well what had to leave for it: else
        # all would seem to be in memory together for a moment, and somebody may wait for that.
        self._own_loads[resident.blob] = took

    def _look_at_own_loads(
        self, wanted: Iterable[Resident], loaded: Sequence[Loaded], busy: Set[str]
    ) -> None:
        there = {one.blob: one for one in loaded}
        by_blob = {resident.blob: resident for resident in wanted}
        for blob in [blob for blob in self._own_loads if blob not in busy]:
            took = self._own_loads.pop(blob)
            if blob in there:
                self._contexts[blob] = there[blob].context
                if took and blob in by_blob:
                    self._say_loaded(by_blob[blob], took)

    def _say_loaded(self, resident: Resident, took: str) -> None:
        changes = {"loaded": True, "rested": False, "reason": "", "message": ""}
        for name in resident.names:
            self._told.pop(name, None)
            self._bench.board.say(name, "loaded", took, state=ModelState.PRESENT, **changes)

    async def _hold(self, resident: Resident, entry: Loaded, embeds: bool) -> None:
        """Tell again how long it is to stay, in the words it was loaded with: with others the
        server would load it anew."""
        assert resident.keep_alive is not None, "only what has a time to stay is held"
        ours = self._contexts.get(resident.blob)
        await self._bench.server.keep(
            entry.name,
            seconds=resident.keep_alive,
            embeds=embeds,
            context=None if ours == entry.context else entry.context,
        )
        if tenure := self._tenures.get(resident.blob):
            # While it generates, the server goes on showing the time that it showed before.
            told = tenure.told(time.time())
            self._tenures[resident.blob] = replace(told, expires_at=entry.expires_at)
        if entry.expires_at != FOREVER:
            words = "a request had shortened its stay in memory: it was set again"
            self._bench.board.say(resident.names[0], "kept", words)

    def _fail(self, resident: Resident, message: str) -> None:
        trial = after_failure(
            self._trials.get(resident.blob), _FAILED, moved=False, now=time.monotonic()
        )
        # Unlike a pull, a load that fails once is worth a word at once.
        self._trials[resident.blob] = replace(trial, gave_up=True)
        self._tenures[resident.blob] = replace(
            self._tenures.get(resident.blob, Tenure()), since=None, load_at=0.0
        )
        board = self._bench.board
        for name in resident.names:
            changes = {"state": ModelState.FAILED, "reason": "load-failed", "message": message}
            if self._told.get(name) != message:
                self._told[name] = message
                board.say(name, "failed", message, loaded=False, **changes)
            else:
                board.show(name, loaded=False, **changes)

    def failed(self, name: str, tags: Tags) -> bool:
        """Whether its last load failed, and it is not in memory."""
        tag = tags.get(same_name(name))
        if tag is None:
            return False
        shown = self._shown.get(tag.digest)
        trial = self._trials.get(shown.blobs[0] if shown and shown.blobs else tag.digest)
        return trial is not None and trial.gave_up


_FAILED = Refusal("load-failed", "soon")
_LOST = {
    Absence.EVICTED: "made room for another model; it comes back when there is room for it",
    Absence.UNLOADED: "was taken out of memory; it is loaded again",
    Absence.KILLED: "its process was killed; it is loaded again",
    Absence.RESTED: "left memory after its keep_alive, as declared",
}


def _embeds(resident: Resident, tags: Tags) -> bool:
    """True for what only embeds; where the server does not say, it is found out by trying."""
    tag = tags.get(same_name(resident.names[0]))
    capabilities = tag.capabilities if tag is not None else None
    return bool(capabilities) and "embedding" in capabilities and "completion" not in capabilities
