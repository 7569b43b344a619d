"""The memory that there is, as this machine and made-up cgroups say it."""

from __future__ import annotations

import os
import resource
import shlex
import signal
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace

from orchestrator.core.admission import HOST, Budget, Room
from orchestrator.core.spec import Demand
from orchestrator.core.status import InstanceStatus, Observed, Phase, ProcessRef
from orchestrator.runtime import cgroups, usage
from orchestrator.runtime.identity import ProcStat, read_stat
from orchestrator.runtime.memory_budget import (
    GpuTotals,
    MemoryBudget,
    cgroup_rooms,
    machine_room,
)
from tests.unit.test_plan import spec

MIB = 1 << 20
ALL = 1 << 62


def cgroup(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(f"{content}\n")


def now(observed: Observed, cap: int | None = None, gpus: GpuTotals = dict) -> Budget:
    found = MemoryBudget(cap, gpus).now(observed)
    assert found is not None
    return found


def test_this_machine() -> None:
    room = machine_room()
    assert 0 < room.free <= room.total == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_the_second_version_of_cgroups_at_every_depth(tmp_path: Path) -> None:
    cgroup(tmp_path / "a", memory__max=900 * MIB, memory__current=100 * MIB, memory__stat="x 1")
    stat = f"active_file {30 * MIB}\ninactive_file {20 * MIB}\nanon 7"
    cgroup(tmp_path / "a/b", memory__max=500 * MIB, memory__current=200 * MIB, memory__stat=stat)
    cgroup(tmp_path / "a/b/c", memory__max="max", memory__current=5)
    found = list(cgroup_rooms(str(tmp_path), "0::/a/b/c\n", below=ALL))
    assert found == [
        Room(500 * MIB, 350 * MIB, "this cgroup"),
        Room(900 * MIB, 800 * MIB, "this cgroup"),
    ]
    assert list(cgroup_rooms(str(tmp_path), "0::/a/b/c\n", below=600 * MIB)) == found[:1]


def test_the_first_version_of_cgroups(tmp_path: Path) -> None:
    stat = f"cache 1\nactive_file 5\ntotal_active_file {10 * MIB}\ntotal_inactive_file {MIB}"
    names = {
        "memory__limit_in_bytes": 100 * MIB,
        "memory__usage_in_bytes": 60 * MIB,
        "memory__stat": stat,
    }
    cgroup(tmp_path / "memory/x", **names)
    cgroup(tmp_path / "memory", memory__limit_in_bytes=9223372036854771712)
    membership = "4:cpu,cpuacct:/x\n3:memory:/x\n0::/\n"
    found = list(cgroup_rooms(str(tmp_path), membership, below=1 << 50))
    assert found == [Room(100 * MIB, 51 * MIB, "this cgroup")]


def test_a_cap_is_named_where_it_is_the_least() -> None:
    total = machine_room().total
    assert now({}, MIB).rooms[HOST].limit == "ORCHESTRATE_MEMORY"
    assert now({}, MIB).rooms[HOST].total == MIB
    assert now({}, total * 2).rooms[HOST].limit != "ORCHESTRATE_MEMORY"


@contextmanager
def holding(count: int, *, below: str = "") -> Generator[int]:
    """A process with so many bytes of its own; or, with the rest of a script, a shell above it."""
    program = f"import sys; kept = bytearray({count}); kept[::4096] = b'1' * len(kept[::4096])"
    program += "; print('ready', flush=True); sys.stdin.read()"
    command = ["python3", "-c", program]
    if below:
        command = ["/bin/sh", "-c", shlex.join(command) + below]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield process.pid
        os.killpg(process.pid, signal.SIGKILL)


def running(pid: int, *, engine: str, start_ticks: int = 1) -> Observed:
    one = replace(spec(), engine=engine, demand=Demand(host=1, declared=True))
    process = ProcessRef(pid, start_ticks, "boot")
    return {"a": InstanceStatus("a", Phase.READY, one, "s", process)}


@pytest.mark.parametrize("engine", ["llama-server", "ollama"])
def test_what_an_instance_has_taken_is_what_is_its_own(engine: str) -> None:
    with holding(40 * MIB) as pid:
        taken = now(running(pid, engine=engine)).taken
    assert 40 * MIB <= taken["a"] < 70 * MIB


def test_one_that_is_gone_has_nothing() -> None:
    with holding(MIB) as pid:
        pass
    assert now(running(pid, engine="llama-server")).taken == {}


def test_gpus_without_a_driver_that_measures_have_all_their_memory() -> None:
    rooms = now({}, None, lambda: {200: 24 * MIB}).rooms
    assert rooms[200] == Room(24 * MIB, 24 * MIB)


def test_what_cannot_be_read_is_no_budget_and_no_end_of_the_loop() -> None:
    """As when no descriptor is left for the daemon."""
    budget = MemoryBudget(None)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        found = budget.now({})
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert found is None


def test_a_cgroup_may_have_any_name(tmp_path: Path) -> None:
    name = os.fsdecode("prüfung\u2028x".encode() + b"\xff")
    cgroup(tmp_path / name, memory__max=500 * MIB, memory__current=0, memory__stat="anon 7")
    membership = tmp_path / "membership"
    membership.write_bytes(os.fsencode(f"0::/{name}\nnonsense\n"))
    with cgroups.opened(str(membership)) as file:
        found = list(cgroup_rooms(str(tmp_path), file.read(), below=ALL))
    assert found == [Room(500 * MIB, 500 * MIB, "this cgroup")]


def test_what_an_engine_below_a_script_has_taken_counts_as_well() -> None:
    with holding(40 * MIB, below="; true") as pid:
        taken = now(running(pid, engine="llama-server")).taken
    assert 40 * MIB <= taken["a"] < 70 * MIB


def test_what_is_older_than_all_instances_is_not_read_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read: list[int] = []

    def noted(pid: int) -> ProcStat | None:
        read.append(pid)
        return read_stat(pid)

    monkeypatch.setattr(usage, "read_stat", noted)
    monkeypatch.setattr(usage, "AS_IT_WAS", 0.0)
    budget = MemoryBudget(None)

    def look(pid: int) -> int:
        read.clear()
        stat = read_stat(pid)
        assert stat is not None
        found = budget.now(running(pid, engine="ollama", start_ticks=stat.start_ticks))
        assert found is not None
        return found.taken["a"]

    with holding(20 * MIB) as old:
        # Later by a tick of its start, at the least: within one nobody can say who was first.
        until_later_than(old)
        with holding(40 * MIB, below="; true") as young:
            look(young)
            assert os.getpid() in read
            # What it has below it is young as well.
            assert look(young) >= 40 * MIB
            assert young in read
            assert not {os.getpid(), old} & {*read}
            # One that is older counts now, as one that is adopted late does.
            assert look(old) >= 20 * MIB


def until_later_than(pid: int) -> None:
    """Until a process that is begun now has another start than that one."""
    while True:
        with holding(0) as other:
            first, second = read_stat(pid), read_stat(other)
            assert first is not None
            assert second is not None
            if second.start_ticks > first.start_ticks:
                return
