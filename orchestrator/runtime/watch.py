"""Tells that applied files may have changed. Never says how: whoever asks compares contents.

Folders are watched, not files, and not recursively: an editor that writes a new file and renames
it, a folder swapped by symlink and a bind-mounted file are all seen there. File systems that do
not notify (network shares, some mounts) are looked at on a slow timer.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Iterable

RECHECK = 2.0
"""Seconds between looks at what may not notify."""

QUIET = 0.01
"""Seconds without a notice after which a burst is over."""

LONGEST_BURST = 10
"""Times that quiet is waited for, when it does not come."""

Stamp = tuple[tuple[int, int, int] | None, ...]


def folders_of(paths: Iterable[str]) -> frozenset[str]:
    """The existing folders in which a change to one of `paths` shows, links followed."""
    found: set[str] = set()
    for path in paths:
        for one in (path, os.path.realpath(path)):
            folder = one if os.path.isdir(one) else os.path.dirname(one)
            if os.path.isdir(folder):
                found.add(folder)
        found.update(map(os.path.dirname, _links_of(path)))
    return frozenset(found)


def _links_of(path: str) -> Iterable[str]:
    """The links on the way to `path`, its own included: each may be swapped where it lies."""
    way = os.path.abspath(path)
    while way != os.path.dirname(way):
        if os.path.islink(way):
            yield way
        way = os.path.dirname(way)


def stamp(paths: Iterable[str]) -> Stamp:
    """Changes whenever one of the files does, at the cost of a stat for each."""
    found: list[tuple[int, int, int] | None] = []
    for path in paths:
        try:
            stat = os.stat(path)
        except OSError:
            found.append(None)
        else:
            found.append((stat.st_size, stat.st_mtime_ns, stat.st_ino))
    return tuple(found)


def _look(paths: list[str]) -> tuple[frozenset[str], Stamp]:
    return folders_of(paths), stamp(paths)


class Watch:
    """Yields when something may have changed under `paths()`, which is asked anew each time."""

    def __init__(self, paths: Callable[[], list[str]]) -> None:
        self._paths = paths
        self._stirred = asyncio.Event()

    def look_again(self) -> None:
        """The set of paths is another now."""
        self._stirred.set()

    async def changes(self) -> AsyncIterator[None]:
        """Forever. A burst is one change."""
        # Slow to load, and of no use before the first instances are under way.
        from orchestrator.runtime.inotify import noticing

        while True:
            paths = self._paths()
            # In a thread, here and below: a network mount that hangs must not hold up the loop.
            folders = await asyncio.to_thread(folders_of, paths)
            with noticing(folders, self._stirred.set):
                seen: Stamp | None = None
                while self._paths() == paths:
                    still, now = await asyncio.to_thread(_look, paths)
                    if still != folders:
                        break
                    if now != seen:
                        seen = now
                        yield
                    await self._stir(within=RECHECK if paths else None)

    async def _stir(self, *, within: float | None) -> None:
        """Until something happens, and that has come to an end; or until the time is over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                await self._stirred.wait()
        for _ in range(LONGEST_BURST):
            if not self._stirred.is_set():
                break
            self._stirred.clear()
            await asyncio.sleep(QUIET)
