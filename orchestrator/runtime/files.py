"""Files as they are on disk: identity, and reading no more than is sane."""

from __future__ import annotations

import errno
import glob
import os
import stat
import time

from orchestrator.core.spec import FileIdentity, InstanceSpec
from orchestrator.runtime.lease import held_still

SETTLE = 5.0
"""Seconds that a changed file must have been still, before it counts as another."""


def identity_of(path: str) -> FileIdentity | None:
    """None when there is no such file."""
    try:
        now = os.stat(path)
    except OSError:
        return None
    return FileIdentity(now.st_size, now.st_mtime_ns, now.st_ino)


def is_stale(spec: InstanceSpec, seen: dict[str, FileIdentity | None] | None = None) -> bool:
    """True when a file that the process has read is another on disk now, and has come to rest, or
    is gone. `seen` is what was seen of files at the same moment, for many that share some."""
    seen = {} if seen is None else seen
    for file in spec.inputs:
        if file.path not in seen:
            seen[file.path] = identity_of(file.path)
        now = seen[file.path]
        if file.identity is None or now == file.identity:
            continue
        if now is None or time.time() - now.mtime_ns / 1e9 >= SETTLE:
            return True
    return False


def is_full(folder: str) -> bool:
    """True when hardly anything can be written there any more."""
    try:
        disk = os.statvfs(folder)
    except OSError:
        return False
    return disk.f_blocks > 0 and disk.f_bavail * disk.f_frsize < 4096


def named_files(path: str) -> list[str]:
    """What a path in a Modelfile means: a file, those of a pattern, or the GGUF files of a folder.

    Absolute, but for a `~` at its beginning; nothing when there is no such file.
    """
    path = os.path.expanduser(path)
    if os.path.isdir(path):
        return sorted(glob.glob(os.path.join(glob.escape(path), "*.gguf")))
    if os.path.isfile(path):
        return [path]
    return sorted(one for one in glob.glob(path) if os.path.isfile(one))


def read_bounded(path: str, limit: int) -> tuple[bytes, bool]:
    """At most `limit` + 1 bytes of a regular file, and whether somebody is just writing it.

    Raises OSError.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", path)
        with held_still(fd) as still, open(fd, "rb", closefd=False) as file:
            return file.read(limit + 1), not still
    finally:
        os.close(fd)
