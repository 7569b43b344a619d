"""Notices of the kernel that something changed at a place.

Waiting for one costs nothing at all, and it comes within a millisecond. A watcher that polls its
own queue every 10 ms takes a third of a percent of a core for that, more than all else together.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import os
import struct
from collections.abc import Callable
from typing import Self

from orchestrator.runtime.places import Place, Places

# Of <sys/inotify.h>. Not MODIFY: what is written and still open is half a file.
_ATTRIB, _CLOSE_WRITE = 0x4, 0x8
_MOVED_FROM, _MOVED_TO, _MOVE_SELF = 0x40, 0x80, 0x800
_CREATE, _DELETE, _DELETE_SELF = 0x100, 0x200, 0x400
_CHANGES = (
    _ATTRIB
    | _CLOSE_WRITE
    | (_MOVED_FROM | _MOVED_TO | _MOVE_SELF)
    | (_CREATE | _DELETE | _DELETE_SELF)
)
_IGNORED = 0x8000
_EVENT = struct.Struct("iIII")

_USED_UP = {
    errno.EMFILE: "there is no inotify instance left (sysctl fs.inotify.max_user_instances)",
    errno.ENOSPC: "there is no inotify watch left (sysctl fs.inotify.max_user_watches)",
}

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def open_inotify() -> int:
    """A descriptor that is read without blocking. Raises OSError when there is none left."""
    return _checked(_libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK))


class Notices:
    """Calls `act` in the running loop at each change to a place that is watched: a file, and what
    lies directly in a folder.

    One descriptor for all of its life: to close one takes the kernel tens of milliseconds.
    """

    def __init__(self, act: Callable[[], None]) -> None:
        self._act = act
        self._descriptor: int | None = None
        self._watched: dict[Place, int] = {}
        self.lost = False
        """A watch has ended with its file since the last call of `watch`. What lies there now may
        be the same place again: a number of an inode that was freed is soon given out anew."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._descriptor is not None:
            asyncio.get_running_loop().remove_reader(self._descriptor)
            os.close(self._descriptor)

    def watch(self, places: Places) -> str:
        """Watch these from now on, and no others.

        Returns what the kernel lacks for that: then some places are silent, and whoever needs to
        be sure looks for himself. It is empty where all is well, and also for places that are gone
        again, may not be watched, or lie on a file system that does not notify: nothing says so.
        """
        try:
            descriptor = self._opened()
        except OSError as error:
            what = f"inotify does not work here: {error.strerror}"
            return _USED_UP.get(error.errno or 0, what)
        self.lost = False
        for place in self._watched.keys() - places:
            number = self._watched.pop(place)
            # Two paths to one file are one watch. It may have gone with its file by itself.
            if number not in self._watched.values():
                _libc.inotify_rm_watch(descriptor, number)
        lack = ""
        for place in places - self._watched.keys():
            path = os.fsencode(place[0])
            try:
                number = _checked(_libc.inotify_add_watch(descriptor, path, _CHANGES))
            except OSError as error:
                lack = lack or _USED_UP.get(error.errno or 0, "")
            else:
                self._watched[place] = number
        return lack

    def _opened(self) -> int:
        if self._descriptor is None:
            self._descriptor = open_inotify()
            asyncio.get_running_loop().add_reader(self._descriptor, self._drain, self._descriptor)
        return self._descriptor

    def _drain(self, descriptor: int) -> None:
        said = b""
        with contextlib.suppress(BlockingIOError):
            said = os.read(descriptor, 1 << 16)
        at, changed = 0, False
        while at < len(said):
            number, what, _, length = _EVENT.unpack_from(said, at)
            at += _EVENT.size + length
            # The end of a watch that was asked for is no change of anything.
            if not what & _IGNORED or self._forget(number):
                changed = True
        if changed:
            self._act()

    def _forget(self, number: int) -> bool:
        """A watch has ended; whether it was one that is still wanted. No number comes twice."""
        ended = [place for place, one in self._watched.items() if one == number]
        for place in ended:
            del self._watched[place]
        self.lost = self.lost or bool(ended)
        return bool(ended)
