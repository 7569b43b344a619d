"""The process that a daemon is to be: it may be begun before the command that needs it is loaded.

It is no daemon until it is given a task. Until then it loads, beside the command, and when none
comes it ends without a word. Loaded first of all, so it imports next to nothing.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence

from orchestrator.errors import OrchestrateError
from orchestrator.settings import Settings

MAX_LOG = 4 << 20

ANSWERS = 3
"""The descriptor on which it says what became of its task. All above it are closed."""

_ELSEWHERE = ("--foreground", "--dry-run", "--listen", "--help", "-h")
"""With these `apply` needs no daemon, or one with other settings than those of the environment."""

_begun: list[Begun] = []


class Begun:
    """Descriptors: `tasks` takes its task, `answers` says what became of it."""

    __slots__ = ("answers", "tasks")

    def __init__(self, tasks: int, answers: int) -> None:
        self.tasks, self.answers = tasks, answers


def begin(words: Sequence[str]) -> None:
    """Begin one, if this command line will need it as far as a glance can tell."""
    if not words or words[0] != "apply" or any(word.startswith(_ELSEWHERE) for word in words):
        return
    if None in (sys.stdin, sys.stdout, sys.stderr):
        # A stream is closed: whatever is opened next would get its number.
        return
    try:
        settings = Settings.from_env(os.environ)
        # A socket is where a daemon listens, or did: only asking it tells, and that is for later.
        if os.path.isdir(settings.state_dir) and not os.path.exists(settings.socket_path):
            settings.prepare()
            _begun.append(spawn(settings))
    except (OrchestrateError, OSError):
        # Whatever is wrong, the command will come to it, and say so.
        pass


def take(settings: Settings) -> Begun:
    """The one that was begun; else one that begins now. Raises `OSError`."""
    return _begun.pop() if _begun else spawn(settings)


def spawn(settings: Settings) -> Begun:
    """Begin one. Raises `OSError`."""
    heard, tasks = os.pipe()
    answers, told = os.pipe()
    log = os.open(_log(settings), os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    module = "orchestrator.cli.background"
    try:
        # Not by `subprocess`, which takes as long to load as all the rest here.
        os.posix_spawn(
            sys.executable,
            [sys.executable, "-P", "-m", module, str(ANSWERS)],
            {
                **os.environ,
                # Absolute: it stands in another folder than this shell.
                "ORCHESTRATE_STATE_DIR": settings.state_dir,
                "ORCHESTRATE_CACHE_DIR": settings.cache_dir,
                "ORCHESTRATE_PROFILES": settings.profiles_dir,
                "ORCHESTRATE_LISTEN": str(settings.listen or ""),
            },
            file_actions=[
                (os.POSIX_SPAWN_DUP2, heard, 0),
                (os.POSIX_SPAWN_DUP2, log, 1),
                (os.POSIX_SPAWN_DUP2, log, 2),
                # The lowest number is that of `heard`, if it is ours: it is done with by now.
                (os.POSIX_SPAWN_DUP2, told, ANSWERS),
            ],
            setsid=True,
            setsigdef=(signal.SIGPIPE, signal.SIGXFSZ),
        )
    except BaseException:
        os.close(tasks)
        os.close(answers)
        raise
    finally:
        for descriptor in (heard, told, log):
            os.close(descriptor)
    return Begun(tasks, answers)


def _log(settings: Settings) -> str:
    path = settings.daemon_log
    try:
        if os.path.getsize(path) > MAX_LOG:
            os.replace(path, f"{path}.1")
    except FileNotFoundError:
        pass
    return path
