"""The program of the daemon in the background: `python -m orchestrator.cli.background FD`.

Its first task comes as JSON on standard input; what became of it is written to the descriptor FD,
a line each: the outcome of the apply, then `{"listening": true}`. Its output is the daemon's log.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import sys
from typing import Any

from orchestrator.cli.head_start import TO_THE_GROUP
from orchestrator.errors import OrchestrateError
from orchestrator.settings import Settings


def main() -> None:
    """Run until told to end."""
    _leave_the_group()
    # What is loaded stays: searching it for cycles, now or later, finds nothing.
    gc.disable()
    from orchestrator.daemon.main import AlreadyRunningError, run
    from orchestrator.daemon.options import Options
    from orchestrator.runtime.state import AppliedSource

    gc.freeze()
    gc.enable()
    # As a file, not as a number: once closed, the number may be the store's.
    answers = os.fdopen(int(sys.argv[1]), "wb", buffering=0)
    said = sys.stdin.buffer.read()
    if not said:
        # Begun ahead for a command that then had no use for it.
        return
    task = json.loads(said)
    # The pipe that the task came through ends with whoever started us.
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    first = task.get("sources")

    def answer(line: dict[str, Any]) -> None:
        # Whoever asked may be gone, or know enough; the work goes on.
        if not answers.closed:
            with contextlib.suppress(OSError):
                answers.write(json.dumps(line).encode() + b"\n")

    def listening() -> None:
        answer({"listening": True})
        answers.close()

    options = Options(
        first=None if first is None else [AppliedSource(**source) for source in first],
        add=bool(task.get("add")),
        force=bool(task.get("force")),
        on_applied=lambda outcome: answer(outcome.as_json()),
        on_listening=listening,
    )
    try:
        run(Settings.from_env(os.environ), options)
    except AlreadyRunningError as error:
        answer({"already_running": True, "message": error.message})
        sys.exit(error.exit_code)
    except OrchestrateError as error:
        answer({"error": error.message, "hint": error.hint, "exit_code": error.exit_code})
        sys.exit(error.exit_code)


def _leave_the_group() -> None:
    """What was sent to the group of whoever began this was not meant for it, and is dropped."""
    os.setsid()
    before = {number: signal.signal(number, signal.SIG_IGN) for number in TO_THE_GROUP}
    signal.pthread_sigmask(signal.SIG_UNBLOCK, TO_THE_GROUP)
    for number, handler in before.items():
        signal.signal(number, handler)


if __name__ == "__main__":
    main()
