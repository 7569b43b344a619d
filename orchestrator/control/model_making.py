"""Makes the declared models of one server be there: begins what is due, and minds what failed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from orchestrator.control import model_work
from orchestrator.control.model_board import NO_BYTES, Meter, size
from orchestrator.control.model_damage import Damage, look_again, users_of
from orchestrator.control.model_recipe import Recipe, base_of, is_made, recipe_of
from orchestrator.control.model_work import Bench, WorkError
from orchestrator.core.provision import (
    DOING,
    Do,
    Ground,
    Step,
    Tag,
    due,
    present,
    same_name,
)
from orchestrator.core.refusal import Refusal, Trial, after_failure
from orchestrator.core.spec import Copied, Imported, ModelSpec, Pulled
from orchestrator.core.status import ModelState
from orchestrator.discovery.verify import quick_check
from orchestrator.runtime.files import identity_of
from orchestrator.runtime.made import Made
from orchestrator.runtime.ollama_server import OllamaError, OllamaUnreachableError

Tags = Mapping[str, Tag]


class _Job(Struct, frozen=True):
    model: ModelSpec
    task: asyncio.Task[None]


class Making:
    """At most one job for one model. `nudge` is called when one has ended."""

    def __init__(self, bench: Bench, *, nudge: Callable[[], None], bug: Callable[[str], None]):
        self._bench = bench
        self._nudge = nudge
        self._bug = bug
        self._jobs: dict[str, _Job] = {}
        self._trials: dict[str, Trial] = {}
        self._tried: dict[str, str] = {}
        """Of what recipe, on what base, each trial was: of another it says nothing."""
        self._told: dict[str, str] = {}
        """The last failure that was told of each model: the same again is no news."""
        self.broken: dict[str, Damage] = {}
        """Models that have a name on the server and not all of their files, by name."""

    def busy(self, name: str) -> bool:
        return name in self._jobs

    def failed(self, name: str) -> bool:
        trial = self._trials.get(name)
        return trial is not None and trial.gave_up

    def is_damaged(self, name: str, damage: Damage) -> None:
        """It is to be made anew: that is for the next round to begin, and to try again."""
        words = f"{damage.fault.path} {damage.fault.message}"
        self.broken[name] = damage
        missing = ModelState.MISSING
        self._bench.board.say(
            name, "corrupt", words, state=missing, reason="corrupt", message=words
        )

    def again(self, names: Sequence[str]) -> None:
        """Somebody asked for another try of these."""
        for name in names:
            self._trials.pop(name, None)

    async def end(self) -> None:
        """Cancel all, which ends what is under way on the server too."""
        tasks = [job.task for job in self._jobs.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def begin(self, models: Sequence[ModelSpec], tags: Tags) -> tuple[set[str], float | None]:
        """Begin what is due. The names of those that are as declared; seconds until more is."""
        self._drop_changed(models)
        broken = {same_name(name) for name in self.broken}
        tags = {key: tag for key, tag in tags.items() if key not in broken}
        grounds = {model.name: self._ground(model, tags) for model in models}
        now = time.monotonic()
        plan = due(models, tags, grounds, now)
        for step in plan.steps:
            task = asyncio.create_task(self._run(step, models), name=f"{step.do} {step.model.name}")
            self._jobs[step.model.name] = _Job(step.model, task)
        for _ in plan.waits:
            # As often as the longest chain has links: what fails at its root fails to its end.
            for name, base in plan.waits.items():
                self._show_waiting(name, base)
        there = {model.name for model in models if present(model, tags, grounds)}
        self._forgive(there)
        return there, None if plan.wake_at is None else max(plan.wake_at - now, 0.0)

    def _forgive(self, there: set[str]) -> None:
        """What is there, whoever brought it, has not failed."""
        for name in there:
            self._trials.pop(name, None)
            self._told.pop(name, None)

    def _drop_changed(self, models: Sequence[ModelSpec]) -> None:
        """What is made otherwise now, or not wanted any more, is not gone on with."""
        wanted = {model.name: model.origin for model in models}
        for name, job in self._jobs.items():
            if wanted.get(name) != job.model.origin:
                job.task.cancel()
        for name in [name for name in self._trials if name not in wanted]:
            del self._trials[name]

    def _ground(self, model: ModelSpec, tags: Tags) -> Ground:
        recipe = recipe_of(model)
        made = recipe is not None and is_made(
            tags.get(same_name(model.name)),
            recipe,
            self._bench.workshop.made.find(self._bench.key, model.name),
            tags,
        )
        base = base_of(model, recipe)
        standing = tags.get(same_name(base)) if base else None
        # Who mends a file by hand ends what was said of the last try as well.
        damage = self.broken.get(model.name)
        file = identity_of(damage.fault.path) if damage is not None else None
        of = f"{recipe.mark if recipe else ''} {standing.digest if standing else ''} {file or ''}"
        if self._tried.setdefault(model.name, of) != of and model.name not in self._jobs:
            self._tried[model.name] = of
            self._trials.pop(model.name, None)
        trial = self._trials.get(model.name)
        return Ground(
            made=made,
            base=base,
            busy=model.name in self._jobs,
            retry_at=trial.retry_at if trial is not None else None,
        )

    def _show_waiting(self, name: str, base: str) -> None:
        board = self._bench.board
        row = board.rows.get(base)
        if self.failed(base) or (row is not None and row.reason == "base-failed"):
            board.show(
                name,
                state=ModelState.FAILED,
                reason="base-failed",
                message=f"waits for {base}, which failed",
            )
        else:
            board.show(name, state=ModelState.MISSING, reason="", message=f"waits for {base}")

    async def _run(self, step: Step, models: Sequence[ModelSpec]) -> None:
        name = step.model.name
        board = self._bench.board
        meter = Meter(board, name, DOING[step.do])
        began = time.monotonic()
        try:
            said = await self._in_turn(step, models, meter)
        except WorkError as error:
            self.fail(name, str(error), error.meaning, moved=meter.moved)
        except (OllamaError, OllamaUnreachableError) as error:
            self.fail(name, str(error), Refusal(f"{step.do}-failed", "soon"), moved=meter.moved)
        except Exception as error:  # noqa: BLE001 - a task boundary: the bug becomes an event
            self._bug(f"{step.do} {name}: {error!r}")
            self.fail(name, repr(error), Refusal("bug", "later"), moved=False)
        else:
            self._trials.pop(name, None)
            self.broken.pop(name, None)
            there = {"state": ModelState.PRESENT, "reason": "", "message": "", **NO_BYTES}
            if said is None:
                board.show(name, **there)
            else:
                took = f"{said} in {time.monotonic() - began:.1f} s"
                board.say(name, _DONE[step.do], took, **there)
        finally:
            meter.close()
            del self._jobs[name]
            self._nudge()

    def fail(self, name: str, message: str, why: Refusal, *, moved: bool = False) -> None:
        """It did not come about; whether it is tried again by itself is in `why`."""
        trial = after_failure(self._trials.get(name), why, moved=moved, now=time.monotonic())
        self._trials[name] = trial
        board = self._bench.board
        told = f"{message} ({why.hint})" if why.hint else message
        if not trial.gave_up:
            pause = trial.retry_at - time.monotonic()
            board.show(name, message=f"{told}; again in {pause:.0f} s")
            return
        failed = {"state": ModelState.FAILED, "reason": why.reason, "message": told}
        if self._told.get(name) == told:
            board.show(name, **failed)
        else:
            self._told[name] = told
            board.say(name, "failed", told, **failed)

    async def _in_turn(self, step: Step, models: Sequence[ModelSpec], meter: Meter) -> str | None:
        """What was done, for people; None when it was there already."""
        bench, model = self._bench, step.model
        if bench.workshop.taken(bench.key, model.name):
            meter.words("waits: another instance with this store is at it")
        async with bench.workshop.turn(bench.key, model.name):
            damage = await self._damage(model.name)
            tags = await self._tags()
            ground = replace(self._ground(model, tags), busy=False)
            if damage is None and present(model, tags, {model.name: ground}):
                return None
            if damage is None:
                return await self._carry_out(step, models, tags, meter)
            await self._clear_away(damage, models, tags)
            said = await self._carry_out(step, models, await self._tags(), meter)
            await self._prove(model.name)
            return said

    async def _carry_out(
        self, step: Step, models: Sequence[ModelSpec], tags: Tags, meter: Meter
    ) -> str | None:
        model = step.model
        if step.do is Do.PULL:
            return await self._pull(model, meter)
        if step.do is Do.COPY:
            return await self._copy(model, tags)
        recipe = recipe_of(model)
        assert recipe is not None, "only what has a recipe is made"
        if step.do is Do.IMPORT:
            return await self._import(model, recipe, tags, meter)
        return await self._build(model, recipe, models, meter)

    async def _damage(self, name: str) -> Damage | None:
        """What is wrong with it now: who has mended it by hand shall not lose it again."""
        damage, store = self.broken.get(name), self._bench.store
        if damage is None or store is None:
            return damage
        found = await look_again(store, name, damage, self._bench.workshop.whole)
        if found is None:
            del self.broken[name]
        elif found.fault.reason == "unreadable":
            message = f"{found.fault.path} {found.fault.message}"
            raise WorkError(message, Refusal("corrupt", "later"))
        else:
            self.broken[name] = found
        return found

    async def _clear_away(self, damage: Damage, models: Sequence[ModelSpec], tags: Tags) -> None:
        """A damaged file is only made again once it is gone, and it goes with its last model:
        none of them is deleted where not all of them can be made again."""
        fault, store = damage.fault, self._bench.store
        if fault.reason != "corrupt" or store is None:
            return
        users = await asyncio.to_thread(users_of, store, fault.path)
        declared = {same_name(model.name): model.name for model in models}
        if strangers := sorted(users - declared.keys()):
            meaning = Refusal("corrupt", "later", "remove or mend those, then it is made again")
            names = ", ".join(strangers)
            raise WorkError(f"{fault.path} {fault.message}, and is used by {names}", meaning)
        for name in (declared[user] for user in users):
            if name not in self.broken:
                self.is_damaged(name, damage)
        for name, other in list(self.broken.items()):
            if other.fault.path == fault.path and same_name(name) in tags:
                await self._bench.server.delete(name)
        if await asyncio.to_thread(identity_of, fault.path) == damage.identity:
            raise WorkError(f"{fault.path} {fault.message}", Refusal("corrupt", "soon"))

    async def _prove(self, name: str) -> None:
        """What was damaged is whole now."""
        store = self._bench.store
        fault = await asyncio.to_thread(quick_check, store, name) if store else None
        if fault is not None:
            raise WorkError(f"{fault.path} {fault.message}", Refusal("corrupt", "later"))

    async def _pull(self, model: ModelSpec, meter: Meter) -> str:
        assert isinstance(model.origin, Pulled), "only what is pulled is pulled"
        await model_work.pull(self._bench, model.name, insecure=model.origin.insecure, meter=meter)
        return f"{size(meter.done)} pulled" if meter.done else "pulled"

    async def _copy(self, model: ModelSpec, tags: Tags) -> str:
        assert isinstance(model.origin, Copied), "only a copy is copied"
        source = model.origin.of
        if same_name(source) not in tags:
            meaning = Refusal("base-missing", "later", "declare it, too, before its copy")
            raise WorkError(f"there is no {source} to copy", meaning)
        await model_work.copy(self._bench, source, model.name)
        return f"copied from {source}"

    async def _import(
        self, model: ModelSpec, recipe: Recipe, tags: Tags, meter: Meter
    ) -> str | None:
        assert isinstance(model.origin, Imported), "only what is imported is imported"
        bench = self._bench
        digests = await model_work.digests_of(bench, recipe.files, meter)
        said: str | None = None
        tag = tags.get(same_name(model.name))
        if tag is None or not await self._holds(model.name, set(digests.values())):
            await self._make_way(model.name, tag, next(iter(digests.values())))
            said = await model_work.make(bench, model, model.origin.files, meter=meter)
        await self._record(model, recipe)
        return said

    async def _build(
        self, model: ModelSpec, recipe: Recipe, models: Sequence[ModelSpec], meter: Meter
    ) -> str:
        bench = self._bench
        if recipe.error:
            raise WorkError(recipe.error, Refusal("build-failed", "later"))
        if recipe.base:
            await self._fetch_base(recipe.base, models, meter, anew=model.name in self.broken)
        await model_work.build(bench, model.name, recipe, meter=meter)
        await self._record(model, recipe)
        return "built"

    async def _fetch_base(
        self, base: str, models: Sequence[ModelSpec], meter: Meter, *, anew: bool
    ) -> None:
        """A base that nobody declares comes from its registry, as with Ollama's own command."""
        bench = self._bench
        async with bench.workshop.turn(bench.key, base):
            if same_name(base) in await self._tags() and not anew:
                return
            insecure = model_work.is_insecure(models, base)
            verb = f"its base {base}: "
            await model_work.pull(bench, base, insecure=insecure, meter=meter, verb=verb)

    async def _holds(self, name: str, digests: set[str]) -> bool:
        """Whether the model of that name is made of these files already."""
        if name in self.broken:
            return False
        return set((await self._bench.server.show(name)).blobs) == digests

    async def _make_way(self, name: str, tag: Tag | None, blob: str) -> None:
        """Its old weights leave memory before the name means others: no one could name them
        after."""
        if tag is None:
            return
        server = self._bench.server
        in_memory = {one.digest for one in await server.running()}
        if tag.digest in in_memory and blob not in (await server.show(name)).blobs:
            await server.unload(name)

    async def _record(self, model: ModelSpec, recipe: Recipe) -> None:
        """Remember what was made of what."""
        tags = await self._tags()
        tag = tags.get(same_name(model.name))
        if tag is None:
            raise WorkError("was made, and is not there", Refusal("build-failed", "soon"))
        base = tags.get(same_name(recipe.base)) if recipe.base else None
        made = Made(tag.digest, recipe.mark, base.digest if base else "")
        self._bench.workshop.made.add(self._bench.key, model.name, made)

    async def _tags(self) -> Tags:
        return {same_name(tag.name): tag for tag in await self._bench.server.tags()}


_DONE = {Do.PULL: "pulled", Do.IMPORT: "made", Do.BUILD: "built", Do.COPY: "copied"}
