"""What `doctor` says of one thing: how it is, and what to do when it is not well."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from msgspec import Struct, field

Mark = Literal["ok", "warn", "fail"]
"""`warn`: it works, but not as it could. `fail`: `apply` cannot work like this."""

_SAID = 64 << 10
"""Bytes of a program's answer that are read."""


class Finding(Struct, frozen=True):
    """One line. `data` is what the message says, for scripts."""

    topic: str
    mark: Mark
    message: str
    hint: str = ""
    data: dict[str, Any] = field(default_factory=dict[str, Any])

    def as_json(self) -> dict[str, Any]:
        return {
            "topic": self.topic,
            "mark": self.mark,
            "message": self.message,
            "hint": self.hint,
            "data": self.data,
        }


class NoAnswerError(Exception):
    """Why a program that was asked something did not answer."""


def ask(command: Sequence[str], env: Mapping[str, str], *, timeout: float) -> str:
    """What a program prints, stdout and stderr together. Raises `NoAnswerError`.

    Into a file, not a pipe: a child of it that lives on cannot keep us waiting.
    """
    with tempfile.TemporaryFile() as said:
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                env=dict(env),
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            raise NoAnswerError(error.strerror or str(error)) from error
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired as error:
            raise NoAnswerError(f"no answer within {timeout:g} s") from error
        finally:
            if process.returncode is None:
                # Not reaped yet, so the group's number is still its own.
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        said.seek(0)
        text = said.read(_SAID).decode("utf-8", "replace").strip()
    if code:
        raise NoAnswerError(text.rpartition("\n")[2] or f"exit code {code}")
    return text
