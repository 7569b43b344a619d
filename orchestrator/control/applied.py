"""The applied set: which files count, what they mean, and what is wrong with them now.

Owns that knowledge and its record in the store. Its only effect on the world is the `NewDesired`
that it posts. An edit that is invalid changes nothing; the verb `apply` is all or nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import posixpath
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from orchestrator.control.bus import Bus, NewDesired
from orchestrator.control.file_look import look_at
from orchestrator.control.in_between import LOOK_AGAIN, InBetween
from orchestrator.control.reading import Reading, as_drafted, folders_without, read_files
from orchestrator.control.reconciler import Reconciler
from orchestrator.control.resolution import Machine, Resolution, resolve_readings
from orchestrator.control.standing import Standing
from orchestrator.core.event import Event, EventType
from orchestrator.core.plan import Action
from orchestrator.core.preview import preview
from orchestrator.core.problem import Problem
from orchestrator.core.report import ProfileReport
from orchestrator.core.resolved import ResolvedFile
from orchestrator.core.spec import Desired
from orchestrator.core.successor import variants
from orchestrator.errors import InputError
from orchestrator.runtime.identity import boot_clock
from orchestrator.runtime.state import Applied, AppliedSource, Store, StoreError

MachineNow = Callable[[], Machine]


class NotAppliedError(InputError):
    """No applied profile bears that name."""

    reason = "not-found"


class Accepted(Struct, frozen=True):
    """An apply that was taken up. `number` tells it from later ones, `after` is an event id."""

    number: int
    after: int
    actions: tuple[Action, ...]
    warnings: tuple[Problem, ...]
    profiles: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        return {
            "number": self.number,
            "after": self.after,
            "profiles": list(self.profiles),
            "actions": [action.as_json() for action in self.actions],
            "warnings": [warning.as_json() for warning in self.warnings],
        }


class Rejected(Struct, frozen=True):
    """An apply that changed nothing, and everything that is wrong."""

    problems: tuple[Problem, ...]

    def as_json(self) -> dict[str, Any]:
        return {"errors": [problem.as_json() for problem in self.problems]}


class AppliedSet:
    """One change at a time; `desired` is posted, never handed out."""

    def __init__(
        self, *, bus: Bus, store: Store, reconciler: Reconciler, machine: MachineNow
    ) -> None:
        self._bus = bus
        self._store = store
        self._reconciler = reconciler
        self._machine = machine
        self._lock = asyncio.Lock()
        applied = store.applied()
        self.known = applied is not None
        """False when nothing says what is applied: a new state folder, or a store that was lost."""
        self._forced = applied.forced if applied else False
        self._sources: list[AppliedSource] = applied.sources if applied else []
        self._standing = Standing(applied.files if applied else ())
        self._between = InBetween()
        self._warnings: tuple[Problem, ...] = ()
        self.number = 0
        """Counts what was applied by this daemon: whoever waits for one sees that another came."""
        self.on_change: Callable[[], None] = lambda: None
        """Called when another set of files counts."""

    @property
    def sources(self) -> tuple[AppliedSource, ...]:
        """What is applied, with what the shells gave."""
        return tuple(self._sources)

    @property
    def paths(self) -> list[str]:
        """Files and folders whose change matters."""
        sources = (source.path for source in self._sources)
        return list(dict.fromkeys([*sources, *self._standing.paths, *self._between.paths]))

    def known_desired(self) -> Desired:
        """What was last known to be desired: nothing, when nothing is known."""
        return self._standing.union()

    def consists_of(self, sources: Sequence[AppliedSource], *, forced: bool) -> bool:
        """Whether just these are what is applied, with what the same shell gave them."""
        return self.known and self._sources == list(sources) and self._forced == forced

    def resume(self, *, nothing_runs: bool) -> None:
        """Post what was last known to be desired, before any file is read again.

        A store that is new knows nothing: with `nothing_runs`, nothing is what is desired.
        """
        if self.known or (nothing_runs and self._store.set_aside is None):
            self._post(self._standing.union(), None)

    def reports(self) -> list[ProfileReport]:
        """Every applied file, valid or not."""
        return self._standing.reports()

    def warnings(self) -> list[str]:
        return [f"{w.place.file}:{w.place.line}: {w.message}" for w in self._warnings]

    def _post(
        self, desired: Desired, event: Event | None, *, about: frozenset[str] | None = None
    ) -> None:
        """`about` are the instances that the verb `apply` named; None for what it was not."""
        self._bus.post(
            NewDesired(
                desired,
                renew=about is not None,
                number=self.number,
                event=event,
                forced=self._forced,
                only=about,
            )
        )

    async def preview(
        self,
        sources: Sequence[AppliedSource],
        *,
        add: bool,
        force: bool = False,
        drafts: Mapping[str, bytes] | None = None,
    ) -> tuple[tuple[Action, ...], Resolution]:
        """What applying would do, with these texts in the place of files. Touches nothing."""
        readings = await asyncio.to_thread(self._read_named, sources, add=add)
        readings = as_drafted(readings, drafts or {})
        resolution = await self._resolve(readings, forced=self._is_forced(add=add, force=force))
        about = _about(sources, readings, resolution)
        actions = preview(resolution.desired, self._reconciler.observed, boot_clock(), only=about)
        return actions, resolution

    async def check(
        self, sources: Sequence[AppliedSource], *, drafts: Mapping[str, bytes] | None = None
    ) -> Resolution:
        """What these would mean by themselves. What is too much for the memory is warned of, and
        so is what is doubtful."""
        readings = await asyncio.to_thread(_read_with_folders, sources)
        return await self._resolve(as_drafted(readings, drafts or {}), forced=True, doubting=True)

    def _is_forced(self, *, add: bool, force: bool) -> bool:
        """The word holds for the set, and for what is added to it."""
        return force or (add and self._forced)

    async def apply(
        self, sources: Sequence[AppliedSource], *, add: bool, force: bool = False
    ) -> Accepted | Rejected:
        """Make these (with `add`: these too) the applied set, if all of it is right.

        `force`: also what can never fit into memory.
        """
        async with self._lock:
            joined = self._joined(sources, add=add)
            readings = await asyncio.to_thread(self._read_named, sources, add=add)
            forced = self._is_forced(add=add, force=force)
            resolution = await self._resolve(readings, forced=forced)
            if resolution.problems:
                return Rejected(resolution.problems)
            about = _about(sources, readings, resolution)
            actions = preview(
                resolution.desired, self._reconciler.observed, boot_clock(), only=about
            )
            names = tuple(file.name for file in resolution.files)
            self._take(joined, resolution.files, forced=forced)
            self._warnings = resolution.warnings
            self._remember(resolution.chosen_ports)
            after = self._bus.last_id
            what = ", ".join(names) or "nothing"
            event = self._bus.stamp(
                Event(EventType.APPLIED, message=what, data={"number": self.number})
            )
            self._post(resolution.desired, event, about=about)
            return Accepted(self.number, after, actions, resolution.warnings, names)

    async def remove(self, words: Sequence[str]) -> tuple[str, ...]:
        """Take profiles out, by path or by name. Raises `InputError` for one that is not in."""
        async with self._lock:
            leaving: set[str] = set()
            for word in words:
                match = [s.path for s in self._sources if s.path == word]
                match += [
                    source.path
                    for file in self._standing.good
                    for source in self._sources
                    if file.name == word and file.file == source.path
                ]
                if not match:
                    raise self._not_applied(word)
                leaving.update(match)
            sources = [s for s in self._sources if s.path not in leaving]
            prefixes = tuple(f"{path}/" for path in leaving)
            good = [
                file
                for file in self._standing.good
                if file.file not in leaving and not file.file.startswith(prefixes)
            ]
            self._take(sources, good, forced=self._forced)
            self._remember({})
            event = self._bus.stamp(
                Event(
                    EventType.APPLIED,
                    message=f"without {', '.join(sorted(leaving))}",
                    data={"number": self.number},
                )
            )
            self._post(self._standing.union(), event)
            return tuple(sorted(leaving))

    def _not_applied(self, word: str) -> InputError:
        folders = [source.path for source in self._sources if source.is_folder]
        for file in self._standing.good:
            folder = posixpath.dirname(file.file)
            if word in (file.name, file.file) and folder in folders:
                return InputError(
                    f"{word} is applied as a part of the folder {folder}",
                    hint="remove the folder, or take the file out of it",
                )
        names = ", ".join(sorted(f.name for f in self._standing.good)) or "none"
        return NotAppliedError(f"{word} is not applied", hint=f"applied profiles: {names}")

    async def clear(self) -> None:
        """Nothing is applied any more: every instance stops."""
        async with self._lock:
            self._take([], (), forced=False)
            self._remember({})
            event = self._bus.stamp(
                Event(EventType.APPLIED, message="nothing", data={"number": self.number})
            )
            self._post({}, event)

    async def refresh(self, *, anew: bool = False) -> None:
        """Look at the files again; take up those that changed and are valid.

        `anew` resolves also what did not change: the machine did. What may be in the middle of a
        save is left for another look (see `look_within`).
        """
        async with self._lock:
            if not self._sources:
                return
            along = self._standing.read_along
            # In a thread: a network mount that hangs must not hold up the loop.
            look = await asyncio.to_thread(look_at, tuple(self._sources), along, self._standing)
            missing = look.missing()
            unsettled = self._between.sift(look.differing(missing), boot_clock())
            dropped = [path for path in missing if path not in unsettled]
            self._standing.drop(dropped)
            self._standing.forget_wrong(reading.file for reading in look.readings)
            due = [r for r in look.readings if look.is_settled(r, unsettled)]
            changed = [r for r in due if anew or look.changed(r)]
            # What is on its way out may only be on its way to another name, with its ports.
            leaving = unsettled.intersection(missing)
            took, ports = await self._take_up(changed, leaving)
            if took or dropped:
                # What was refused because of another file may be right now.
                refused = [r for r in due if self._standing.is_wrong(r.file) and r not in changed]
                more, more_ports = await self._take_up(refused, leaving)
                self._remember(ports | more_ports)
                self._post_edit([*took, *more], dropped)

    def _post_edit(self, took: Sequence[str], dropped: Sequence[str]) -> None:
        names = ", ".join(file.name for file in self._standing.good if file.file in took)
        gone = f" without {', '.join(dropped)}" if dropped else ""
        event = self._bus.stamp(
            Event(EventType.APPLIED, reason="edited", message=f"{names}{gone}".strip())
        )
        self._post(self._standing.union(), event)

    @property
    def look_within(self) -> float | None:
        """Seconds until files have to be looked at again in any case; None when they need not."""
        return LOOK_AGAIN if self._between.paths else None

    async def _resolve(
        self,
        readings: Sequence[Reading],
        *,
        beside: Sequence[ResolvedFile] = (),
        forced: bool,
        doubting: bool = False,
    ) -> Resolution:
        """In a thread. The ports and the memory of the files `beside` are taken."""
        machine = self._machine()
        kept = {
            one.endpoint.port
            for file in beside
            for spec in file.specs.values()
            for one in variants(spec)
        }
        promises = machine.promises
        for file in beside:
            promises = promises.and_of_specs(file.specs.values())
        machine = replace(
            machine,
            taken_ports=machine.taken_ports | kept,
            promises=promises,
            beside={name: spec for file in beside for name, spec in file.specs.items()},
            forced=forced,
            doubting=doubting,
        )
        return await asyncio.to_thread(resolve_readings, readings, machine)

    async def _take_up(
        self, readings: Sequence[Reading], leaving: frozenset[str]
    ) -> tuple[list[str], dict[str, int]]:
        """Resolve these anew. The files that mean something else now, and the chosen ports."""
        if not readings:
            return [], {}
        away = leaving.union(reading.file for reading in readings)
        beside = [file for file in self._standing.good if file.file not in away]
        resolution = await self._resolve(readings, beside=beside, forced=self._forced)
        took, said = self._standing.sort_out(readings, resolution)
        for event in said:
            self._bus.post(event)
        return took, resolution.chosen_ports

    def _read_named(self, sources: Sequence[AppliedSource], *, add: bool) -> list[Reading]:
        """What a person names holds profiles; what was applied before may have become empty."""
        return _read_with_folders(self._joined(sources, add=add), named=sources)

    def _joined(self, sources: Sequence[AppliedSource], *, add: bool) -> list[AppliedSource]:
        paths = {source.path for source in sources}
        kept = [one for one in self._sources if one.path not in paths] if add else []
        return [*kept, *sources]

    def _take(
        self, sources: list[AppliedSource], good: Iterable[ResolvedFile], *, forced: bool
    ) -> None:
        self._forced = forced
        self._sources, self._standing = sources, Standing(good)
        self._between, self._warnings = InBetween(), ()
        self.known = True
        self.number += 1
        self.on_change()

    def _remember(self, ports: dict[str, int]) -> None:
        # What cannot be saved now goes with the next pass: the reconciler says so, and tries again.
        with contextlib.suppress(StoreError):
            applied = Applied(self._sources, self._standing.good, self._forced)
            self._store.save_applied(applied, ports)


def _read_with_folders(
    sources: Sequence[AppliedSource], named: Sequence[AppliedSource] | None = None
) -> list[Reading]:
    readings = read_files(sources)
    return [*readings, *folders_without(sources if named is None else named, readings)]


def _about(
    sources: Sequence[AppliedSource], readings: Sequence[Reading], resolution: Resolution
) -> frozenset[str]:
    """The instances that these sources declare: with `--add`, those of others are left alone."""
    files = {reading.file for reading in readings if reading.source in sources}
    return frozenset(n for file in resolution.files if file.file in files for n in file.specs)
