"""One look at the applied files: what is there now, and what of it is another than was taken up."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec import Struct

from orchestrator.control.in_between import Glimpse
from orchestrator.control.reading import Reading, glimpse_of, read_files
from orchestrator.control.standing import Standing
from orchestrator.runtime.state import AppliedSource


class FileLook(Struct, frozen=True):
    """The profiles as they are now, and what they say to read, by path; beside what stands."""

    readings: list[Reading]
    along: dict[str, Glimpse]
    _sources: Sequence[AppliedSource]
    _standing: Standing

    def missing(self) -> list[str]:
        """Files that left an applied folder.

        What is named directly never goes: neither a file, nor a folder with all that is in it.
        """
        present = {reading.file for reading in self.readings}
        named = {source.path for source in self._sources}
        away = tuple(f"{r.file}/" for r in self.readings if r.source.is_folder and r.file in named)
        good = (file.file for file in self._standing.good)
        return [
            path for path in good if path not in (present | named) and not path.startswith(away)
        ]

    def differing(self, missing: Sequence[str]) -> Iterator[Glimpse]:
        """All that is another than it was."""
        yield from (Glimpse(path, "", bare=True) for path in missing)
        for reading in self.readings:
            if self._standing.differs(reading):
                yield reading.glimpse()
            for path in self._changed_along(reading):
                yield self.along[path]

    def is_settled(self, reading: Reading, unsettled: frozenset[str]) -> bool:
        """Whether neither the file nor what it says to read may be in the middle of a save."""
        return unsettled.isdisjoint([reading.file, *self._changed_along(reading)])

    def changed(self, reading: Reading) -> bool:
        """Whether the file, or what it says to read, is another than it was."""
        return bool(self._changed_along(reading)) or self._standing.differs(reading)

    def _changed_along(self, reading: Reading) -> Sequence[str]:
        return self._standing.changed_along(reading.file, self.along)


def look_at(sources: Sequence[AppliedSource], along: Sequence[str], standing: Standing) -> FileLook:
    """Reads files: not for the event loop. `along` are the paths that profiles say to read."""
    seen = {path: glimpse_of(path) for path in along}
    return FileLook(read_files(sources), seen, sources, standing)
