"""Notices of the kernel that something changed in a folder.

Waiting for one costs nothing at all, and it comes within a millisecond. A watcher that polls its
own queue every 10 ms takes a third of a percent of a core for that, more than all else together.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Generator, Iterable

from asyncinotify import Inotify, Mask

# Not MODIFY: what is written and still open is half a file.
_CHANGES = (
    Mask.CLOSE_WRITE
    | Mask.ATTRIB
    | Mask.MOVE
    | Mask.CREATE
    | Mask.DELETE
    | Mask.DELETE_SELF
    | Mask.MOVE_SELF
    | Mask.ONLYDIR
)


@contextlib.contextmanager
def noticing(folders: Iterable[str], act: Callable[[], None]) -> Generator[None]:
    """Call `act` in the running loop at each change directly in one of `folders`.

    A folder that cannot be watched (a file system that does not notify, a limit that is reached)
    is silent: whoever needs to be sure looks for himself from time to time.
    """
    try:
        inotify = Inotify()
    except OSError:
        yield
        return
    loop = asyncio.get_running_loop()

    def drain() -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(inotify.fd, 1 << 16)
        act()

    with inotify:
        for folder in folders:
            with contextlib.suppress(OSError):
                inotify.add_watch(folder, _CHANGES)  # pyright: ignore[reportUnknownMemberType]
        loop.add_reader(inotify.fd, drain)
        try:
            yield
        finally:
            loop.remove_reader(inotify.fd)
