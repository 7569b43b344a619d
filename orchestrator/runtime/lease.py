"""Whether somebody is just writing a file: the kernel knows, and a read lease asks it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import signal
from collections.abc import Generator


@contextlib.contextmanager
def held_still(descriptor: int) -> Generator[bool]:
    """False while somebody has that open file open for writing too; else nobody begins to, inside.

    Who wants to write in the meantime waits, so hold it for no longer than reading takes. Where
    there is no telling (another's file, a file system without leases) it is true.
    """
    try:
        # Whoever wants to write makes the kernel signal us. By default that would end us.
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as error:
        yield error.errno != errno.EAGAIN
        return
    try:
        yield True
    finally:
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
