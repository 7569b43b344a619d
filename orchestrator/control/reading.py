"""Files as they are on disk now: profiles, and what they name to be read along."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from orchestrator.control.in_between import Glimpse
from orchestrator.core.resolve import digest_of
from orchestrator.core.source import MAX_BYTES
from orchestrator.errors import InputError
from orchestrator.runtime.files import read_bounded
from orchestrator.runtime.state import AppliedSource

SUFFIXES = (".yaml", ".yml")


class Reading(Struct, frozen=True):
    """One profile file as it is on disk now. `data` is None when it cannot be read: see `error`.

    `written` is true when somebody is just writing it.
    """

    file: str
    source: AppliedSource
    data: bytes | None
    error: str = ""
    written: bool = False

    @property
    def revision(self) -> str:
        """Tells its contents from others; when it cannot be read, the reason does."""
        if self.data is None:
            return self.error
        return f"sha256:{hashlib.sha256(self.data).hexdigest()}"

    def glimpse(self) -> Glimpse:
        """How it looks now, which may be in the middle of a save."""
        return Glimpse(self.file, self.revision, written=self.written, bare=not self.data)


def read_files(sources: Iterable[AppliedSource]) -> list[Reading]:
    """Every file of the sources, each once: the last source that names it counts."""
    readings: dict[str, Reading] = {}
    for source in sources:
        if not source.is_folder:
            readings[source.path] = _read(source.path, source)
            continue
        try:
            names = sorted(os.listdir(source.path))
        except OSError as error:
            message = f"cannot be read: {error.strerror}"
            readings[source.path] = Reading(source.path, source, None, message)
            continue
        for name in names:
            if name.endswith(SUFFIXES) and not name.startswith("."):
                path = os.path.join(source.path, name)
                readings[path] = _read(path, source)
    return list(readings.values())


def as_drafted(readings: Iterable[Reading], drafts: Mapping[str, bytes]) -> list[Reading]:
    """As they would be if these texts, by file, were saved: those files last, so that of two files
    which contradict each other it is theirs that is blamed."""
    drafted = [
        replace(reading, data=drafts[reading.file], error="", written=False)
        if reading.file in drafts
        else reading
        for reading in readings
    ]
    return sorted(drafted, key=lambda reading: reading.file in drafts)


def folders_without(sources: Iterable[AppliedSource], readings: Sequence[Reading]) -> list[Reading]:
    """An error for each folder without a profile: named by mistake, it would stop everything."""
    used = {reading.source.path for reading in readings}
    message = "there is no profile (*.yaml, *.yml) in this folder"
    return [
        Reading(source.path, source, None, message)
        for source in sources
        if source.is_folder and source.path not in used
    ]


def _read(path: str, source: AppliedSource) -> Reading:
    try:
        data, written = read_bounded(path, MAX_BYTES)
        return Reading(path, source, data, written=written)
    except FileNotFoundError:
        return Reading(path, source, None, "the file does not exist")
    except OSError as error:
        return Reading(path, source, None, f"the file cannot be read: {error.strerror}")


def text_of(path: str) -> str | InputError:
    """What a Modelfile says, or why it cannot be read."""
    return _text_of(path)[0]


def glimpse_of(path: str) -> Glimpse:
    """How a Modelfile looks now, which may be in the middle of a save."""
    text, written = _text_of(path)
    bare = isinstance(text, InputError) or not text
    return Glimpse(path, digest_of(text), written=written, bare=bare)


def _text_of(path: str) -> tuple[str | InputError, bool]:
    written = False
    try:
        data, written = read_bounded(path, MAX_BYTES)
        if len(data) > MAX_BYTES:
            return InputError(f"{path} is larger than {MAX_BYTES >> 10} KiB"), written
        return data.decode("utf-8"), written
    except UnicodeDecodeError:
        return InputError(f"{path} is not UTF-8 text", hint="save it as UTF-8"), written
    except FileNotFoundError:
        return InputError(f"{path} does not exist"), written
    except OSError as error:
        return InputError(f"{path} cannot be read: {error.strerror}"), written
