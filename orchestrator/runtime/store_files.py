"""Files that become part of an Ollama store without being copied."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator, Iterable


def link_blob(store: str, path: str, digest: str) -> bool:
    """Give a file a second name, as that blob (hex digits). False where that cannot be done.

    It cannot where the store is on another file system or not ours to write to, or the file is
    another's: its time, which a server changes, could not be put right.
    """
    blob = os.path.join(store, "blobs", f"sha256-{digest}")
    try:
        if os.stat(path).st_uid != os.geteuid():
            return False
        os.makedirs(os.path.dirname(blob), mode=0o755, exist_ok=True)
        os.link(os.path.realpath(path), blob)
    except FileExistsError:
        return True
    except OSError:
        return False
    return True


class TimesKept:
    """Gives files their times back that a server touches, because they are blobs of its store.

    What several builds at once touch has the times that it had before the first of them.
    """

    def __init__(self) -> None:
        self._before: dict[str, os.stat_result] = {}
        self._under_way = 0

    @contextlib.contextmanager
    def during(self, paths: Iterable[str]) -> Generator[None]:
        """While these may be touched; a file that is another one at the end is left alone."""
        for path in paths:
            if path not in self._before:
                with contextlib.suppress(OSError):
                    self._before[path] = os.stat(path)
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1
            for path, was in self._before.items():
                _give_back(path, was)
            if not self._under_way:
                self._before.clear()


def _give_back(path: str, was: os.stat_result) -> None:
    with contextlib.suppress(OSError):
        now = os.stat(path)
        same = (now.st_ino, now.st_size) == (was.st_ino, was.st_size)
        if same and now.st_mtime_ns != was.st_mtime_ns:
            os.utime(path, ns=(now.st_atime_ns, was.st_mtime_ns))
