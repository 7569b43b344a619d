"""Memory that ran out: what the kernel says of it, and what is left."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from orchestrator.runtime import oom
from orchestrator.runtime.oom import OomWatch, available, groups_of
from tests import broken_programs

GREEDY = "x = []\nwhile True: x.append(bytearray(1 << 20))"


@contextmanager
def _in_group(group: Path, program: str) -> Generator[subprocess.Popen[bytes]]:
    """A program that joins the group, and begins once a line is written to it."""
    join = f"open('{group}/cgroup.procs', 'w').write('0')\nprint(flush=True)\ninput()\n{program}"
    process = subprocess.Popen(
        [sys.executable, "-c", join], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("witness", ["record", "counters"])
def test_whom_the_kernel_kills_for_memory_is_known(
    monkeypatch: pytest.MonkeyPatch, witness: str
) -> None:
    if witness == "counters":
        monkeypatch.setattr(oom, "_kernel_log", list[str])
    with broken_programs.small_group(40 << 20) as group:
        if group is None:
            # Such an end is recorded in tests/data/causes; here only that nothing is made up.
            assert OomWatch(1).verdict() == ""
            return
        with _in_group(group, GREEDY) as process:
            watch = OomWatch(process.pid)
            assert str(group) in watch.groups
            assert 0 < available(watch.groups) <= 40 << 20
            process.communicate(b"\n")
            assert process.returncode == -9
            assert watch.verdict() == "cgroup"


def test_who_is_killed_by_hand_was_not_out_of_memory() -> None:
    with broken_programs.small_group(400 << 20) as group:
        if group is None:
            return
        with _in_group(group, "") as process:
            watch = OomWatch(process.pid)
            process.kill()
            process.wait()
            assert watch.verdict() == ""


def test_a_group_that_it_joined_later_is_seen() -> None:
    with broken_programs.small_group(40 << 20) as group:
        if group is None:
            return
        program = f"import os; open('{group}/cgroup.procs', 'w').write('0'); print(flush=True)"
        with subprocess.Popen(
            [sys.executable, "-c", f"input(); {program}; input()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            watch = OomWatch(process.pid)
            assert str(group) not in watch.groups
            process.stdin.write(b"\n")
            process.stdin.flush()
            process.stdout.readline()
            watch.look()
            assert str(group) in watch.groups
            process.communicate(b"\n")


def test_version_2_of_control_groups_is_read_as_well(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("900000\n")
    (tmp_path / "memory.stat").write_text("anon 5\ninactive_file 50000\n")
    assert available([str(tmp_path)]) == 150_000
    assert oom.limit([str(tmp_path)]) == 1_000_000
    (tmp_path / "memory.max").write_text("max\n")
    assert available([str(tmp_path)]) > 1_000_000
    assert oom.limit([str(tmp_path)]) == 0
    (tmp_path / "memory.events").write_text("low 0\nhigh 0\nmax 7\noom 2\noom_kill 1\n")
    assert oom._count(str(tmp_path)) == oom._Count(kills=1, limited=2)  # pyright: ignore[reportPrivateUsage]


@pytest.mark.parametrize(
    ("record", "verdict"),
    [
        (
            "3,427,{now},-;Memory cgroup out of memory: Killed process 77 (python) total-vm:1kB",
            "cgroup",
        ),
        ("3,427,{now},-;Out of memory: Killed process 77 (llama-server) total-vm:1kB", "host"),
        ("3,427,{now},-;Out of memory: Killed process 771 (llama-server) total-vm:1kB", ""),
        ("3,427,0,-;Out of memory: Killed process 77 (who had that pid before) total-vm:1kB", ""),
        (
            "6,426,{now},-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,"
            "mems_allowed=0,oom_memcg=/zz,task_memcg=/zz,task=python,pid=77,uid=0",
            "cgroup",
        ),
        ("no record at all", ""),
    ],
)
def test_the_kernels_own_record(monkeypatch: pytest.MonkeyPatch, record: str, verdict: str) -> None:
    line = record.replace("{now}", str(int(time.monotonic() * 1e6)))
    monkeypatch.setattr(oom, "_kernel_log", lambda: [line])
    monkeypatch.setattr(oom, "_kills_of_the_machine", lambda: None)
    assert OomWatch(77).verdict() == verdict


def test_the_record_is_read_only_where_somebody_was_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    line = f"3,427,{int(time.monotonic() * 1e6)},-;Out of memory: Killed process 77 (python)"
    monkeypatch.setattr(oom, "_kernel_log", lambda: [line])
    monkeypatch.setattr(oom, "_kills_of_the_machine", lambda: kills)
    kills = 3
    watch = OomWatch(77)
    assert watch.verdict() == ""
    kills = 4
    assert watch.verdict() == "host"


def test_the_groups_of_nobody_are_none() -> None:
    assert groups_of(2**22 + 1) == []
    assert 0 < available([]) <= oom.total()
