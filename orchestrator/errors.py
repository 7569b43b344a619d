"""The exceptions that people see: each knows its exit code and what to do about it.

Raised anywhere, shown by `cli.main` as `error: message` and `hint: hint`. Whether a retry can
mend it is part of the type, so that no caller has to guess.
"""

from __future__ import annotations


class OrchestrateError(Exception):
    """Something a person should read: `message` says what and where, `hint` what to do."""

    exit_code = 1
    reason = "error"

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class InputError(OrchestrateError):
    """The input is wrong: nothing was touched, and a retry changes nothing."""

    exit_code = 2
    reason = "bad-input"


class NoDaemonError(OrchestrateError):
    """No daemon answers, or it may not be talked to."""

    exit_code = 3
    reason = "no-daemon"


class TimedOutError(OrchestrateError):
    """What was waited for did not come in the time given."""

    exit_code = 4
    reason = "timeout"


class StartError(OrchestrateError):
    """An instance could not be started. `permanent` ones are not retried by themselves."""

    def __init__(self, message: str, *, reason: str, permanent: bool, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.reason = reason
        self.permanent = permanent
