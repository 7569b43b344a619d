"""Real processes: how they start, how their end is told, and that no one of a group is left."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import pytest
from msgspec.structs import replace

from orchestrator.core.spec import Command
from orchestrator.core.status import ProcessRef
from orchestrator.errors import StartError
from orchestrator.runtime.identity import environment_of, read_stat, ref_of
from orchestrator.runtime.process import Exit, Process, adopt, end_group, signal_name, spawn, stop
from tests.look import zombies_of
from tests.world import alive

OWNER = ("ORCHESTRATE_OWNER", "state/a/1")


def sh(script: str) -> tuple[str, ...]:
    return ("/bin/sh", "-c", script)


def start(*argv: str, log: int, cwd: str = "/", **env: str) -> Process:
    return spawn(Command(argv, env, cwd), inherited=os.environ, owner=OWNER, log=log)


@contextmanager
def output() -> Generator[tuple[int, TextIO]]:
    """A pipe for a log."""
    read, write = os.pipe()
    with open(read) as out:
        try:
            yield write, out
        finally:
            os.close(write)


@contextmanager
def spawned(script: str) -> Generator[tuple[Process, TextIO]]:
    """A shell that runs `script`, and what it says.

    The end of that tells that every process that could say something has gone.
    """
    read, write = os.pipe()
    with open(read) as out:
        process = start(*sh(script), log=write)
        os.close(write)
        yield process, out


def first_line(out: TextIO) -> str:
    return out.readline().strip()


@contextmanager
def strange(script: str) -> Generator[tuple[ProcessRef, TextIO]]:
    """A session that somebody else started: its parent is not this process."""
    read, write = os.pipe()
    started = subprocess.run(
        ["/bin/sh", "-c", 'setsid /bin/sh -c "$1" >&2 & echo $!', "sh", script],
        stdout=subprocess.PIPE,
        stderr=write,
        check=True,
    )
    os.close(write)
    with open(read) as out:
        assert first_line(out) == "up"
        ref = ref_of(int(started.stdout))
        assert ref is not None
        assert os.getpid() != _parent_of(ref.pid)
        yield ref, out


def _parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


# --- starting -------------------------------------------------------------------------------------


def test_it_leads_a_session_of_its_own_and_carries_the_mark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INHERITED", "from the daemon")
    monkeypatch.setenv("BOTH", "from the daemon")

    async def story() -> None:
        with output() as (write, out):
            still = "echo up; kill -STOP $$"
            process = start(*sh(still), log=write, cwd=str(tmp_path), BOTH="declared")
            assert first_line(out) == "up"
            pid = process.ref.pid
            stat = read_stat(pid)
            assert stat is not None
            assert (stat.session, stat.group) == (pid, pid)
            env = environment_of(pid)
            assert env["ORCHESTRATE_OWNER"] == "state/a/1"
            assert (env["INHERITED"], env["BOTH"]) == ("from the daemon", "declared")
            assert os.readlink(f"/proc/{pid}/cwd") == str(tmp_path)
            assert os.readlink(f"/proc/{pid}/fd/0") == "/dev/null"
            assert sorted(os.listdir(f"/proc/{pid}/fd")) == ["0", "1", "2"]
            await stop(process, grace=0)

    asyncio.run(story())


def test_all_that_it_says_is_added_to_the_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("before\n")

    async def story() -> None:
        fd = os.open(log, os.O_WRONLY | os.O_APPEND)
        process = start(*sh("echo out; echo err >&2"), log=fd)
        os.close(fd)
        assert await process.ended() == Exit(code=0)

    asyncio.run(story())
    assert log.read_text() == "before\nout\nerr\n"


def _text(path: Path) -> None:
    path.write_text("neither a binary nor a script\n")
    path.chmod(0o755)


def _script_without_interpreter(path: Path) -> None:
    path.write_text("#!/nowhere/interpreter\n")
    path.chmod(0o755)


def _not_executable(path: Path) -> None:
    path.write_text("#!/bin/sh\n")
    path.chmod(0o644)


@pytest.mark.parametrize(
    ("made", "reason", "says"),
    [
        (lambda path: None, "binary-missing", "{path} does not exist"),
        (_not_executable, "permission", "{path} may not be executed"),
        (Path.mkdir, "permission", "{path} may not be executed"),
        (_text, "binary-incompatible", "{path} could not be started: Exec format error"),
        (_script_without_interpreter, "binary-incompatible", "{path} names an interpreter"),
    ],
)
def test_a_binary_that_cannot_be_started(
    tmp_path: Path, made: Callable[[Path], None], reason: str, says: str
) -> None:
    path = tmp_path / "engine"
    made(path)

    async def story() -> None:
        with output() as (write, _), pytest.raises(StartError) as caught:
            start(str(path), log=write)
        assert caught.value.reason == reason
        assert caught.value.permanent
        assert caught.value.message.startswith(says.format(path=path))

    asyncio.run(story())


@pytest.mark.parametrize("made", [lambda path: None, Path.touch])
def test_a_folder_that_it_cannot_run_in_is_named_and_not_the_binary(
    tmp_path: Path, made: Callable[[Path], None]
) -> None:
    cwd = tmp_path / "cwd"
    made(cwd)

    async def story() -> None:
        with output() as (write, _), pytest.raises(StartError) as caught:
            start("/bin/true", log=write, cwd=str(cwd))
        assert caught.value.reason == "folder-missing"
        assert not caught.value.permanent
        assert str(cwd) in caught.value.message
        assert "/bin/true" not in caught.value.message

    asyncio.run(story())


# --- ending by itself -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "expected", "says"),
    [
        ("exit 0", Exit(code=0), "exited with code 0"),
        ("exit 7", Exit(code=7), "exited with code 7"),
        ("kill -9 $$", Exit(signal=9), "killed by SIGKILL"),
        ("kill -11 $$", Exit(signal=11), "killed by SIGSEGV"),
        ("kill -40 $$", Exit(signal=40), "killed by signal 40"),
    ],
)
def test_how_it_ended(script: str, expected: Exit, says: str) -> None:
    async def story() -> None:
        with spawned(script) as (process, _):
            assert await process.ended() == expected
            assert not process.alive
            assert await process.ended() == expected
        assert str(expected) == says

    asyncio.run(story())


def test_numbers_without_a_name_have_one_all_the_same() -> None:
    assert (signal_name(15), signal_name(99)) == ("SIGTERM", "signal 99")


def test_what_a_leader_leaves_behind_is_gone_before_its_end_is_told() -> None:
    deaf = '(trap "" TERM HUP INT; echo up; exec sleep 60)'

    async def story() -> None:
        with spawned(f"{deaf} & {deaf} & wait") as (process, out):
            assert [first_line(out), first_line(out)] == ["up", "up"]
            os.kill(process.ref.pid, signal.SIGKILL)
            assert await process.ended() == Exit(signal=9)
            assert not _group_of(process.ref.pid)
            assert out.read() == ""

    asyncio.run(story())


def _group_of(leader: int) -> list[int]:
    stats = [read_stat(int(entry)) for entry in os.listdir("/proc") if entry.isdigit()]
    return [one.pid for one in stats if one and one.group == leader and one.living]


def test_a_leader_that_exits_well_takes_its_children_along() -> None:
    async def story() -> None:
        with spawned("sleep 60 & echo up; exit 3") as (process, _):
            assert await process.ended() == Exit(code=3)
            assert not _group_of(process.ref.pid)

    asyncio.run(story())


# --- being stopped --------------------------------------------------------------------------------


def test_a_stop_that_is_honoured() -> None:
    async def story() -> None:
        with spawned('trap "exit 5" TERM; echo up; sleep 60 & wait') as (process, out):
            first_line(out)
            assert await stop(process, grace=30) == Exit(code=5)
            assert not _group_of(process.ref.pid)

    asyncio.run(story())


def test_a_stop_that_is_ignored_ends_by_force_once_its_grace_is_over() -> None:
    async def story() -> None:
        with spawned('trap "" TERM; echo up; exec sleep 60') as (process, out):
            first_line(out)
            began = time.monotonic()
            assert await stop(process, grace=0.2) == Exit(signal=9)
            assert 0.2 <= time.monotonic() - began < 5

    asyncio.run(story())


def test_no_grace_means_no_question() -> None:
    async def story() -> None:
        with spawned('trap "exit 5" TERM; echo up; sleep 60 & wait') as (process, out):
            first_line(out)
            assert await stop(process, grace=0) == Exit(signal=9)

    asyncio.run(story())


def test_a_child_that_is_deaf_does_not_outlive_a_leader_that_is_not() -> None:
    script = '(trap "" TERM; echo up; exec sleep 60) & trap "exit 0" TERM; wait'

    async def story() -> None:
        with spawned(script) as (process, out):
            first_line(out)
            assert await stop(process, grace=30) == Exit(code=0)
            assert not _group_of(process.ref.pid)
            assert out.read() == ""

    asyncio.run(story())


def test_two_stops_are_one_and_a_late_one_is_told_the_same() -> None:
    async def story() -> None:
        with spawned('trap "exit 5" TERM; echo up; sleep 60 & wait') as (process, out):
            first_line(out)
            both = await asyncio.gather(stop(process, grace=30), stop(process, grace=30))
            assert both == [Exit(code=5), Exit(code=5)]
            assert await stop(process, grace=30) == Exit(code=5)
            process.signal(signal.SIGTERM)

    asyncio.run(story())


def test_a_kill_overtakes_the_grace_of_a_stop() -> None:
    async def story() -> None:
        with spawned('trap "" TERM; echo up; exec sleep 60') as (process, out):
            first_line(out)
            stopping = asyncio.create_task(stop(process, grace=60))
            await asyncio.sleep(0)
            process.signal(signal.SIGKILL)
            assert await stopping == Exit(signal=9)

    asyncio.run(story())


def test_a_stop_that_is_cancelled_leaves_the_process_to_be_stopped_again() -> None:
    async def story() -> None:
        with spawned('trap "" TERM; echo up; exec sleep 60') as (process, out):
            first_line(out)
            stopping = asyncio.create_task(stop(process, grace=60))
            await asyncio.sleep(0)
            stopping.cancel()
            with pytest.raises(asyncio.CancelledError):
                await stopping
            assert process.alive
            assert await stop(process, grace=0) == Exit(signal=9)

    asyncio.run(story())


# --- what somebody else started -------------------------------------------------------------------


def test_the_end_of_an_adopted_process_is_noticed_and_its_group_swept() -> None:
    async def story() -> None:
        with strange('(trap "" TERM HUP; exec sleep 60) & echo up; wait') as (ref, out):
            process = adopt(ref)
            assert process is not None
            assert process.alive
            os.kill(ref.pid, signal.SIGKILL)
            ended = await process.ended()
            assert ended == Exit(signal=9)
            assert not _group_of(ref.pid)
            assert out.read() == ""

    asyncio.run(story())


def test_an_adopted_process_is_stopped_like_any_other() -> None:
    async def story() -> None:
        with strange('trap "echo bye; exit 0" TERM; echo up; sleep 60 & wait') as (ref, out):
            process = adopt(ref)
            assert process is not None
            assert await stop(process, grace=30) == Exit(code=0)
            assert out.read() == "bye\n"

    asyncio.run(story())


def test_a_pid_that_means_another_process_now_is_not_adopted() -> None:
    async def story() -> None:
        with strange("echo up; exec sleep 60") as (ref, _):
            for other in (
                replace(ref, start_ticks=ref.start_ticks - 1),
                replace(ref, start_ticks=ref.start_ticks + 1),
                replace(ref, boot_id="another boot"),
            ):
                assert adopt(other) is None
                assert await end_group(other)
                assert alive(ref.pid)
            os.kill(ref.pid, signal.SIGKILL)

    asyncio.run(story())


def test_a_process_that_is_gone_is_not_adopted() -> None:
    async def story() -> None:
        with spawned("exit 0") as (process, _):
            await process.ended()
            assert adopt(process.ref) is None

    asyncio.run(story())


# --- letting go -----------------------------------------------------------------------------------


def test_what_is_let_go_runs_on_and_its_exit_code_is_there_for_whoever_asks() -> None:
    async def story() -> int:
        with spawned("echo up; read line < /dev/null; exec sleep 60") as (process, out):
            first_line(out)
            waiting = asyncio.create_task(process.ended())
            await asyncio.sleep(0)
            process.let_go()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            return process.ref.pid

    pid = asyncio.run(story())
    assert alive(pid)
    os.kill(pid, signal.SIGTERM)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGTERM


def test_what_has_ended_can_be_let_go_too() -> None:
    async def story() -> None:
        with spawned("exit 0") as (process, _):
            await process.ended()
            process.let_go()
            assert await process.ended() == Exit(code=0)

    asyncio.run(story())


# --- leaving nothing ------------------------------------------------------------------------------


def test_fifty_starts_leave_no_descriptor_and_no_zombie() -> None:
    async def story() -> None:
        with output() as (write, _):
            before = len(os.listdir("/proc/self/fd"))
            processes = [start("/bin/true", log=write) for _ in range(50)]
            ends = await asyncio.gather(*(process.ended() for process in processes))
            assert set(ends) == {Exit(code=0)}
            for _ in range(10):
                with pytest.raises(StartError):
                    start("/nowhere/engine", log=write)
            assert len(os.listdir("/proc/self/fd")) == before
        assert zombies_of(os.getpid()) == []

    asyncio.run(story())


def test_the_exit_code_of_another_child_is_not_taken() -> None:
    async def story() -> None:
        with spawned("exit 0") as (process, _):
            await process.ended()

    with subprocess.Popen(sh("exit 9")) as other:
        os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
        asyncio.run(story())
        assert other.wait() == 9
