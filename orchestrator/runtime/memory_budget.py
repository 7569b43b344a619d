"""What memory there is for instances: the machine's, a cgroup's, the GPUs'.

Read when a start is considered, and cheap: a few small files of `/proc` and `/sys`. What bounds the
total may be the machine, a cgroup of any depth above this process (of either version), or
ORCHESTRATE_MEMORY, whichever is least.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TextIO

from orchestrator.core.admission import HOST, Budget, Room
from orchestrator.core.status import ALIVE, Observed
from orchestrator.runtime.identity import all_stats
from orchestrator.runtime.usage import tree

CGROUPS = "/sys/fs/cgroup"
VARIABLE = "ORCHESTRATE_MEMORY"
_PAGE = os.sysconf("SC_PAGE_SIZE")

GpuTotals = Callable[[], Mapping[int, int]]
"""Bytes of each GPU that an engine has listed, by index."""


class MemoryBudget:
    """Reads it. `cap` is what the user lets us have, None for all there is."""

    def __init__(self, cap: int | None, gpu_totals: GpuTotals = dict) -> None:
        self._cap = cap
        self._gpu_totals = gpu_totals
        self._nvml: Any = None

    def now(self, observed: Observed) -> Budget | None:
        """What there is, and what those instances have of it already; None where that cannot be
        read, as while no descriptor is left: nobody is held up for what is not known."""
        try:
            rooms = {HOST: self._host()}
            totals = self._gpu_totals()
            if totals:
                rooms |= self._gpus(totals)
            return Budget(rooms, _taken(observed))
        except (OSError, ValueError, LookupError):
            return None

    def _host(self) -> Room:
        room = machine_room()
        with contextlib.suppress(OSError):
            for inner in cgroup_rooms(CGROUPS, read_membership(), below=room.total):
                room = _narrower(room, inner)
        if self._cap is None or self._cap >= room.total:
            return room
        # What is free within the cap is what our own instances leave of it.
        return Room(self._cap, room.free, VARIABLE)

    def _gpus(self, totals: Mapping[int, int]) -> dict[int, Room]:
        """By NVML where it is installed; else all that nobody here has been promised counts."""
        measured = self._measured(totals)
        return {index: measured.get(index, Room(total, total)) for index, total in totals.items()}

    def _measured(self, totals: Iterable[int]) -> dict[int, Room]:
        nvml = self._opened_nvml()
        found: dict[int, Room] = {}
        for index in totals if nvml else ():
            with contextlib.suppress(nvml.NVMLError):
                seen = nvml.nvmlDeviceGetMemoryInfo(nvml.nvmlDeviceGetHandleByIndex(index))
                found[index] = Room(int(seen.total), int(seen.free))
        return found

    def _opened_nvml(self) -> Any:
        """The module, once initialised; False where there is none, or no driver."""
        if self._nvml is None:
            self._nvml = False
            with contextlib.suppress(ImportError):
                import pynvml  # pyright: ignore[reportMissingImports, reportMissingModuleSource]

                with contextlib.suppress(pynvml.NVMLError):  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
                    pynvml.nvmlInit()  # pyright: ignore[reportUnknownMemberType]
                    self._nvml = pynvml
        return self._nvml


def machine_room() -> Room:
    """The machine's memory. Raises OSError where it cannot be read."""
    found: dict[str, int] = {}
    with _opened("/proc/meminfo") as file:
        for line in file:
            key, _, rest = line.partition(":")
            if key in ("MemTotal", "MemAvailable"):
                found[key] = int(rest.split()[0]) << 10
            if len(found) == 2:
                break
    return Room(found["MemTotal"], found.get("MemAvailable", found["MemTotal"]))


def read_membership(path: str = "/proc/self/cgroup") -> str:
    """Which cgroups this process is in. Raises OSError."""
    with _opened(path) as file:
        return file.read()


def _opened(path: str) -> TextIO:
    """Folders have names in any encoding, and find their way back as they came."""
    return open(path, encoding="utf-8", errors="surrogateescape", newline="\n")


def cgroup_rooms(root: str, membership: str, *, below: int) -> Iterator[Room]:
    """The room in each cgroup that a process is in, or that is above one of these, and whose limit
    is below so many bytes.

    `membership` is the content of `/proc/self/cgroup`. What is cached of files counts as free, for
    it is given up when it is needed.
    """
    for line in membership.split("\n"):
        if line.count(":") < 2:
            continue
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            names = _Names("memory.max", "memory.current", "")
            yield from _rooms(_above(root, path), names, below)
        elif "memory" in controllers.split(","):
            folders = _above(os.path.join(root, "memory"), path)
            names = _Names("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
            yield from _rooms(folders, names, below)


def _above(root: str, path: str) -> list[str]:
    parts = [part for part in path.split("/") if part]
    return [os.path.join(root, *parts[:depth]) for depth in range(len(parts), -1, -1)]


class _Names(NamedTuple):
    """How a version of cgroups calls its files, and begins the sums over all that is below."""

    limit: str
    usage: str
    sums: str


def _rooms(folders: Iterable[str], names: _Names, below: int) -> Iterator[Room]:
    for folder in folders:
        total = _number(folder, names.limit)
        if total is None or total >= below:
            continue
        used = _number(folder, names.usage) or 0
        cached = _cached(folder, names.sums)
        yield Room(total, max(total - used + min(cached, used), 0), "this cgroup")


def _number(folder: str, name: str) -> int | None:
    """The number in a file; None where there is none, or it is `max`."""
    try:
        with _opened(os.path.join(folder, name)) as file:
            text = file.read().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None


def _cached(folder: str, prefix: str) -> int:
    wanted = {f"{prefix}active_file", f"{prefix}inactive_file"}
    try:
        with _opened(os.path.join(folder, "memory.stat")) as file:
            rows = (line.split() for line in file)
            return sum(int(row[1]) for row in rows if row[0] in wanted)
    except (OSError, IndexError, ValueError):
        return 0


def _narrower(one: Room, other: Room) -> Room:
    """The room within both."""
    limit = other.limit if other.total < one.total else one.limit
    return Room(min(one.total, other.total), min(one.free, other.free), limit)


def _taken(observed: Observed) -> dict[str, int]:
    """What each has of the machine's memory, for itself: pages of files are not in it.

    With all that it has begun: below a script is an engine, below an Ollama are its runners.
    """
    leaders = {
        name: status.process.pid
        for name, status in observed.items()
        if status.phase in ALIVE and status.spec.demand is not None and status.process is not None
    }
    if not leaders:
        return {}
    stats = all_stats()
    found: dict[str, int] = {}
    for name, leader in leaders.items():
        members = {one.pid for one in tree(leader, stats)}
        # What was begun by one that has ended since hangs on another, but is of the group.
        members.update(one.pid for one in stats if one.group == leader)
        pages = [own for pid in members if (own := _own_pages(pid)) is not None]
        if pages:
            found[name] = sum(pages) * _PAGE
    return found


def _own_pages(pid: int) -> int | None:
    try:
        with _opened(f"/proc/{pid}/statm") as file:
            _, resident, shared, *_ = map(int, file.read().split())
    except (OSError, ValueError):
        return None
    return resident - shared
