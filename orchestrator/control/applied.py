"""The applied set: which files count, what they mean, and what is wrong with them now.

Owns that knowledge and its record in the store. Its only effect on the world is the `NewDesired`
that it posts. An edit that is invalid changes nothing; the verb `apply` is all or nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import posixpath
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from orchestrator.control.bus import Bus, NewDesired
from orchestrator.control.reconciler import Reconciler
from orchestrator.control.resolution import (
    Machine,
    Reading,
    Resolution,
    folders_without,
    read_files,
    resolve_readings,
    text_of,
)
from orchestrator.core.event import Event, EventType
from orchestrator.core.plan import Action, preview
from orchestrator.core.problem import Place, Problem
from orchestrator.core.reference import env_names
from orchestrator.core.report import ProfileReport
from orchestrator.core.resolve import Conflict, ResolvedFile, digest_of, unite
from orchestrator.core.spec import Desired
from orchestrator.errors import InputError
from orchestrator.runtime.identity import boot_clock
from orchestrator.runtime.state import Applied, AppliedSource, Store, StoreError

GONE_AFTER = 2.0
"""Seconds after which a file that left an applied folder is taken out of the set."""

MachineNow = Callable[[], Machine]


@dataclass(frozen=True, slots=True)
class Accepted:
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


@dataclass(frozen=True, slots=True)
class Rejected:
    """An apply that changed nothing, and everything that is wrong."""

    problems: tuple[Problem, ...]

    def as_json(self) -> dict[str, Any]:
        return {"errors": [problem.as_json() for problem in self.problems]}


@dataclass(frozen=True, slots=True)
class _Wrong:
    """A file that cannot be taken up: as it was when it was looked at, and why not."""

    revision: str
    problems: tuple[Problem, ...]
    reads: Mapping[str, str]


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
        self._sources: list[AppliedSource] = applied.sources if applied else []
        self._good: dict[str, ResolvedFile] = {f.file: f for f in applied.files} if applied else {}
        self._wrong: dict[str, _Wrong] = {}
        self._missing_since: dict[str, float] = {}
        self._warnings: tuple[Problem, ...] = ()
        self.number = 0
        """Counts what was applied by this daemon: whoever waits for one sees that another came."""
        self.on_change: Callable[[], None] = lambda: None
        """Called when another set of files counts."""

    @property
    def paths(self) -> list[str]:
        """Files and folders whose change matters."""
        sources = (source.path for source in self._sources)
        return list(dict.fromkeys([*sources, *self._good, *self._wrong, *self._read_along()]))

    def _read_along(self) -> list[str]:
        """The files that those profiles say to read."""
        known = [file.reads for file in (*self._good.values(), *self._wrong.values())]
        return [path for reads in known for path in reads]

    def known_desired(self) -> Desired:
        """What was last known to be desired: nothing, when nothing is known."""
        return self._union()

    def resume(self, *, nothing_runs: bool) -> None:
        """Post what was last known to be desired, before any file is read again.

        A store that is new knows nothing: with `nothing_runs`, nothing is what is desired.
        """
        if self.known or (nothing_runs and self._store.set_aside is None):
            self._bus.post(NewDesired(self._union(), renew=False, number=self.number))

    def reports(self) -> list[ProfileReport]:
        """Every applied file, valid or not."""
        found: dict[str, ProfileReport] = {}
        for file in self._good.values():
            wrong = self._wrong.get(file.file)
            problems = wrong.problems if wrong else ()
            errors = tuple(_shown(problem) for problem in problems)
            found[file.file] = ProfileReport(
                file.name, file.file, file.revision, not errors, errors
            )
        for path, wrong in self._wrong.items():
            if path not in found:
                errors = tuple(_shown(problem) for problem in wrong.problems)
                found[path] = ProfileReport("", path, "", False, errors)
        return list(found.values())

    def warnings(self) -> list[str]:
        return [f"{w.place.file}:{w.place.line}: {w.message}" for w in self._warnings]

    async def preview(
        self, sources: Sequence[AppliedSource], *, add: bool
    ) -> tuple[tuple[Action, ...], Resolution]:
        """What applying would do. Touches nothing."""
        readings = await asyncio.to_thread(self._read_named, sources, add=add)
        resolution = await self._resolve(readings)
        actions = preview(resolution.desired, self._reconciler.observed, boot_clock())
        return actions, resolution

    async def apply(self, sources: Sequence[AppliedSource], *, add: bool) -> Accepted | Rejected:
        """Make these (with `add`: these too) the applied set, if all of it is right."""
        async with self._lock:
            joined = self._joined(sources, add=add)
            readings = await asyncio.to_thread(self._read_named, sources, add=add)
            resolution = await self._resolve(readings)
            if resolution.problems:
                return Rejected(resolution.problems)
            actions = preview(resolution.desired, self._reconciler.observed, boot_clock())
            names = tuple(file.name for file in resolution.files)
            self._take(joined, {file.file: file for file in resolution.files})
            self._warnings = resolution.warnings
            self._remember(resolution.chosen_ports)
            after = self._bus.last_id
            what = ", ".join(names) or "nothing"
            event = self._bus.stamp(
                Event(EventType.APPLIED, message=what, data={"number": self.number})
            )
            self._bus.post(
                NewDesired(resolution.desired, renew=True, number=self.number, event=event)
            )
            return Accepted(self.number, after, actions, resolution.warnings, names)

    async def remove(self, words: Sequence[str]) -> tuple[str, ...]:
        """Take profiles out, by path or by name. Raises `InputError` for one that is not in."""
        async with self._lock:
            leaving: set[str] = set()
            for word in words:
                match = [s.path for s in self._sources if s.path == word]
                match += [
                    source.path
                    for file in self._good.values()
                    for source in self._sources
                    if file.name == word and file.file == source.path
                ]
                if not match:
                    raise self._not_applied(word)
                leaving.update(match)
            sources = [s for s in self._sources if s.path not in leaving]
            prefixes = tuple(f"{path}/" for path in leaving)
            good = {
                path: file
                for path, file in self._good.items()
                if path not in leaving and not path.startswith(prefixes)
            }
            self._take(sources, good)
            self._remember({})
            event = self._bus.stamp(
                Event(
                    EventType.APPLIED,
                    message=f"without {', '.join(sorted(leaving))}",
                    data={"number": self.number},
                )
            )
            self._bus.post(NewDesired(self._union(), renew=False, number=self.number, event=event))
            return tuple(sorted(leaving))

    def _not_applied(self, word: str) -> InputError:
        folders = [source.path for source in self._sources if source.is_folder]
        for file in self._good.values():
            folder = posixpath.dirname(file.file)
            if word in (file.name, file.file) and folder in folders:
                return InputError(
                    f"{word} is applied as a part of the folder {folder}",
                    hint="remove the folder, or take the file out of it",
                )
        names = ", ".join(sorted(f.name for f in self._good.values())) or "none"
        return InputError(f"{word} is not applied", hint=f"applied profiles: {names}")

    async def clear(self) -> None:
        """Nothing is applied any more: every instance stops."""
        async with self._lock:
            self._take([], {})
            self._remember({})
            event = self._bus.stamp(
                Event(EventType.APPLIED, message="nothing", data={"number": self.number})
            )
            self._bus.post(NewDesired({}, renew=False, number=self.number, event=event))

    async def refresh(self, *, anew: bool = False) -> None:
        """Look at the files again; take up those that changed and are valid.

        `anew` resolves also what did not change: the machine did.
        """
        async with self._lock:
            if not self._sources:
                return
            # In a thread: a network mount that hangs must not hold up the loop.
            readings, reads = await asyncio.to_thread(
                _look, list(self._sources), self._read_along()
            )
            dropped = self._dropped(readings)
            changed = [r for r in readings if anew or self._differs(r, reads)]
            took, ports = await self._take_up(changed)
            if took or dropped:
                # What was refused because of another file may be right now.
                refused = [r for r in readings if r.file in self._wrong and r not in changed]
                more, more_ports = await self._take_up(refused)
                took, ports = took + more, ports | more_ports
            if took or dropped:
                self._remember(ports)
                names = ", ".join(self._good[path].name for path in took if path in self._good)
                gone = f" without {', '.join(dropped)}" if dropped else ""
                event = self._bus.stamp(
                    Event(EventType.APPLIED, reason="edited", message=f"{names}{gone}".strip())
                )
                self._bus.post(
                    NewDesired(self._union(), renew=False, number=self.number, event=event)
                )

    def _differs(self, reading: Reading, reads: Mapping[str, str]) -> bool:
        """Whether a file, or one that it says to read, is another than when it was last looked
        at. `reads` are the digests of the latter now."""
        revision = reading.revision if reading.data is not None else reading.error
        known = self._wrong.get(reading.file) or self._good.get(reading.file)
        if known is None or known.revision != revision:
            return True
        return any(reads.get(path, digest) != digest for path, digest in known.reads.items())

    def _dropped(self, readings: Sequence[Reading]) -> list[str]:
        """Files that left an applied folder long enough ago.

        What is named directly never goes: neither a file, nor a folder with all that is in it.
        """
        now = boot_clock()
        present = {reading.file for reading in readings}
        named = {source.path for source in self._sources}
        away = tuple(f"{r.file}/" for r in readings if r.source.is_folder and r.file in named)
        dropped: list[str] = []
        for path in list(self._good):
            if path in present or path in named or path.startswith(away):
                self._missing_since.pop(path, None)
            elif now - self._missing_since.setdefault(path, now) >= GONE_AFTER:
                del self._good[path], self._missing_since[path]
                dropped.append(path)
        for path in [one for one in self._wrong if one not in present and one not in self._good]:
            del self._wrong[path]
        return dropped

    @property
    def waits_for_files(self) -> bool:
        """True while a file is missing from a folder, and not yet taken out."""
        return bool(self._missing_since)

    async def _resolve(
        self, readings: Sequence[Reading], *, beside: Sequence[ResolvedFile] = ()
    ) -> Resolution:
        """In a thread. The ports of the files `beside` are taken."""
        machine = self._machine()
        kept = {spec.endpoint.port for file in beside for spec in file.specs.values()}
        promises = machine.promises
        for file in beside:
            promises = promises.and_of_specs(file.specs.values())
        machine = replace(machine, taken_ports=machine.taken_ports | kept, promises=promises)
        return await asyncio.to_thread(resolve_readings, readings, machine)

    async def _take_up(self, readings: Sequence[Reading]) -> tuple[list[str], dict[str, int]]:
        """Resolve these anew. The files that mean something else now, and the chosen ports."""
        if not readings:
            return [], {}
        # What is on its way out may only be on its way to another name, with its ports.
        leaving = {reading.file for reading in readings} | self._missing_since.keys()
        beside = [file for file in self._good.values() if file.file not in leaving]
        resolution = await self._resolve(readings, beside=beside)
        return self._sort_out(readings, resolution), resolution.chosen_ports

    def _sort_out(self, changed: Sequence[Reading], resolution: Resolution) -> list[str]:
        """Valid files become the good ones; the others are reported. Returns the former."""
        by_file: dict[str, list[Problem]] = {}
        shells = {reading.file: reading.source.env for reading in changed}
        for problem in resolution.problems:
            file = problem.place.file
            by_file.setdefault(file, []).append(_as_of_an_edit(problem, shells.get(file, {})))
        candidates = {f.file: f for f in resolution.files if f.file not in by_file}
        for conflict in self._conflicts(candidates):
            place = Place(conflict.file, 1, 1)
            by_file.setdefault(conflict.file, []).append(
                Problem(conflict.message, place, ("instances", conflict.instance), conflict.hint)
            )
        reads = {file.file: file.reads for file in resolution.files}
        for reading in changed:
            problems = tuple(by_file.get(reading.file, ()))
            self._judge(reading, problems, reads.get(reading.file, {}))
        took = [path for path, file in candidates.items() if self._good.get(path) != file]
        self._good.update(candidates)
        return took

    def _conflicts(self, candidates: dict[str, ResolvedFile]) -> Iterator[Conflict]:
        """Takes out of `candidates` what contradicts the rest; `file` is the one that was."""
        while True:
            _, conflicts = unite({**self._good, **candidates}.values())
            for conflict in conflicts:
                # Whichever of the two files the union names: it is the edited one that is wrong.
                blamed = conflict.file if conflict.file in candidates else conflict.other
                if candidates.pop(blamed, None) is not None:
                    yield replace(conflict, file=blamed)
                    break
            else:
                return

    def _judge(
        self, reading: Reading, problems: tuple[Problem, ...], reads: Mapping[str, str]
    ) -> None:
        """Say what is wrong with a file, or that nothing is any more; but not twice."""
        revision = reading.revision if reading.data is not None else reading.error
        known = self._wrong.pop(reading.file, None)
        if problems:
            self._wrong[reading.file] = wrong = _Wrong(revision, problems, reads)
            if known == wrong:
                return
            first = problems[0]
            what = f"{reading.file}:{first.place.line}: {first.message}"
            message = f"{what}; its last good state stays in force"
            self._bus.post(Event(EventType.PROFILE_ERROR, reason="invalid", message=message))
        elif known is not None:
            message = f"{reading.file} is valid again"
            self._bus.post(Event(EventType.PROFILE_OK, message=message))

    def _union(self) -> Desired:
        return unite(self._good.values())[0]

    def _read_named(self, sources: Sequence[AppliedSource], *, add: bool) -> list[Reading]:
        """What a person names holds profiles; what was applied before may have become empty."""
        readings = read_files(self._joined(sources, add=add))
        return [*readings, *folders_without(sources, readings)]

    def _joined(self, sources: Sequence[AppliedSource], *, add: bool) -> list[AppliedSource]:
        paths = {source.path for source in sources}
        kept = [one for one in self._sources if one.path not in paths] if add else []
        return [*kept, *sources]

    def _take(self, sources: list[AppliedSource], good: dict[str, ResolvedFile]) -> None:
        self._sources, self._good, self._wrong = sources, good, {}
        self._missing_since, self._warnings = {}, ()
        self.known = True
        self.number += 1
        self.on_change()

    def _remember(self, ports: dict[str, int]) -> None:
        # What cannot be saved now goes with the next pass: the reconciler says so, and tries again.
        with contextlib.suppress(StoreError):
            self._store.save_applied(Applied(self._sources, list(self._good.values())), ports)


def _look(
    sources: Sequence[AppliedSource], along: Sequence[str]
) -> tuple[list[Reading], dict[str, str]]:
    """The profiles as they are now, and the digests of what they say to read."""
    return read_files(sources), {path: digest_of(text_of(path)) for path in along}


def _shown(problem: Problem) -> dict[str, Any]:
    """For everybody who asks: without the line itself, which may hold a secret."""
    return {key: value for key, value in problem.as_json().items() if key != "source"}


def _as_of_an_edit(problem: Problem, shell: Mapping[str, str]) -> Problem:
    """A variable that the last `apply` did not bring along: only another one can."""
    missing = [
        name
        for name in env_names(problem.place.source)
        if name not in shell and f"{name} is not set" in problem.message
    ]
    if not missing:
        return problem
    hint = f"run apply again, from a shell that has {missing[0]}: the last one had not"
    return replace(problem, hint=hint)
