"""How a process ended whose parent we are not: an instance that an earlier daemon started.

`wait` tells it to the parent alone, which is process 1 by then. But the kernel shows it to the user
of the process as well: in `/proc/PID/stat` until the parent has waited, and by the pidfd from then
on (Linux 6.15). Where neither says it, it is not known.
"""

from __future__ import annotations

import fcntl
import os
import struct

from orchestrator.core.status import ProcessRef
from orchestrator.runtime.identity import raw_stat

_SIZE = 64
"""Bytes of the first `struct pidfd_info`, which every later kernel takes."""

_GET_INFO = (3 << 30) | (_SIZE << 16) | (0xFF << 8) | 11
"""PIDFD_GET_INFO: `_IOWR(0xFF, 11, struct pidfd_info)`."""

_EXIT = 1 << 3
"""PIDFD_INFO_EXIT, in the mask: asked for, and answered."""

_EXIT_CODE_AT = 60


def wait_status(pidfd: int, ref: ProcessRef) -> int | None:
    """As `wait` would have given it, of a process that has ended; None where nobody says."""
    status = _of_zombie(ref)
    return _of_pidfd(pidfd) if status is None else status


def _of_zombie(ref: ProcessRef) -> int | None:
    fields = raw_stat(ref.pid)
    if fields is None or fields[0] != b"Z" or int(fields[19]) != ref.start_ticks:
        return None
    status = int(fields[49])
    # To whom it may not be shown, it reads 0: that says something of our own processes alone.
    return status if status or _is_ours(ref.pid) else None


def _is_ours(pid: int) -> bool:
    try:
        return os.stat(f"/proc/{pid}").st_uid == os.geteuid()
    except OSError:
        return False


def _of_pidfd(pidfd: int) -> int | None:
    info = bytearray(_SIZE)
    struct.pack_into("=Q", info, 0, _EXIT)
    try:
        fcntl.ioctl(pidfd, _GET_INFO, info)
    except OSError:
        # An older kernel.
        return None
    (answered,) = struct.unpack_from("=Q", info, 0)
    return struct.unpack_from("=i", info, _EXIT_CODE_AT)[0] if answered & _EXIT else None
