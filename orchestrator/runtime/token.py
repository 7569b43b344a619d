"""The token of the control API: kept in a file of the state folder, for its owner alone."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets

from orchestrator.errors import InputError

LONGEST = 4096


def kept_token(path: str) -> str:
    """The one in the file, which is made, 0600, if there is none. Raises `InputError`."""
    with contextlib.suppress(FileNotFoundError):
        return _read(path)
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return _read(path)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from error
    token = secrets.token_urlsafe(32)
    with open(fd, "w", encoding="ascii") as file:
        file.write(f"{token}\n")
    return token


def _read(path: str) -> str:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except OSError as error:
        why = "it is a link" if error.errno == errno.ELOOP else str(error.strerror)
        raise InputError(f"{path} cannot be read: {why}", hint=_MAKE_ANEW) from error
    with open(fd, "rb") as file:
        about = os.fstat(fd)
        if about.st_uid != os.geteuid() or about.st_mode & 0o077:
            who = f"belongs to uid {about.st_uid}" if about.st_uid != os.geteuid() else "is open"
            raise InputError(f"{path} {who}: others may know the token", hint=_MAKE_ANEW)
        said = file.read(LONGEST + 1).decode("utf-8", "replace").strip()
    return checked_token(said, path)


def checked_token(said: str, where: str) -> str:
    """A token that a header can hold. Raises `InputError`, without saying it."""
    if not said or len(said) > LONGEST or not all("!" <= one <= "~" for one in said):
        raise InputError(
            f"{where} is no token: expected printable ASCII without spaces",
            hint=_MAKE_ANEW if "/" in where else "as of `openssl rand -hex 32`",
        )
    return said


_MAKE_ANEW = "remove it: another is made"
