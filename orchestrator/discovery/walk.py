"""Finds the GGUF files below a folder: links followed, loops safe, unreadable folders reported.

A Hugging Face cache is a special case wherever it stands: `models--ORG--NAME/snapshots/REV/FILE`
are links to blobs, and several revisions may hold one file. The newest revision that has it wins.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from msgspec import Struct

from orchestrator.core.catalog import CatalogError
from orchestrator.core.spec import FileIdentity

MAX_DEPTH = 32
MAX_REF = 256
"""Bytes read of `refs/main`, which holds a commit id."""
HUB_PREFIX = "models--"


class GgufFile(Struct, frozen=True):
    """One file as it was found. `real` is where its bytes are, the same for two links to them.

    `hub` is `org/name/FILE` for a file of a Hugging Face cache, else empty.
    """

    path: str
    real: str
    identity: FileIdentity
    hub: str = ""


class Walk:
    """One walk over several folders. `errors` grows as they are read."""

    def __init__(self) -> None:
        self.errors: list[CatalogError] = []

    def files(self, folder: str) -> Iterator[list[GgufFile]]:
        """The GGUF files below `folder`, one list for each folder that has any, in path order."""
        yield from self._folder(folder, seen=set(), depth=0)

    def beside(self, path: str) -> list[GgufFile]:
        """The GGUF files of the folder that `path` is in."""
        folder = os.path.dirname(path)
        entries = self._entries(folder)
        return self._gguf_files(entries, os.path.realpath(folder))

    def _folder(self, folder: str, *, seen: set[str], depth: int) -> Iterator[list[GgufFile]]:
        real = os.path.realpath(folder)
        if real in seen:
            return
        seen.add(real)
        if depth > MAX_DEPTH:
            self.errors.append(CatalogError(folder, f"is more than {MAX_DEPTH} folders deep"))
            return
        entries = self._entries(folder)
        files = self._gguf_files(entries, real)
        if files:
            yield files
        for entry in entries:
            # Hidden folders are caches, version control and half-done downloads.
            if entry.name.startswith(".") or not _is_folder(entry):
                continue
            snapshots = os.path.join(entry.path, "snapshots")
            if entry.name.startswith(HUB_PREFIX) and os.path.isdir(snapshots):
                yield from self._repository(entry.path, snapshots)
            else:
                yield from self._folder(entry.path, seen=seen, depth=depth + 1)

    def _repository(self, repository: str, snapshots: str) -> Iterator[list[GgufFile]]:
        """The files of one cached repository, each in the newest revision that has it."""
        name = os.path.basename(repository).removeprefix(HUB_PREFIX).replace("--", "/", 1)
        taken: set[str] = set()
        for revision in self._revisions(repository, snapshots):
            fresh: set[str] = set()
            for files in self._folder(revision, seen=set(), depth=0):
                kept: list[GgufFile] = []
                for file in files:
                    inner = os.path.relpath(file.path, revision)
                    fresh.add(inner)
                    if inner not in taken:
                        hub = f"{name}/{inner}"
                        kept.append(GgufFile(file.path, file.real, file.identity, hub))
                if kept:
                    yield kept
            taken |= fresh

    def _revisions(self, repository: str, snapshots: str) -> list[str]:
        """Snapshot folders: what `refs/main` names first, then by age, the newest first."""
        try:
            with open(os.path.join(repository, "refs", "main"), encoding="ascii") as file:
                main = file.read(MAX_REF).strip()
        except (OSError, UnicodeDecodeError):
            main = ""
        found: list[tuple[bool, int, str]] = []
        for entry in self._entries(snapshots):
            if _is_folder(entry):
                try:
                    age = -entry.stat().st_mtime_ns
                except OSError as error:
                    self.errors.append(CatalogError(entry.path, _why_not(entry, error)))
                else:
                    found.append((entry.name != main, age, entry.path))
        return [path for _, _, path in sorted(found)]

    def _entries(self, folder: str) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(folder) as found:
                return sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            self.errors.append(CatalogError(folder, f"cannot be read: {error.strerror}"))
            return []

    def _gguf_files(self, entries: list[os.DirEntry[str]], real: str) -> list[GgufFile]:
        files: list[GgufFile] = []
        for entry in entries:
            if not entry.name.lower().endswith(".gguf") or _is_folder(entry):
                continue
            try:
                identity = identity_of(entry.path)
            except OSError as error:
                self.errors.append(CatalogError(entry.path, _why_not(entry, error)))
                continue
            path = os.path.realpath(entry.path) if entry.is_symlink() else f"{real}/{entry.name}"
            files.append(GgufFile(entry.path, path, identity))
        return files


def identity_of(path: str) -> FileIdentity:
    """Of the file that `path` leads to. Raises `OSError`."""
    info = os.stat(path)
    return FileIdentity(info.st_size, info.st_mtime_ns, info.st_ino)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        # A link that leads to itself, or through a folder that may not be entered.
        return False


def _why_not(entry: os.DirEntry[str], error: OSError) -> str:
    if entry.is_symlink() and isinstance(error, FileNotFoundError):
        return "is a link to a file that is missing (a torn download?)"
    return f"cannot be read: {error.strerror}"
