"""Memory that ran out, as the kernel tells it: whom it killed for it, and what is left now.

Three witnesses, the best first: the kernel's own record (`/dev/kmsg`, which names the pid), the
counters of the process's control groups (version 2 and version 1), and the machine's counter of
all such kills. Each may be unreadable; then the next is asked. Where the last has not moved, nobody
was killed so, and the record, which takes milliseconds, is not read.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Iterator

from msgspec import Struct, field

from orchestrator.core.cause import OomKind
from orchestrator.runtime import cgroups

_SLACK = 5.0
"""Seconds that the clock of the kernel's record may be off."""
_MOST_RECORDS = 100_000


class _Count(Struct, frozen=True):
    """Of one control group: kills for want of memory, and how often its own limit was hit."""

    kills: int
    limited: int


class OomWatch(Struct):
    """Looks after one process. `look` now and then while it lives, `verdict` once it is gone."""

    pid: int
    _began: float = field(default_factory=time.monotonic)
    _groups: list[str] = field(default_factory=list[str])
    _before: dict[str, _Count] = field(default_factory=dict[str, _Count])
    _kills: int | None = None

    def __post_init__(self) -> None:
        self._kills = _kills_of_the_machine()
        self.look()

    def look(self) -> None:
        """Take up the control groups that it is in now: it may have been moved into others."""
        groups = groups_of(self.pid)
        if groups and groups != self._groups:
            self._groups = groups
            self._before = {group: _count(group) for group in groups}

    def verdict(self) -> OomKind:
        """Whose memory ran out when the kernel killed it; empty when it did not.

        May read all of the kernel's log: not for the event loop.
        """
        kills = _kills_of_the_machine()
        if kills is not None and kills == self._kills:
            return ""
        recorded, group = _recorded(self.pid, self._began - _SLACK)
        if group and not any(one.endswith(group) for one in self._groups):
            # It was moved there since the last look.
            self._groups = _counting(f"0:memory:{group}") or _counting(f"0::{group}")
        if recorded:
            return recorded
        if not self._groups:
            return "host" if (kills or 0) > (self._kills or 0) else ""
        after = {group: _count(group) for group in self._before}
        own = self._groups[0]
        if own not in after or after[own].kills <= self._before[own].kills:
            return ""
        limited = any(after[one].limited > self._before[one].limited for one in after)
        return "cgroup" if limited else "host"

    @property
    def groups(self) -> tuple[str, ...]:
        """The folders of its control groups."""
        return tuple(self._groups)


def groups_of(pid: int) -> list[str]:
    """The folders of its control groups that count memory, its own first, then what they are in."""
    try:
        return _counting(cgroups.membership(pid))
    except OSError:
        return []


def _counting(said: str) -> list[str]:
    return [
        folder
        for folder in cgroups.folders(said, "memory")
        if any(os.path.exists(os.path.join(folder, name)) for name in _COUNTERS)
    ]


_COUNTERS = ("memory.events", "memory.oom_control")


def _count(group: str) -> _Count:
    events = cgroups.numbers(f"{group}/memory.events")
    if events:
        return _Count(events.get("oom_kill", 0), events.get("oom", 0))
    return _Count(
        cgroups.numbers(f"{group}/memory.oom_control").get("oom_kill", 0),
        cgroups.number(f"{group}/memory.failcnt") or 0,
    )


def total() -> int:
    """Bytes of memory that the machine has; 0 where that cannot be read."""
    return cgroups.numbers("/proc/meminfo").get("MemTotal:", 0) * 1024


def limit(groups: Iterable[str]) -> int:
    """The lowest limit of these groups in bytes; 0 where none limits more than the machine does."""
    rooms = (cgroups.memory_room(group, below=total()) for group in groups)
    return min((room.total for room in rooms if room is not None), default=0)


def available(groups: Iterable[str]) -> int:
    """Bytes that are free, or can be made so, within the machine and all of these groups.

    0 where that cannot be read.
    """
    free = cgroups.numbers("/proc/meminfo").get("MemAvailable:", 0) * 1024
    rooms = (cgroups.memory_room(group) for group in groups)
    return min([free, *(room.free for room in rooms if room is not None)])


def _kills_of_the_machine() -> int | None:
    """Counted before the process is killed; None where the kernel does not."""
    try:
        with open("/proc/vmstat", "rb", buffering=0) as file:
            found = re.search(rb"^oom_kill (\d+)$", file.read(), re.MULTILINE)
    except OSError:
        return None
    return int(found.group(1)) if found else None


_KILLED = re.compile(r"([Oo]ut of memory).*: Killed process (\d+) ")
_DETAILS = re.compile(r"oom-kill:constraint=CONSTRAINT_MEMCG,.*\btask_memcg=([^,]+),.*\bpid=(\d+)")
"""This one is left out when there are many at once."""


def _recorded(pid: int, since: float) -> tuple[OomKind, str]:
    """What the kernel's record says of that process, and the control group that it was in.

    Both are empty where it says nothing, or may not be read.
    """
    group = ""
    for record in _kernel_log():
        head, _, text = record.partition(";")
        when = head.split(",")[2:3]
        if not when or not when[0].isdigit() or int(when[0]) / 1e6 < since:
            continue
        details, killed = _DETAILS.search(text), _KILLED.search(text)
        if details is not None and int(details.group(2)) == pid:
            group = details.group(1)
        if killed is not None and int(killed.group(2)) == pid:
            return ("cgroup" if text.startswith("Memory cgroup") else "host"), group
    return ("cgroup" if group else ""), group


def _kernel_log() -> Iterator[str]:
    try:
        log = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return
    try:
        for _ in range(_MOST_RECORDS):
            try:
                yield os.read(log, 8192).decode("utf-8", "replace")
            except BrokenPipeError:
                # Overwritten while it was read: the next one is there.
                continue
            except OSError:
                return
    finally:
        os.close(log)
