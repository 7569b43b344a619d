"""What applied files meant when they were last valid, and what is wrong with them now."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from orchestrator.control.in_between import Glimpse
from orchestrator.control.reading import Reading
from orchestrator.control.resolution import Resolution
from orchestrator.core.event import Event, EventType
from orchestrator.core.problem import Place, Problem
from orchestrator.core.reference import env_names
from orchestrator.core.report import ProfileReport
from orchestrator.core.resolved import ResolvedFile
from orchestrator.core.spec import Desired
from orchestrator.core.union import Conflict, unite


class _Wrong(Struct, frozen=True):
    """A file that cannot be taken up: as it was when it was looked at, and why not."""

    revision: str
    problems: tuple[Problem, ...]
    reads: Mapping[str, str]


class Standing:
    """Decides what an edit is worth: a valid file is the good one from then on, an invalid one is
    wrong, and its last good state stays in force."""

    def __init__(self, files: Iterable[ResolvedFile] = ()) -> None:
        self._good: dict[str, ResolvedFile] = {file.file: file for file in files}
        self._wrong: dict[str, _Wrong] = {}

    @property
    def good(self) -> list[ResolvedFile]:
        """What counts, whatever the files look like now."""
        return list(self._good.values())

    @property
    def paths(self) -> list[str]:
        """Files that are known, good or wrong, and then those that they say to read."""
        return [*self._good, *self._wrong, *self.read_along]

    @property
    def read_along(self) -> list[str]:
        """The files that those profiles say to read."""
        known = [file.reads for file in (*self._good.values(), *self._wrong.values())]
        return [path for reads in known for path in reads]

    def is_wrong(self, path: str) -> bool:
        return path in self._wrong

    def union(self) -> Desired:
        """What all that is good means together."""
        return unite(self._good.values())[0]

    def reports(self) -> list[ProfileReport]:
        """Every applied file, valid or not."""
        found: dict[str, ProfileReport] = {}
        for file in self._good.values():
            wrong = self._wrong.get(file.file)
            problems = wrong.problems if wrong else ()
            errors = tuple(problem.shown() for problem in problems)
            found[file.file] = ProfileReport(
                file.name, file.file, file.revision, not errors, errors
            )
        for path, wrong in self._wrong.items():
            if path not in found:
                errors = tuple(problem.shown() for problem in wrong.problems)
                found[path] = ProfileReport("", path, "", False, errors)
        return list(found.values())

    def differs(self, reading: Reading) -> bool:
        """Whether a file is another than when it was last looked at."""
        known = self._known(reading.file)
        return known is None or known.revision != reading.revision

    def changed_along(self, file: str, along: Mapping[str, Glimpse]) -> list[str]:
        """Which of the files that it says to read are others now."""
        known = self._known(file)
        reads = known.reads if known is not None else {}
        return [
            path
            for path, digest in reads.items()
            if path in along and along[path].revision != digest
        ]

    def _known(self, file: str) -> _Wrong | ResolvedFile | None:
        return self._wrong.get(file) or self._good.get(file)

    def drop(self, gone: Iterable[str]) -> None:
        """These files left for good."""
        for path in gone:
            self._good.pop(path, None)

    def forget_wrong(self, present: Iterable[str]) -> None:
        """What never was good, and is not `present` any more, was nothing."""
        there = {*present, *self._good}
        self._wrong = {path: wrong for path, wrong in self._wrong.items() if path in there}

    def sort_out(
        self, changed: Sequence[Reading], resolution: Resolution
    ) -> tuple[list[str], list[Event]]:
        """Valid files become the good ones, the others are wrong. Which of the former mean
        something else now, and what there is to say."""
        by_file: dict[str, list[Problem]] = {}
        shells = {reading.file: reading.source.env for reading in changed}
        for problem in resolution.problems:
            file = problem.place.file
            by_file.setdefault(file, []).append(_as_of_an_edit(problem, shells.get(file, {})))
        candidates = {f.file: f for f in resolution.files if f.file not in by_file}
        for conflict in self._conflicts(candidates):
            place = Place(conflict.file, 1, 1)
            by_file.setdefault(conflict.file, []).append(
                Problem(conflict.message, place, conflict.where, conflict.hint)
            )
        reads = {file.file: file.reads for file in resolution.files}
        said = [
            event
            for reading in changed
            for event in self._judge(
                reading, tuple(by_file.get(reading.file, ())), reads.get(reading.file, {})
            )
        ]
        took = [path for path, file in candidates.items() if self._good.get(path) != file]
        self._good.update(candidates)
        return took, said

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
    ) -> Iterator[Event]:
        """Say what is wrong with a file, or that nothing is any more; but not twice."""
        known = self._wrong.pop(reading.file, None)
        if problems:
            self._wrong[reading.file] = wrong = _Wrong(reading.revision, problems, reads)
            if known == wrong:
                return
            first = problems[0]
            what = f"{reading.file}:{first.place.line}: {first.message}"
            message = f"{what}; its last good state stays in force"
            yield Event(EventType.PROFILE_ERROR, reason="invalid", message=message)
        elif known is not None:
            message = f"{reading.file} is valid again"
            yield Event(EventType.PROFILE_OK, message=message)


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
