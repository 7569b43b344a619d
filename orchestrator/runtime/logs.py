"""The instances' output: plain files that the processes write themselves.

A file is opened with O_APPEND and handed over, no pipe: a daemon that dies blocks nobody, and
rotation by copy-and-truncate is safe while the process writes. At each start the old file becomes
`.1`, so that runs are told apart.
"""

from __future__ import annotations

import contextlib
import os
import re

from msgspec import Struct

MAX_BYTES = 16 * 1024 * 1024
"""A log that is longer is rotated while its process runs."""

KEEP = 4
"""Older files kept, `.1` being the youngest."""


class Logs(Struct, frozen=True):
    """The log folder of one state folder."""

    folder: str

    def path(self, name: str, back: int = 0) -> str:
        """The log of an instance; `back` counts older runs."""
        suffix = f".{back}" if back else ""
        return os.path.join(self.folder, f"{name}.log{suffix}")

    def begin(self, name: str) -> int:
        """Move the last run's log aside and open a new one; the caller closes the descriptor.

        Raises OSError when the disk is full or the folder cannot be made.
        """
        os.makedirs(self.folder, mode=0o700, exist_ok=True)
        path = self.path(name)
        if os.path.exists(path) and os.path.getsize(path) > 0:
            self._shift(name)
            os.replace(path, self.path(name, 1))
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def take_over(self, name: str, other: str, pid: int) -> None:
        """The log of `other`, where that is what a process writes to, is the one of `name` from now
        on; whoever still writes to the former goes on in `.1`.

        Raises OSError.
        """
        source, path = self.path(other), self.path(name)
        if not _writes_to(pid, source):
            return
        if os.path.exists(path):
            self._shift(name)
            os.replace(path, self.path(name, 1))
        os.replace(source, path)

    def _shift(self, name: str) -> None:
        for back in range(KEEP - 1, 0, -1):
            if os.path.exists(self.path(name, back)):
                os.replace(self.path(name, back), self.path(name, back + 1))

    def rotate_large(self, name: str, *, limit: int = MAX_BYTES) -> bool:
        """Copy and truncate a log that grew past `limit` bytes. True when it was."""
        path = self.path(name)
        aside = f"{path}.rotating"
        try:
            log = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            if os.fstat(log).st_size <= limit:
                return False
            _move_content(log, aside)
        except OSError:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(aside)
            raise
        finally:
            os.close(log)
        self._shift(name)
        os.replace(aside, self.path(name, 1))
        return True

    def open_for_reading(self, name: str, *, back: int = 0, pid: int | None = None) -> int | None:
        """A descriptor to read from; of the process itself when its file was removed."""
        candidates = [self.path(name, back)]
        if pid is not None and not back:
            candidates.append(f"/proc/{pid}/fd/1")
        for candidate in candidates:
            try:
                return os.open(candidate, os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                continue
        return None


def _writes_to(pid: int, path: str) -> bool:
    """Whether it is the very file that a process writes its output to."""
    try:
        return os.path.samestat(os.stat(f"/proc/{pid}/fd/1"), os.stat(path))
    except OSError:
        return False


def tail(fd: int, lines: int, *, limit: int = 1 << 20) -> bytes:
    """The last `lines` whole lines, and no more than `limit` bytes, without reading the rest.

    Leaves the descriptor at the end of what was returned: whoever reads on misses nothing.
    """
    start = os.lseek(fd, 0, os.SEEK_END)
    lowest = max(0, start - limit)
    chunks: list[bytes] = []
    breaks = 0
    while start > lowest and breaks <= lines:
        end, start = start, max(lowest, start - 65536)
        chunks.append(os.pread(fd, end - start, start))
        breaks += chunks[-1].count(b"\n")
    data = b"".join(reversed(chunks))
    at = len(data) - data.endswith(b"\n")
    for _ in range(lines):
        at = data.rfind(b"\n", 0, at)
        if at < 0:
            return data
    return data[at + 1 :]


def _move_content(log: int, target: str) -> None:
    """Copy all of a file that is still written to, and empty it.

    What is written after the last look and before the cut is lost: there is nothing in between.
    """
    copy = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        while os.sendfile(copy, log, None, 1 << 24):  # pyright: ignore[reportArgumentType]
            pass
        os.ftruncate(log, 0)
    finally:
        os.close(copy)


def last_lines(logs: Logs, name: str, count: int) -> list[str]:
    """The last lines that say something, for an error message: decoded, stripped of escapes."""
    fd = logs.open_for_reading(name)
    if fd is None:
        return []
    try:
        raw = tail(fd, count * 4)
    finally:
        os.close(fd)
    lines = [printable(line) for line in raw.decode("utf-8", "replace").splitlines()]
    return [line for line in lines if line][-count:]


_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\))")
"""Colours, movements, and titles of a terminal."""


def printable(line: str) -> str:
    """A line that can do no harm to a terminal: no control characters, no endless length."""
    text = _ESCAPE.sub("", line).strip()[:500]
    return "".join(c if c.isprintable() or c == "\t" else "\N{REPLACEMENT CHARACTER}" for c in text)
