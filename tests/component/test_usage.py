"""What groups take: memory of all their processes, CPU since the last look."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress

import pytest
from msgspec.structs import replace

from orchestrator.core.status import ProcessRef
from orchestrator.runtime import usage
from orchestrator.runtime.identity import ProcStat, read_stat, ref_of
from orchestrator.runtime.usage import UsageMeter

MEGABYTE = 1 << 20

GREEDY = """
import os, sys
block = bytearray(os.urandom(1)) * (int(sys.argv[1]) << 20)
if os.fork() == 0:
    block[::4096] = bytes(len(block[::4096]))
print("up", flush=True)
for line in sys.stdin:
    until = os.times().user + float(line)
    while os.times().user < until:
        pass
    print("done", flush=True)
"""


@contextmanager
def group(megabytes: int) -> Generator[tuple[ProcessRef, subprocess.Popen[str]]]:
    """A leader and its child, each with a block of so many megabytes of its own."""
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", GREEDY, str(megabytes)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
        text=True,
    ) as leader:
        assert leader.stdout is not None
        assert [leader.stdout.readline(), leader.stdout.readline()] == ["up\n", "up\n"]
        ref = ref_of(leader.pid)
        assert ref is not None
        try:
            yield ref, leader
        finally:
            with suppress(ProcessLookupError):
                os.killpg(leader.pid, 9)
            # To its end: then all of the group is gone.
            leader.stdout.read()


def test_memory_is_that_of_the_whole_group() -> None:
    with group(20) as (ref, _):
        stat = read_stat(ref.pid)
        assert stat is not None
        alone = stat.rss_pages * os.sysconf("SC_PAGE_SIZE")
        took = UsageMeter().read({"a": ref})["a"]
        assert took.memory_bytes > alone + 15 * MEGABYTE
        assert took.memory_bytes < alone * 3
        assert took.cpu_percent == 0.0, "nothing to compare with yet"


def test_what_one_took_is_never_told_of_its_successor() -> None:
    """They have the same name, and may come within one look's span."""
    meter = UsageMeter()
    with group(60) as (before, _), group(5) as (after, _):
        large = meter.read({"a": before})["a"].memory_bytes
        assert meter.read({"a": after})["a"].memory_bytes < large / 2


def test_each_group_counts_for_itself() -> None:
    with group(5) as (small, _), group(40) as (large, _):
        found = UsageMeter().read({"small": small, "large": large})
        assert found["large"].memory_bytes - found["small"].memory_bytes > 50 * MEGABYTE


def test_cpu_is_what_was_used_since_the_last_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "MIN_SPAN", 0.0)
    meter = UsageMeter()
    with group(1) as (ref, leader):
        assert leader.stdin is not None
        assert leader.stdout is not None
        meter.read({"a": ref})
        leader.stdin.write("0.3\n")
        leader.stdin.flush()
        assert leader.stdout.readline() == "done\n"
        busy = meter.read({"a": ref})["a"].cpu_percent
        assert 0 < busy <= 250
        still = meter.read({"a": ref})["a"].cpu_percent
        assert still < busy


def test_the_cpu_that_was_used_in_all_never_falls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when a member of the group has ended, and what it used is not to be seen any more."""
    monkeypatch.setattr(usage, "MIN_SPAN", 0.0)
    stats = (ProcStat(7, "a", "S", 1, 7, 7, 500, 1, 1), ProcStat(8, "b", "S", 7, 7, 7, 300, 1, 1))
    table = {stat.pid: stat for stat in stats}
    monkeypatch.setattr(usage, "all_pids", lambda: list(table))
    monkeypatch.setattr(usage, "read_stat", table.get)
    monkeypatch.setattr(usage, "cpu_clock", lambda pid: None)
    meter = UsageMeter()
    leader = ProcessRef(7, 1, "boot")
    ticks = os.sysconf("SC_CLK_TCK")
    seen = [meter.read({"a": leader})["a"].cpu_seconds * ticks]
    table[7] = table[7]._replace(cpu_ticks=600)
    seen.append(meter.read({"a": leader})["a"].cpu_seconds * ticks)
    del table[8]
    seen.append(meter.read({"a": leader})["a"].cpu_seconds * ticks)
    # What one that has ended had used is missing from the sum, and not from what was counted.
    table[7] = table[7]._replace(cpu_ticks=650)
    seen.append(meter.read({"a": leader})["a"].cpu_seconds * ticks)
    assert seen == [800, 900, 900, 950]


def test_looks_in_quick_succession_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "MIN_SPAN", 3600.0)
    meter = UsageMeter()
    with group(1) as (ref, _):
        first = meter.read({"a": ref})
        assert meter.read({"a": ref}) is first
        assert meter.read({"a": ref, "b": ref}).keys() == {"a", "b"}


def test_what_is_gone_takes_nothing() -> None:
    with group(1) as (ref, leader):
        leader.kill()
        assert leader.stdout is not None
        os.killpg(leader.pid, 9)
        assert leader.stdout.read() == "", "nobody is left who could say anything"
        leader.wait()
        gone = UsageMeter().read({"a": ref})["a"]
        # Its child may still have to be reaped, by whomever: what that has used, it has used.
        assert (gone.memory_bytes, gone.cpu_percent) == (0, 0.0)
    assert UsageMeter().read({}) == {}


def test_another_run_of_the_same_name_begins_at_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "MIN_SPAN", 0.0)
    meter = UsageMeter()
    with group(1) as (ref, _):
        meter.read({"a": replace(ref, start_ticks=1)})
        assert meter.read({"a": ref})["a"].cpu_percent == 0.0


def test_somebody_elses_process_counts_with_all_that_descends_from_it() -> None:
    with group(20) as (ref, _):
        stat = read_stat(os.getpid())
        assert stat is not None
        meter = UsageMeter()
        # Whatever else is in its group: a whole terminal may be.
        found = meter.read({"ours": ref}, {"theirs": ref.pid, "tests": os.getpid()})
        assert found["theirs"].memory_bytes == found["ours"].memory_bytes
        alone = stat.rss_pages * os.sysconf("SC_PAGE_SIZE")
        assert found["tests"].memory_bytes > alone / 2 + found["theirs"].memory_bytes
    assert UsageMeter().read({}, {"gone": ref.pid})["gone"] == usage.Usage(0, 0.0)


PARENT = """
import os, sys
print("up", flush=True)
for line in sys.stdin:
    if os.fork() == 0:
        block = b"x" * (int(line) << 20)
        print("born", flush=True)
        sys.stdin.read()
        os._exit(0)
"""


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The pids that were read."""
    pids: list[int] = []

    def noted(pid: int) -> ProcStat | None:
        pids.append(pid)
        return read_stat(pid)

    monkeypatch.setattr(usage, "read_stat", noted)
    monkeypatch.setattr(usage, "MIN_SPAN", 0.0)
    return pids


def test_who_has_hardly_run_is_not_read_again(
    monkeypatch: pytest.MonkeyPatch, read: list[int]
) -> None:
    meter = UsageMeter()
    with group(10) as (ref, leader):
        assert leader.stdin is not None
        assert leader.stdout is not None

        def reads() -> bool:
            read.clear()
            meter.read({"a": ref})
            return ref.pid in read

        # It has said that it is up, and comes to wait for a line.
        while reads():
            pass
        at_rest = meter.read({"a": ref})["a"]
        assert at_rest.memory_bytes > 10 * MEGABYTE
        leader.stdin.write("0.1\n")
        leader.stdin.flush()
        assert leader.stdout.readline() == "done\n"
        assert reads()
        assert meter.read({"a": ref})["a"].cpu_seconds >= at_rest.cpu_seconds + 0.09
        while reads():
            pass
        # Only for so long: the kernel may take pages from it.
        monkeypatch.setattr(usage, "AS_IT_WAS", 0.0)
        meter = UsageMeter()
        assert reads()
        assert reads()


def test_who_is_known_to_be_a_stranger_is_not_read_again(
    monkeypatch: pytest.MonkeyPatch, read: list[int]
) -> None:
    monkeypatch.setattr(usage, "AS_IT_WAS", 0.0)
    meter = UsageMeter()
    with group(1) as (ref, _):
        meter.read({"a": ref})
        assert os.getpid() in read
        read.clear()
        meter.read({"a": ref})
        assert ref.pid in read
        assert os.getpid() not in read
        read.clear()
        # This test was a stranger, and counts now.
        assert meter.read({"a": ref}, {"tests": os.getpid()})["tests"].memory_bytes > 0
        read.clear()
        monkeypatch.setattr(usage, "WHOLE_EVERY", 0.0)
        meter.read({"a": ref}, {"tests": os.getpid()})
        assert os.getppid() in read


@pytest.mark.parametrize("foreign", [False, True])
def test_a_child_that_is_born_later_counts(monkeypatch: pytest.MonkeyPatch, foreign: bool) -> None:
    monkeypatch.setattr(usage, "MIN_SPAN", 0.0)
    meter = UsageMeter()
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", PARENT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
        text=True,
    ) as leader:
        assert leader.stdin is not None
        assert leader.stdout is not None
        ref = ref_of(leader.pid)
        assert ref is not None

        def took() -> int:
            found = meter.read({}, {"a": leader.pid}) if foreign else meter.read({"a": ref})
            return found["a"].memory_bytes

        assert leader.stdout.readline() == "up\n"
        before = took()
        leader.stdin.write("30\n")
        leader.stdin.flush()
        assert leader.stdout.readline() == "born\n"
        assert took() > before + 25 * MEGABYTE
        os.killpg(leader.pid, 9)
