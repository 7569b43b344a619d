"""Whether somebody is just writing a file: the kernel knows, and a read lease asks it."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import signal
from collections.abc import Generator

_SHARES = frozenset(
    {
        0x6969,  # NFS: refused without a delegation of its server
        0xFF534D42,  # CIFS, SMB 2 and SMB: refused without an oplock
        0xFE534D42,
        0x517B,
        0x01021997,  # 9p
        0x65735546,  # FUSE
    }
)
"""Kinds of file systems (`statfs(2)`) that may refuse a lease though nobody writes."""

_libc = ctypes.CDLL(None)


def file_system_of(descriptor: int) -> int | None:
    """The kind of file system that an open file lies on; None when that cannot be told."""
    # Of `struct statfs` only its beginning is read; it is nowhere as long as this.
    found = ctypes.create_string_buffer(512)
    if _libc.fstatfs(descriptor, found) != 0:
        return None
    return ctypes.c_long.from_buffer(found).value & 0xFFFFFFFF


def says_who_writes(file_system: int | None) -> bool:
    """Whether a refused lease means there that somebody has the file open for writing."""
    return file_system not in _SHARES


@contextlib.contextmanager
def held_still(descriptor: int) -> Generator[bool]:
    """False while somebody has that open file open for writing too; else nobody begins to, inside.

    Who wants to write in the meantime waits, so hold it for no longer than reading takes. Where
    there is no telling (another's file, a share, a file system without leases) it is true.
    """
    try:
        # Whoever wants to write makes the kernel signal us. By default that would end us.
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as error:
        refused = error.errno == errno.EAGAIN
        yield not (refused and says_who_writes(file_system_of(descriptor)))
        return
    try:
        yield True
    finally:
        # One that was held for too long, the kernel has taken back by itself.
        with contextlib.suppress(OSError):
            fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
