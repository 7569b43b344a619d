"""One daemon for one state folder: a lock that the kernel gives back, however it ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time

_LENGTH = 16
_TRIES, _PAUSE = 10, 0.005


def acquire(path: str) -> int | None:
    """The descriptor to keep open for as long as the lock is wanted; None when another has it.

    The holder's pid stands in the file, for messages; only the lock itself decides, so a full
    disk costs no more than that.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    if not _locked(fd):
        os.close(fd)
        return None
    with contextlib.suppress(OSError):
        # Always as long, and not truncated first: it needs no space that it did not have before.
        os.pwrite(fd, f"{os.getpid()}\n".ljust(_LENGTH).encode(), 0)
    return fd


def _locked(fd: int) -> bool:
    """Whether the lock is ours now. Who merely asks for its holder has it for a moment too."""
    for _ in range(_TRIES):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_PAUSE)
        else:
            return True
    return False


def holder(path: str) -> int | None:
    """The pid of the daemon that holds the lock now, or None when nobody does."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        text = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
        return int(text) if text.isdigit() else None
    finally:
        os.close(fd)
    return None
