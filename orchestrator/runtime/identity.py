"""Which process is it: pids, start ticks, boot id, groups, and the mark that our children carry.

Everything is read from `/proc`. A pid is only ever acted on together with its start ticks, for a
pid alone may have become somebody else's in the meantime.
"""

from __future__ import annotations

import os
import time
from functools import cache
from hashlib import sha256
from typing import NamedTuple

from msgspec import Struct

from orchestrator.core.status import ProcessRef

OWNER_VARIABLE = "ORCHESTRATE_OWNER"
"""`<state id>/<instance>/<start id>` in the environment of every child of ours."""


def boot_clock() -> float:
    """Seconds since boot, suspend included: it never jumps with the wall clock."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@cache
def boot_id() -> str:
    """Tells one boot of this machine from another."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def state_id(state_dir: str) -> str:
    """Names a state folder in the mark of its children; derived, so it outlives a lost store."""
    return sha256(f"{os.getuid()}:{os.path.realpath(state_dir)}".encode()).hexdigest()[:16]


class ProcStat(NamedTuple):
    """What `/proc/PID/stat` says, as far as we use it. CPU in clock ticks, memory in pages.

    A tuple, for it is made hundreds of times at one look.
    """

    pid: int
    comm: str
    state: str
    parent: int
    group: int
    session: int
    cpu_ticks: int
    start_ticks: int
    rss_pages: int

    @property
    def living(self) -> bool:
        return self.state not in "ZXx"


def read_stat(pid: int) -> ProcStat | None:
    """None when there is no such process (any more)."""
    raw = _stat_line(pid)
    if raw is None:
        return None
    # The name stands in parentheses and may hold anything, parentheses too: cut at the last one.
    open_at, close_at = raw.find(b"("), raw.rfind(b")")
    if close_at < 0:
        return None
    comm = raw[open_at + 1 : close_at].decode("utf-8", "replace")
    f = raw[close_at + 2 :].split(None, 22)
    state, parent, group, session = f[0].decode("ascii"), int(f[1]), int(f[2]), int(f[3])
    cpu_ticks, start_ticks, rss_pages = int(f[11]) + int(f[12]), int(f[19]), int(f[21])
    return ProcStat(pid, comm, state, parent, group, session, cpu_ticks, start_ticks, rss_pages)


def cpu_clock(pid: int) -> int | None:
    """Nanoseconds that all threads of a process have run, at a tenth of the price of `read_stat`;
    None where there is no such process, or no such clock."""
    # As `clock_getcpuclockid(3)` names it, which Python does not have.
    try:
        return time.clock_gettime_ns(~pid << 3 | 2)
    except OSError:
        return None


def raw_stat(pid: int) -> list[bytes] | None:
    """All of `/proc/PID/stat` after the name: its third field (the state) comes first."""
    raw = _stat_line(pid)
    return None if raw is None else raw[raw.rfind(b")") + 1 :].split()


def _stat_line(pid: int) -> bytes | None:
    # Bare calls: a look at a hundred instances is mostly made of this.
    try:
        file = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(file, 2048)
        finally:
            os.close(file)
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None


def all_pids() -> list[int]:
    """Every pid that is visible now."""
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]


def all_stats() -> list[ProcStat]:
    """One reading of the whole process table."""
    return [stat for pid in all_pids() if (stat := read_stat(pid)) is not None]


def ref_of(pid: int) -> ProcessRef | None:
    """The lasting identity of a process that exists now."""
    stat = read_stat(pid)
    return ProcessRef(pid, stat.start_ticks, boot_id()) if stat else None


def open_verified(ref: ProcessRef) -> int | None:
    """A pidfd of exactly that process, or None when it is gone or another has its pid.

    Opened first and compared after: from then on the descriptor cannot come to mean another.
    """
    if ref.boot_id != boot_id():
        return None
    try:
        pidfd = os.pidfd_open(ref.pid)
    except (ProcessLookupError, OSError):
        return None
    stat = read_stat(ref.pid)
    if stat is None or stat.start_ticks != ref.start_ticks:
        os.close(pidfd)
        return None
    return pidfd


def group_members(leader: ProcessRef) -> list[ProcessRef]:
    """The living processes of the group that `leader` began, itself included.

    A number is not given to another while any process carries it as its group: a later process
    of that number says that nothing is left of the group meant.
    """
    if leader.boot_id != boot_id():
        return []
    stats = all_stats()
    if any(one.pid == leader.pid and one.start_ticks > leader.start_ticks for one in stats):
        return []
    return [
        ProcessRef(one.pid, one.start_ticks, leader.boot_id)
        for one in stats
        if one.group == leader.pid
        and one.session == leader.pid
        and one.start_ticks >= leader.start_ticks
        and one.living
    ]


class Owned(Struct, frozen=True):
    """A process that carries our mark. `leads` is True for the one that we started."""

    instance: str
    start_id: str
    ref: ProcessRef
    leads: bool
    group: int


def find_owned(owner: str) -> list[Owned]:
    """All living processes marked with that state id, from the process table alone."""
    mark = f"\0{OWNER_VARIABLE}={owner}/".encode()
    found: list[Owned] = []
    for pid in all_pids():
        environ = b"\0" + _read(f"/proc/{pid}/environ")
        at = environ.find(mark)
        if at < 0:
            continue
        rest = environ[at + len(mark) :].split(b"\0", 1)[0].decode("utf-8", "replace")
        instance, _, start_id = rest.partition("/")
        stat = read_stat(pid)
        if stat is not None and stat.living:
            ref = ProcessRef(pid, stat.start_ticks, boot_id())
            found.append(Owned(instance, start_id, ref, stat.session == pid, stat.group))
    return found


def command_of(pid: int) -> list[str]:
    """argv of a running process; empty when it cannot be read."""
    raw = _read(f"/proc/{pid}/cmdline")
    return [word.decode("utf-8", "replace") for word in raw.split(b"\0")[:-1]]


def environment_of(pid: int) -> dict[str, str]:
    """The environment that a process was started with; empty when it cannot be read."""
    pairs = (item.partition(b"=") for item in _read(f"/proc/{pid}/environ").split(b"\0"))
    return {
        name.decode("utf-8", "replace"): value.decode("utf-8", "replace")
        for name, separator, value in pairs
        if separator
    }


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""
