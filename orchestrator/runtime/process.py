"""One instance's processes: started in a session of their own, watched by pidfd, ended as a group.

`Process` is the same for a child and for a process that an earlier daemon started: a pidfd that
becomes readable when the leader exits. Whoever holds a `Process` may await `ended` as often as
wanted; it resolves once the whole group is gone.
"""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field

from msgspec.structs import replace

from orchestrator.core.cause import Cause, refused
from orchestrator.core.spec import Command
from orchestrator.core.status import ProcessRef
from orchestrator.errors import StartError
from orchestrator.runtime import descriptors
from orchestrator.runtime.hard_limits import joining
from orchestrator.runtime.identity import group_members, open_verified, ref_of
from orchestrator.runtime.others_exit import wait_status

KILL_WAIT = 5.0
"""Seconds that SIGKILL may take, before what is left of a group is given up as unkillable."""


@dataclass(frozen=True, slots=True)
class Exit:
    """How a leader ended. `code` is None when a signal ended it. Both are, when nobody says it: we
    are not its parent, and the kernel is too old to be asked.

    `peak` is the most memory that it, or a child that it waited for, had at once, in bytes; 0
    where that is not known.
    """

    code: int | None = None
    signal: int | None = None
    peak: int = field(default=0, compare=False)

    def __str__(self) -> str:
        if self.signal is not None:
            return f"killed by {signal_name(self.signal)}"
        if self.code is not None:
            return f"exited with code {self.code}"
        return "exited (adopted: its exit code is not known)"


def _exit_of(status: int | None, *, peak: int = 0) -> Exit:
    """What a wait status says; None says nothing."""
    if status is None:
        return Exit(peak=peak)
    code = os.waitstatus_to_exitcode(status)
    return Exit(signal=-code, peak=peak) if code < 0 else Exit(code=code, peak=peak)


def signal_name(number: int) -> str:
    """`SIGKILL` for 9; a number without a name is shown as such."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


class Process:
    """A running group, led by `ref`. Made by `spawn` or `adopt`, never directly."""

    def __init__(self, ref: ProcessRef, pidfd: int, popen: subprocess.Popen[bytes] | None) -> None:
        self.ref = ref
        self._pidfd = pidfd
        self._popen = popen
        self.told_to_end = False
        """Whether it was signalled by us, before any end of its own was noticed."""
        self.leader_exit: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().add_reader(pidfd, self._leader_is_gone)

    def _leader_is_gone(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        if self._popen is not None:
            # Still a zombie, so its number cannot have been reused: the one moment at which the
            # whole rest of the group can be killed by number without any doubt.
            _kill_group(self.ref.pid, signal.SIGKILL)
        status = self._reap()
        os.close(self._pidfd)
        self._pidfd = -1
        if not self.leader_exit.done():
            self.leader_exit.set_result(status)

    def _reap(self) -> Exit:
        if self._popen is None:
            return _exit_of(wait_status(self._pidfd, self.ref))
        try:
            _, status, usage = os.wait4(self._popen.pid, 0)
        except ChildProcessError:
            # Somebody waits for all children of this process, and was quicker.
            self._popen.returncode = 0
            return _exit_of(wait_status(self._pidfd, self.ref))
        self._popen.returncode = os.waitstatus_to_exitcode(status)
        return _exit_of(status, peak=usage.ru_maxrss * 1024)

    @property
    def alive(self) -> bool:
        """False as soon as the leader's end was noticed."""
        return not self.leader_exit.done()

    def signal(self, number: int) -> None:
        """Send to the whole group; nothing happens when its leader is gone already."""
        if self.alive and _is_signalable(self._pidfd):
            self.told_to_end = True
            _kill_group(self.ref.pid, number)

    async def ended(self) -> Exit:
        """Wait for the leader, then for all of its group: what remains of it is killed."""
        status = await asyncio.shield(self.leader_exit)
        if _group_exists(self.ref.pid):
            await end_group(self.ref)
        return status

    def let_go(self) -> None:
        """Stop watching, leave it running: the daemon ends, the instance does not."""
        if self.alive:
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
            self.leader_exit.cancel()
        if self._popen is not None and self._popen.returncode is None:
            # Without this, the interpreter would warn of, and later reap, a child left behind.
            self._popen.returncode = 0


def spawn(
    command: Command,
    *,
    inherited: Mapping[str, str],
    owner: tuple[str, str],
    log: int,
    group: str = "",
) -> Process:
    """Start `command` in a session of its own, its output going straight to the file `log`.

    `owner` is the variable that marks it as ours, `group` the control group that it is to be in,
    empty for that of the daemon. Raises `StartError` when the kernel refuses.
    """
    env = {**inherited, **command.env, owner[0]: owner[1]}
    try:
        with descriptors.as_found():
            popen = subprocess.Popen(
                command.argv,
                cwd=command.cwd,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=joining(group),
            )
    except OSError as error:
        raise _refused(command, error) from error
    ref = ref_of(popen.pid)
    assert ref is not None, "a child that was not waited for has an entry in /proc"
    return Process(ref, os.pidfd_open(popen.pid), popen)


def _refused(command: Command, error: OSError) -> StartError:
    """Why the kernel did not start it, as far as a person can mend it."""
    # Both the binary and the folder that it is to run in may be what is meant.
    if error.filename == command.cwd:
        return StartError(
            f"{command.cwd} is no folder to run in: {error.strerror}",
            reason="folder-missing",
            permanent=False,
            hint="it is made again when the daemon starts: `orchestrate daemon restart`",
        )
    cause = _cause_of(command.argv[0], error)
    return StartError(
        cause.message, reason=cause.reason, permanent=cause.permanent, hint=cause.hint
    )


def _cause_of(binary: str, error: OSError) -> Cause:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        if not os.path.exists(binary):
            return refused("binary-missing", f"{binary} does not exist")
        missing = f"{binary} names an interpreter, or a loader, that does not exist"
        return refused("binary-incompatible", missing)
    if isinstance(error, PermissionError):
        folder = "it is a folder: name the program in it with `binary:`"
        hint = folder if os.path.isdir(binary) else f"chmod +x {binary}"
        return replace(refused("permission", f"{binary} may not be executed"), hint=hint)
    told = f"{binary} could not be started: {error.strerror}"
    if error.errno in (errno.ENOEXEC, errno.ELIBBAD):
        return refused("binary-incompatible", told)
    return Cause("out-of-memory" if error.errno == errno.ENOMEM else "crashed", told)


def adopt(ref: ProcessRef) -> Process | None:
    """Watch a process that somebody else started; None when it is gone."""
    pidfd = open_verified(ref)
    return Process(ref, pidfd, None) if pidfd is not None else None


async def stop(process: Process, *, grace: float) -> Exit | None:
    """SIGTERM, at most `grace` seconds, SIGKILL. None when not even that ended it in time."""
    if grace > 0:
        process.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(grace):
                return await process.ended()
        except TimeoutError:
            pass
    process.signal(signal.SIGKILL)
    try:
        async with asyncio.timeout(KILL_WAIT):
            return await process.ended()
    except TimeoutError:
        return None


async def end_group(leader: ProcessRef) -> bool:
    """Kill what still carries the group of a leader that is gone; True once nothing does."""
    try:
        async with asyncio.timeout(KILL_WAIT):
            while members := group_members(leader):
                await asyncio.gather(*(_kill_one(member) for member in members))
    except TimeoutError:
        return False
    return True


async def _kill_one(ref: ProcessRef) -> None:
    pidfd = open_verified(ref)
    if pidfd is None:
        return
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        await readable(pidfd)
    except ProcessLookupError:
        pass
    finally:
        os.close(pidfd)


async def readable(fd: int) -> None:
    """Wait until there is something to read: of a pidfd, that its process has ended."""
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    loop.add_reader(fd, lambda: ready.done() or ready.set_result(None))
    try:
        await ready
    finally:
        loop.remove_reader(fd)


def _is_signalable(pidfd: int) -> bool:
    try:
        signal.pidfd_send_signal(pidfd, 0)
    except ProcessLookupError:
        return False
    return True


def _kill_group(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        # Empty, or all that is left changed its user: `end_group` deals with what remains.
        return


def _group_exists(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
