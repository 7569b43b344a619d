"""What is at a path, in a word that changes when it does: cheap enough to ask again and again."""

from __future__ import annotations

import errno
import os
import stat

from orchestrator.core.cause import FileState


def mark_of(path: str) -> str:
    """Another word once the file is there, gone, another, or may be used otherwise.

    Of a folder its content does not count, unless the path ends in a slash. Of what is not there
    it counts how near one gets.
    """
    try:
        seen = os.stat(path)
    except OSError as error:
        return f"{errno.errorcode.get(error.errno or 0, '?')} {_rights(_nearest(path))}"
    if stat.S_ISDIR(seen.st_mode):
        content = f" {seen.st_mtime_ns}" if path.endswith("/") else ""
        return f"folder {seen.st_ino} {_rights(path)}{content}"
    if not stat.S_ISREG(seen.st_mode):
        return f"special {seen.st_rdev} {_rights(path)}"
    return f"file {seen.st_ino} {seen.st_size} {seen.st_mtime_ns} {_rights(path)}"


def state_of(path: str, known: str | None) -> FileState:
    """How a file is that a process was to read; `known` is its mark when that began."""
    try:
        seen = os.stat(path)
    except PermissionError:
        return "unreadable"
    except OSError:
        return "missing"
    if stat.S_ISDIR(seen.st_mode):
        return "folder"
    if not os.access(path, os.R_OK):
        return "unreadable"
    return "there" if known is None or known == mark_of(path) else "changed"


def _nearest(path: str) -> str:
    """The closest folder above that exists."""
    while path != (above := os.path.dirname(path.rstrip("/"))) and above:
        if os.path.exists(above):
            return above
        path = above
    return path


def _rights(path: str) -> str:
    """Whose it is, and what we may do with it."""
    try:
        seen = os.stat(path)
    except OSError:
        return ""
    may = "".join(
        letter
        for letter, mode in (("r", os.R_OK), ("w", os.W_OK), ("x", os.X_OK))
        if os.access(path, mode)
    )
    return f"{seen.st_mode:o} {seen.st_uid} {seen.st_gid} {may}"
