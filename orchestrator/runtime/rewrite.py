"""Writes a file that others read and edit: whole or not at all, and only over what was known."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Callable, Generator

TRIES = 8


class ChangedMeanwhileError(Exception):
    """The file is not as whoever wants to replace it knew it."""


def rewrite(path: str, data: bytes, *, still: Callable[[bytes], bool], limit: int) -> None:
    """Replace a regular file that exists, atomically, if `still` is true of what is in it.

    `path` is taken without a link at its end; the mode and, where that may be, the owner stay.
    A file that is mounted by itself cannot be replaced, and is written in place. Raises
    `ChangedMeanwhileError` and OSError.
    """
    with _folder_of(path) as folder:
        name = os.path.basename(path)
        old = _read(name, folder, limit)
        if not still(old.data):
            raise ChangedMeanwhileError
        aside = _write_aside(name, folder, data, old)
        try:
            if not still(_read(name, folder, limit).data):
                raise ChangedMeanwhileError
            os.rename(aside, name, src_dir_fd=folder, dst_dir_fd=folder)
        except OSError as error:
            _remove(aside, folder)
            if error.errno != errno.EBUSY:
                raise
            _write_in_place(name, folder, data)
        except ChangedMeanwhileError:
            _remove(aside, folder)
            raise
        os.fsync(folder)


class _Old:
    def __init__(self, data: bytes, was: os.stat_result) -> None:
        self.data, self.was = data, was


@contextlib.contextmanager
def _folder_of(path: str) -> Generator[int]:
    folder = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield folder
    finally:
        os.close(folder)


def _read(name: str, folder: int, limit: int) -> _Old:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    with open(os.open(name, flags, dir_fd=folder), "rb") as file:
        was = os.fstat(file.fileno())
        if not stat.S_ISREG(was.st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", name)
        return _Old(file.read(limit + 1), was)


def _write_aside(name: str, folder: int, data: bytes, old: _Old) -> str:
    """Into a file beside it whose name no reader of profiles takes for one."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    aside = f".{name[:200]}.{secrets.token_hex(6)}"
    with open(os.open(aside, flags, 0o600, dir_fd=folder), "wb") as file:
        try:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), stat.S_IMODE(old.was.st_mode))
            with contextlib.suppress(PermissionError):
                os.fchown(file.fileno(), old.was.st_uid, old.was.st_gid)
            os.fsync(file.fileno())
        except OSError:
            _remove(aside, folder)
            raise
    return aside


def _write_in_place(name: str, folder: int, data: bytes) -> None:
    flags = os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(name, flags, dir_fd=folder), "r+b", buffering=0) as file:
        file.write(data)
        file.truncate()
        os.fsync(file.fileno())


def _remove(name: str, folder: int) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder)
