"""What memory there is for instances: the machine's, a cgroup's, the GPUs'.

Read when a start is considered, and cheap: a few small files of `/proc` and `/sys`. What bounds the
total may be the machine, a cgroup of any depth above this process (of either version), or
ORCHESTRATE_MEMORY, whichever is least.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from orchestrator.core.admission import HOST, Budget, Room
from orchestrator.core.status import ALIVE, Observed
from orchestrator.runtime import cgroups
from orchestrator.runtime.families import Families
from orchestrator.runtime.identity import ProcStat
from orchestrator.runtime.usage import Table

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
        self._table = Table()
        self._oldest = 0

    def now(self, observed: Observed) -> Budget | None:
        """What there is, and what those instances have of it already; None where that cannot be
        read, as while no descriptor is left: nobody is held up for what is not known."""
        try:
            rooms = {HOST: self._host()}
            totals = self._gpu_totals()
            if totals:
                rooms |= self._gpus(totals)
            return Budget(rooms, self._taken(observed))
        except (OSError, ValueError, LookupError):
            return None

    def _taken(self, observed: Observed) -> dict[str, int]:
        """What each has of the machine's memory, for itself: pages of files are not in it.

        With all that it has begun: below a script is an engine, below an Ollama are its runners.
        """
        leaders = {
            name: status.process
            for name, status in observed.items()
            if status.phase in ALIVE and status.spec.demand is not None and status.process
        }
        if not leaders:
            return {}
        families = Families(self._younger(min(ref.start_ticks for ref in leaders.values())))
        found: dict[str, int] = {}
        for name, leader in leaders.items():
            # What was begun by one that has ended since hangs on another, but is of the group.
            own = (*families.tree(leader.pid), *families.group(leader.pid))
            pages = [some for pid in {one.pid for one in own} if (some := _own_pages(pid))]
            if pages:
                found[name] = sum(pages) * _PAGE
        return found

    def _younger(self, oldest: int) -> list[ProcStat]:
        """All processes but those that were there before the first of ours, in its start ticks:
        what is older than that is none of ours."""
        stats = self._table.read(anew=oldest < self._oldest)
        self._oldest = oldest
        self._table.pass_over(one.pid for one in stats if one.start_ticks < oldest)
        return stats

    def _host(self) -> Room:
        room = machine_room()
        with contextlib.suppress(OSError):
            for inner in cgroup_rooms(cgroups.ROOT, cgroups.membership(), below=room.total):
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
    with open("/proc/meminfo", encoding="ascii") as file:
        for line in file:
            key, _, rest = line.partition(":")
            if key in ("MemTotal", "MemAvailable"):
                found[key] = int(rest.split()[0]) << 10
            if len(found) == 2:
                break
    return Room(found["MemTotal"], found.get("MemAvailable", found["MemTotal"]))


def cgroup_rooms(root: str, membership: str, *, below: int) -> Iterator[Room]:
    """The room in each cgroup that a process is in, or that is above one of these, and whose limit
    is below so many bytes. `membership` is the content of `/proc/self/cgroup`.
    """
    for folder in cgroups.folders(membership, "memory", root):
        if (room := cgroups.memory_room(folder, below=below)) is not None:
            yield Room(room.total, room.free, "this cgroup")


def _narrower(one: Room, other: Room) -> Room:
    """The room within both."""
    limit = other.limit if other.total < one.total else one.limit
    return Room(min(one.total, other.total), min(one.free, other.free), limit)


def _own_pages(pid: int) -> int | None:
    try:
        with open(f"/proc/{pid}/statm", "rb", buffering=0) as file:
            _, resident, shared, *_ = map(int, file.read().split())
    except (OSError, ValueError):
        return None
    return resident - shared
