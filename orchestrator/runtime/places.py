"""Where on disk a change to a path shows, and whether anything did change."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

Stamp = tuple[tuple[int, ...] | None, ...]

Place = tuple[str, int, int]
"""An existing file or folder: path, device, inode."""

Places = frozenset[Place]

_MOST_LINKS = 40
"""Where the kernel gives up, too."""


def places_of(paths: Iterable[str]) -> Places:
    """What has to be watched to learn of every change to `paths`.

    The file itself, for it may be written through another name (a bind mount, a hard link). Its
    folder, for it may be replaced. The folder of each link on the way to it, for that may point
    elsewhere. Of what does not exist, the folder in which the way to it ends now.
    """
    found: set[Place] = set()
    for place in {place for path in paths for place in _way_to(path)}:
        try:
            stat = os.stat(place)
        except OSError:
            continue
        found.add((place, stat.st_dev, stat.st_ino))
    return frozenset(found)


def _way_to(path: str) -> Iterator[str]:
    at, rest, links = "/", os.path.abspath(path).split("/"), 0
    while rest:
        step = rest.pop(0)
        one = os.path.normpath(os.path.join(at, step))
        try:
            target = os.readlink(one)
        except OSError:
            if not os.path.lexists(one):
                yield at
                return
            at = one
            continue
        yield at
        links += 1
        if links > _MOST_LINKS:
            return
        # An absolute target begins with "", whose place is where we are: so go to the root first.
        at = "/" if target.startswith("/") else at
        rest = target.split("/") + rest
    yield at
    if not os.path.isdir(at):
        yield os.path.dirname(at)


def stamp(paths: Iterable[str]) -> Stamp:
    """Changes whenever one of the files does, at the cost of a stat for each; but not when it is
    written twice within a tick of the kernel's clock (up to 10 ms), as long as before."""
    found: list[tuple[int, ...] | None] = []
    for path in paths:
        try:
            stat = os.stat(path)
        except OSError:
            found.append(None)
        else:
            who = (stat.st_dev, stat.st_ino, stat.st_size)
            found.append((*who, stat.st_mtime_ns, stat.st_ctime_ns))
    return tuple(found)
