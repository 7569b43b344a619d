"""The profiles that there are on disk, applied or not: found, read, checked, written.

They are looked for where the last `apply` would: in its profiles folder, in folders that were
applied, and beside applied files. Nothing outside of these is read or written, however it is named
or linked.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from msgspec import Struct, field

from orchestrator.control.applied import AppliedSet
from orchestrator.control.reading import SUFFIXES, Reading, read_files
from orchestrator.control.resolution import Resolution
from orchestrator.core.encoding import is_utf8
from orchestrator.core.parse import LoadedProfile, parse_profile
from orchestrator.core.plan import Action
from orchestrator.core.problem import Place, Problem, did_you_mean, listing
from orchestrator.core.reference import env_names
from orchestrator.core.source import MAX_BYTES
from orchestrator.errors import InputError
from orchestrator.runtime.files import read_bounded
from orchestrator.runtime.rewrite import ChangedMeanwhileError, rewrite
from orchestrator.runtime.state import AppliedSource

MOST = 500
"""Files that are looked at in one folder: no folder of profiles has so many."""

_LOOKS_LIKE_ONE = re.compile(rb"^[\"']?instances[\"']?\s*:", re.MULTILINE)

Shell = Callable[[Iterable[str]], dict[str, str]]
"""What the daemon's own environment gives a profile that refers to these variables."""


class UnknownProfileError(InputError):
    """No profile bears that name, or, where it is `ambiguous`, more than one."""

    reason = "not-found"

    def __init__(self, message: str, hint: str, *, ambiguous: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.ambiguous = ambiguous
        if ambiguous:
            self.reason = "ambiguous"


class ConflictError(Exception):
    """The file is another than the one that was edited; `revision` is what it is now."""

    def __init__(self, file: str, revision: str) -> None:
        super().__init__(file)
        self.file, self.revision = file, revision


class OutsideError(InputError):
    """The file is a link that leads out of the folders of profiles."""

    reason = "outside"


class ProfileFile(Struct, frozen=True):
    """One file, and how it would be applied. `source` names this file alone."""

    path: str
    source: AppliedSource
    active: bool

    @property
    def stem(self) -> str:
        return os.path.splitext(os.path.basename(self.path))[0]


class ProfileText(Struct, frozen=True):
    """What a file says, and by which word it is known that it still says so."""

    name: str
    file: str
    text: str
    revision: str


class Saved(Struct, frozen=True):
    """What came of writing a profile: nothing was written when the resolution has problems."""

    name: str
    file: str
    revision: str
    resolution: Resolution


class ProfileFiles(Struct):
    """Finds them anew for each question: folders change."""

    applied: AppliedSet
    folder: str
    """Where a profile is looked for while nothing was applied."""
    shell: Shell
    _writing: asyncio.Lock = field(default_factory=asyncio.Lock)
    _checking: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(2))

    # --- finding -------------------------------------------------------------------------------

    def folders(self) -> list[str]:
        """Where profiles lie, the usual place first."""
        return [*self._own_folders(), *self._beside()]

    def _own_folders(self) -> list[str]:
        sources = self.applied.sources
        usual = self.folder
        if sources:
            last = sources[-1]
            usual = os.path.join(last.cwd, last.env.get("ORCHESTRATE_PROFILES") or "profiles")
        folders = [os.path.normpath(usual), *(one.path for one in sources if one.is_folder)]
        return list(dict.fromkeys(folders))

    def _beside(self) -> list[str]:
        beside = [os.path.dirname(one.path) for one in self.applied.sources if not one.is_folder]
        own = self._own_folders()
        return [folder for folder in dict.fromkeys(beside) if folder not in own]

    def found(self) -> list[ProfileFile]:
        """Every profile, those of the usual place first. Reads folders: not for the event loop."""
        paths = [path for folder in self._own_folders() for path in _files_in(folder)]
        for folder in self._beside():
            paths += [path for path in _files_in(folder) if _looks_like_one(path)]
        paths += [one.path for one in self.applied.sources if not one.is_folder]
        return [self._as_found(path) for path in dict.fromkeys(paths) if is_utf8(path)]

    def _as_found(self, path: str) -> ProfileFile:
        covering = [
            one
            for one in self.applied.sources
            if one.path == path or (one.is_folder and one.path == os.path.dirname(path))
        ]
        if covering:
            last = covering[-1]
            return ProfileFile(path, AppliedSource(path, False, last.env, last.cwd), True)
        env, cwd = self.shell(_names_in(path)), os.path.dirname(self.folder)
        if self.applied.sources:
            last = self.applied.sources[-1]
            env, cwd = {**env, **last.env}, last.cwd
        return ProfileFile(path, AppliedSource(path, False, env, cwd), False)

    async def one(self, word: str) -> ProfileFile:
        """The one that a name, or a whole path, means. Raises `UnknownProfileError`."""
        return await asyncio.to_thread(self._named, word)

    def _named(self, word: str) -> ProfileFile:
        found = self.found()
        matching = [one for one in found if word in (one.path, one.stem)]
        if not matching:
            readable = [one for one in found if self._may_read(one)]
            matching = [one for one in readable if _declared_name(one) == word]
        if len(matching) == 1:
            return matching[0]
        if matching:
            paths = listing([one.path for one in matching])
            raise UnknownProfileError(
                f"several profiles are called {word!r}",
                f"name one by its path: {paths}",
                ambiguous=True,
            )
        stems = [one.stem for one in found]
        hint = did_you_mean(word, stems) or f"profiles: {listing(sorted(stems)) or 'none'}"
        raise UnknownProfileError(f"unknown profile {word!r}", hint)

    # --- reading -------------------------------------------------------------------------------

    async def rows(self) -> list[dict[str, Any]]:
        """Every profile, in the shape of `profiles --json`.

        Of an applied one the judgement that counts is the daemon's last.
        """
        judged = {one.file: [dict(error) for error in one.errors] for one in self.applied.reports()}
        rows: list[dict[str, Any]] = []
        for one in await asyncio.to_thread(self.found):
            profile = await asyncio.to_thread(loaded, one) if self._may_read(one) else None
            errors = judged.get(one.path) if one.active else None
            if errors is None:
                found = await self.problems(one) if self._may_read(one) else [_leads_out(one.path)]
                errors = [problem.shown() for problem in found]
            rows.append(
                {
                    "name": profile.name if profile else one.stem,
                    "file": one.path,
                    "active": one.active,
                    "ok": not errors,
                    "errors": errors,
                    "description": (profile.config.description if profile else None) or "",
                    "instances": list(profile.config.instances) if profile else [],
                    "gateway": profile is not None and profile.config.gateway is not None,
                }
            )
        return rows

    async def text(self, word: str) -> ProfileText:
        """What a profile says. Raises `UnknownProfileError` and `InputError`."""
        one = await self.one(word)
        try:
            data, _ = await asyncio.to_thread(read_bounded, self._inside(one.path), MAX_BYTES)
        except OSError as error:
            raise InputError(f"{one.path} cannot be read: {error.strerror}") from error
        if len(data) > MAX_BYTES:
            raise InputError(f"{one.path} is larger than {MAX_BYTES >> 10} KiB")
        text = data.decode("utf-8", "replace")
        return ProfileText(one.stem, one.path, text, revision_of(data))

    # --- checking ------------------------------------------------------------------------------

    async def problems(self, one: ProfileFile, draft: bytes | None = None) -> tuple[Problem, ...]:
        """What is wrong with a profile, or would be with this text."""
        return (await self.checked(one, draft)).problems

    async def checked(self, one: ProfileFile, draft: bytes | None = None) -> Resolution:
        """What it means, beside what is applied if it is; its own problems and warnings alone."""
        drafts = {one.path: draft} if draft is not None else {}
        sources = self.applied.sources if one.active else (one.source,)
        resolution = await self.resolved(sources, drafts)
        return Resolution(
            resolution.files,
            resolution.desired,
            tuple(p for p in resolution.problems if p.place.file == one.path),
            tuple(p for p in resolution.warnings if p.place.file == one.path),
        )

    async def resolved(
        self, sources: Sequence[AppliedSource], drafts: Mapping[str, bytes] | None = None
    ) -> Resolution:
        """What these mean. A few at a time: it takes threads that edits need, too."""
        async with self._checking:
            return await self.applied.check(sources, drafts=drafts)

    async def preview(
        self, one: ProfileFile, draft: bytes, *, add: bool, force: bool
    ) -> tuple[tuple[Action, ...], Resolution]:
        """What saving this text would do; of one that is not applied, what applying it would."""
        async with self._checking:
            if one.active:
                return await self.applied.preview([], add=True, drafts={one.path: draft})
            return await self.applied.preview(
                [one.source], add=add, force=force, drafts={one.path: draft}
            )

    # --- writing -------------------------------------------------------------------------------

    async def save(self, word: str, data: bytes, revision: str) -> Saved:
        """Write a profile, if it is still as `revision` says and the text is right.

        Raises `UnknownProfileError`, `ConflictError`, `OutsideError` and `InputError`.
        """
        one = await self.one(word)
        async with self._writing:
            path = self._inside(one.path)
            resolution = await self.checked(one, data)
            if not resolution.problems:
                await asyncio.to_thread(_write, path, data, revision)
            return Saved(one.stem, one.path, revision_of(data), resolution)

    def _inside(self, path: str) -> str:
        """The file itself, behind all links, which must lie in one of the folders."""
        real = os.path.realpath(path)
        if not _lies_in(real, self._real_folders()):
            problem = _leads_out(path)
            raise OutsideError(problem.message, hint=problem.hint)
        return real

    def _may_read(self, one: ProfileFile) -> bool:
        """What is applied is read anyway, wherever it leads."""
        return one.active or _lies_in(os.path.realpath(one.path), self._real_folders())

    def _real_folders(self) -> set[str]:
        return {os.path.realpath(folder) for folder in self.folders()}


def _leads_out(path: str) -> Problem:
    message = f"{path} is a link that leads out of the folders of profiles"
    return Problem(message, Place(path, 1, 1), hint="read and edit it where it lies")


def _lies_in(real: str, folders: set[str]) -> bool:
    """Whether a file without links is in one of these. Below `/` lies everything: of that folder,
    only what is in itself."""
    below = any(real.startswith(f"{folder}/") for folder in folders - {"/"})
    return below or os.path.dirname(real) in folders


def revision_of(data: bytes) -> str:
    """Tells a text from others."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _write(path: str, data: bytes, revision: str) -> None:
    seen = ""

    def still(now: bytes) -> bool:
        nonlocal seen
        seen = revision_of(now)
        return seen == revision

    try:
        rewrite(path, data, still=still, limit=MAX_BYTES)
    except ChangedMeanwhileError:
        raise ConflictError(path, seen) from None
    except OSError as error:
        raise InputError(
            f"{path} cannot be written: {error.strerror}", hint="see who owns it and its folder"
        ) from error


def _files_in(folder: str) -> Iterator[str]:
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return
    profiles = [name for name in names if name.endswith(SUFFIXES) and not name.startswith(".")]
    for name in profiles[:MOST]:
        yield os.path.join(folder, name)


def _looks_like_one(path: str) -> bool:
    return bool(_LOOKS_LIKE_ONE.search(_bytes_of(path)))


def _names_in(path: str) -> frozenset[str]:
    return env_names(_bytes_of(path).decode("utf-8", "replace"))


def _bytes_of(path: str) -> bytes:
    try:
        return read_bounded(path, MAX_BYTES)[0]
    except OSError:
        return b""


def _reading(one: ProfileFile) -> Reading:
    return read_files([one.source])[0]


def loaded(one: ProfileFile) -> LoadedProfile | None:
    """A profile as it would be applied, or as much of it as is right; None when there is none."""
    reading = _reading(one)
    if reading.data is None:
        return None
    parsed = parse_profile(reading.data, file=one.path, env=one.source.env)
    return parsed.profile or parsed.rest


def _declared_name(one: ProfileFile) -> str:
    profile = loaded(one)
    return profile.name if profile is not None else one.stem
