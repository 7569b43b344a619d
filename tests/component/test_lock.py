"""One daemon for one state folder: the lock is the kernel's, so no death leaves it behind."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from orchestrator.runtime.lock import acquire, holder

HOLD = """
import sys
from orchestrator.runtime.lock import acquire
print(acquire(sys.argv[1]), flush=True)
sys.stdin.read()
"""

ASK = """
import sys
from orchestrator.runtime.lock import holder
print(holder(sys.argv[1]), flush=True)
while True:
    holder(sys.argv[1])
"""


@contextmanager
def another(path: Path) -> Generator[subprocess.Popen[str]]:
    """Another process that holds the lock."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() not in ("None\n", "")
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "daemon.lock"


def test_one_has_it_and_says_who_it_is(path: Path) -> None:
    fd = acquire(str(path))
    assert fd is not None
    try:
        assert holder(str(path)) == os.getpid()
        assert path.stat().st_mode & 0o777 == 0o600
        assert not os.get_inheritable(fd)
    finally:
        os.close(fd)
    assert holder(str(path)) is None


def test_nobody_holds_what_is_not_there(path: Path) -> None:
    assert holder(str(path)) is None
    assert not path.exists()


def test_a_second_process_does_not_get_it_until_the_first_was_killed(path: Path) -> None:
    with another(path) as first:
        assert acquire(str(path)) is None
        assert holder(str(path)) == first.pid
        first.kill()
        first.wait()
        assert path.read_text().split() == [str(first.pid)], "what stands in it decides nothing"
        assert holder(str(path)) is None
        fd = acquire(str(path))
        assert fd is not None
        assert holder(str(path)) == os.getpid()
        os.close(fd)


def test_a_shorter_pid_leaves_nothing_of_a_longer_one(path: Path) -> None:
    path.write_text("123456789012345\n")
    fd = acquire(str(path))
    assert fd is not None
    os.close(fd)
    assert path.read_text().split() == [str(os.getpid())]


def test_a_holder_that_has_not_yet_said_who_it_is_is_nobody_known(path: Path) -> None:
    for text in ("", "garbage"):
        path.write_text(text)
        with open(path) as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            assert holder(str(path)) is None


def test_asking_who_has_it_does_not_keep_it_from_a_daemon_that_starts(path: Path) -> None:
    path.touch()
    asking = [
        subprocess.Popen([sys.executable, "-c", ASK, str(path)], stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    try:
        for one in asking:
            assert one.stdout is not None
            one.stdout.readline()
        for _ in range(300):
            fd = acquire(str(path))
            assert fd is not None
            os.close(fd)
    finally:
        for one in asking:
            with one:
                one.kill()
