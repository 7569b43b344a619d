"""How a process ended that is somebody else's child, before and after that one has waited."""

from __future__ import annotations

import os
import platform
import select
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager

import pytest
from msgspec.structs import replace

from orchestrator.core.status import ProcessRef
from orchestrator.runtime.identity import ref_of
from orchestrator.runtime.others_exit import wait_status

SINCE = (6, 15)
"""The first Linux that tells of a process which is gone."""

PARENT = """
import subprocess, sys
child = subprocess.Popen(["sh", "-c", sys.argv[1]], start_new_session=True)
print(child.pid, flush=True)
sys.stdin.readline()
child.wait()
"""


@contextmanager
def grandchild(script: str) -> Generator[tuple[ProcessRef, int, subprocess.Popen[str]]]:
    """A process, its pidfd, and its parent, which waits for it when it is told to."""
    argv = [sys.executable, "-c", PARENT, script]
    with subprocess.Popen(argv, stdin=-1, stdout=-1, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        pidfd = os.pidfd_open(pid)
        try:
            ref = ref_of(pid)
            assert ref is not None
            yield ref, pidfd, parent
        finally:
            os.close(pidfd)
            waits_for_it(parent)


def waits_for_it(parent: subprocess.Popen[str]) -> None:
    assert parent.stdin is not None
    if not parent.stdin.closed:
        with parent.stdin as line:
            line.write("\n")
    assert parent.wait(30) == 0


def ends(pidfd: int) -> None:
    assert select.select([pidfd], [], [], 30)[0], "it does not end"


@pytest.mark.parametrize(
    ("script", "number", "expected"),
    [("exit 7", 0, 7), ("exit 0", 0, 0), ("exec sleep 60", signal.SIGKILL, -signal.SIGKILL)],
)
def test_it_is_known_before_and_after_its_parent_has_waited(
    script: str, number: int, expected: int
) -> None:
    with grandchild(script) as (ref, pidfd, parent):
        if number:
            os.kill(ref.pid, number)
        ends(pidfd)

        before = wait_status(pidfd, ref)

        assert before is not None
        assert os.waitstatus_to_exitcode(before) == expected
        waits_for_it(parent)
        after = wait_status(pidfd, ref)
        release = tuple(int(part) for part in platform.release().split(".")[:2])
        assert after == (before if release >= SINCE else None)


def test_another_process_of_that_number_says_nothing() -> None:
    with grandchild("exit 7") as (ref, pidfd, _):
        ends(pidfd)
        devnull = os.open(os.devnull, os.O_RDONLY)
        try:
            assert wait_status(devnull, replace(ref, start_ticks=ref.start_ticks + 1)) is None
        finally:
            os.close(devnull)


def test_what_lives_has_no_status() -> None:
    with grandchild("exec sleep 60") as (ref, pidfd, _):
        assert wait_status(pidfd, ref) is None
        os.kill(ref.pid, signal.SIGKILL)
        ends(pidfd)
