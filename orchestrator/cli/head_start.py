"""The process that a daemon is to be: it may be begun before the command that needs it is loaded.

It is no daemon until it is given a task. Until then it loads, beside the command, and when none
comes it ends without a word. Loaded first of all, so it imports next to nothing.
"""

from __future__ import annotations

import os
import signal
import stat
import sys
from collections.abc import Sequence

from orchestrator.errors import OrchestrateError
from orchestrator.settings import Settings

MAX_LOG = 4 << 20

ANSWERS = 3
"""The descriptor on which it says what became of its task."""

TO_THE_GROUP = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGTSTP)
"""Signals that a terminal or a shell sends to all that it began. They are held back from its first
moment until it has a session of its own: not every Python can begin it in one."""

_ELSEWHERE = ("--foreground", "--dry-run", "--listen", "--help", "-h")
"""With these `apply` needs no daemon, or one with other settings than those of the environment."""

_begun: list[Begun] = []

_children: list[int] = []
"""What this process began and has not seen ended: a command that stays may begin many."""


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
        if _has_ended_here(settings):
            _begun.append(spawn(settings))
    except (OrchestrateError, OSError, ValueError):
        # Whatever is wrong, the command will come to it, and say so.
        pass


def _has_ended_here(settings: Settings) -> bool:
    """Whether a daemon has used this folder, and listens no more. Nothing is touched to find out:
    what there is to make or to mend is for the command, once it is known to be right."""
    found = os.lstat(settings.state_dir)
    ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
    private = not found.st_mode & 0o077
    used = os.path.exists(settings.lock_path) and not os.path.lexists(settings.socket_path)
    return ours and private and used


def take(settings: Settings) -> Begun:
    """The one that was begun; else one that begins now. Raises `OSError`."""
    return _begun.pop() if _begun else spawn(settings)


def drop() -> None:
    """Nobody needs the one that was begun, if there is one: it ends."""
    while _begun:
        begun = _begun.pop()
        os.close(begun.tasks)
        os.close(begun.answers)


def spawn(settings: Settings) -> Begun:
    """Begin one. Raises `OSError`."""
    _children[:] = [pid for pid in _children if not _has_ended(pid)]
    log = os.open(_log(settings), os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    (heard, tasks), (answers, told) = os.pipe(), os.pipe()
    try:
        _children.append(_spawn(settings, heard, told, log))
    except BaseException:
        os.close(tasks)
        os.close(answers)
        raise
    finally:
        for descriptor in (heard, told, log):
            os.close(descriptor)
    return Begun(tasks, answers)


def _has_ended(pid: int) -> bool:
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        # Someone else has waited for it.
        return True


def _spawn(settings: Settings, heard: int, told: int, log: int) -> int:
    # Not by `subprocess`, which takes as long to load as all the rest here.
    return os.posix_spawn(
        sys.executable,
        [sys.executable, "-P", "-m", "orchestrator.cli.background", str(ANSWERS)],
        {
            # A name may be missing: a shell passes on what it was given.
            **{name: value for name, value in os.environ.items() if name},
            # Absolute: it stands in another folder than this shell.
            "ORCHESTRATE_STATE_DIR": settings.state_dir,
            "ORCHESTRATE_CACHE_DIR": settings.cache_dir,
            "ORCHESTRATE_PROFILES": settings.profiles_dir,
            "ORCHESTRATE_LISTEN": str(settings.listen or ""),
        },
        file_actions=[
            *((os.POSIX_SPAWN_CLOSE, descriptor) for descriptor in _handed_down()),
            (os.POSIX_SPAWN_DUP2, heard, 0),
            (os.POSIX_SPAWN_DUP2, log, 1),
            (os.POSIX_SPAWN_DUP2, log, 2),
            # Last, for its number may be that of another, which is done with by now.
            (os.POSIX_SPAWN_DUP2, told, ANSWERS),
        ],
        setsigmask=TO_THE_GROUP,
        setsigdef=(signal.SIGPIPE, signal.SIGXFSZ),
    )


def _handed_down() -> list[int]:
    """What whoever started us has open would stay open for as long as the daemon lives."""
    found: list[int] = []
    for entry in os.listdir("/proc/self/fd"):
        try:
            if int(entry) > 2 and os.get_inheritable(int(entry)):
                found.append(int(entry))
        except OSError:
            # The folder itself, which is read no more.
            continue
    return found


def _log(settings: Settings) -> str:
    path = settings.daemon_log
    try:
        if os.path.getsize(path) > MAX_LOG:
            os.replace(path, f"{path}.1")
    except FileNotFoundError:
        pass
    return path
