"""Starts the daemon in the background, and hands it its first task on the way."""

from __future__ import annotations

import contextlib
import json
import os
import time
from typing import IO, Any

from orchestrator.cli import head_start
from orchestrator.cli.client import Client, RejectedError
from orchestrator.errors import OrchestrateError
from orchestrator.runtime import lock
from orchestrator.settings import Settings

TAKES_OVER = 10.0
"""Seconds that a daemon which is just ending, or just beginning, may take to be done with it."""


class Launched:
    """A daemon that was started. `outcome` answers the first apply; None without one."""

    def __init__(self, outcome: dict[str, Any] | None, answers: IO[bytes]) -> None:
        self.outcome = outcome
        self._answers = answers

    def wait_until_listening(self) -> None:
        """Until the API answers. Raises when the daemon ends first."""
        if self._answers.closed:
            return
        while line := self._answers.readline():
            if json.loads(line).get("listening"):
                self._answers.close()
                return
        raise OrchestrateError("the daemon ended while it started", hint=_SEE_LOG)


_SEE_LOG = "`orchestrate logs --daemon` shows why"


def ensure_daemon(settings: Settings) -> bool:
    """Make sure that one answers. True when it had to be started."""
    if Client(settings).answers():
        return False
    launched = launch(settings, {})
    if launched is not None:
        launched.wait_until_listening()
    return launched is not None


def launch(settings: Settings, task: dict[str, Any]) -> Launched | None:
    """Start a daemon with a first task; None when another came first and answers now.

    Raises `RejectedError` when the task is wrong: then no daemon is left behind.
    """
    settings.prepare()
    until = time.monotonic() + TAKES_OVER
    while True:
        launched = _launch(settings, task)
        if launched is not None:
            return launched
        if _other_answers(settings, until):
            return None
        if time.monotonic() >= until:
            pid = lock.holder(settings.lock_path)
            raise OrchestrateError(f"a daemon (pid {pid}) holds the state folder, but is silent")


def _other_answers(settings: Settings, until: float) -> bool:
    """Wait for the daemon that holds the lock: it will listen soon, or be gone."""
    client = Client(settings)
    while time.monotonic() < until:
        if client.answers():
            return True
        if lock.holder(settings.lock_path) is None:
            return False
        time.sleep(0.02)
    return False


def _launch(settings: Settings, task: dict[str, Any]) -> Launched | None:
    begun = head_start.take(settings)
    # One that ended before it read its task says why in its log, and here that it ended.
    with contextlib.suppress(BrokenPipeError), os.fdopen(begun.tasks, "wb") as tasks:
        tasks.write(json.dumps(task).encode())
    return _first_answer(os.fdopen(begun.answers, "rb"))


def _first_answer(answers: IO[bytes]) -> Launched | None:
    line = answers.readline()
    _raise_if_failed(line)
    outcome = json.loads(line)
    if "already_running" in outcome:
        answers.close()
        return None
    if "listening" in outcome:
        answers.close()
        return Launched(None, answers)
    if "errors" in outcome:
        answers.close()
        raise RejectedError(outcome["errors"][0]["message"], "", outcome["errors"])
    return Launched(outcome, answers)


def _raise_if_failed(line: bytes) -> None:
    if not line:
        raise OrchestrateError("the daemon ended while it started", hint=_SEE_LOG)
    said = json.loads(line)
    if "error" in said:
        error = OrchestrateError(said["error"], hint=said["hint"])
        error.exit_code = said["exit_code"]
        raise error
