"""Limits that the kernel keeps: a control group of its own for each instance that has one.

Only version 2, and only where a group was given to us to divide: a service whose `Delegate=` and
`DelegateSubgroup=` put this process into a group below it, or a container that may write to its
own. A group that has processes cannot be divided, so the daemon is always in one below, and the
instances beside it. Everywhere else limits are watched, and nothing here does anything.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable

from msgspec import Struct

from orchestrator.core.export_systemd import LEAF
from orchestrator.runtime import cgroups

CONTROLLER = "memory"
LIMIT = "memory.max"
ALONG = {"memory.swap.max": "0", "memory.oom.group": "1"}
"""What a limit means besides: it is not evaded by swap, and all of an instance ends, not a part."""

_PREFIX = "instance-"


class HardLimits(Struct, frozen=True):
    """The group that is ours to divide; empty where there is none."""

    folder: str = ""

    def begin(self, name: str, start_id: str, most: int | None) -> str:
        """A new group for one run that may take so many bytes; empty where there is none, and
        nothing is limited by it."""
        if not self.folder or most is None:
            return ""
        group = os.path.join(self.folder, f"{_PREFIX}{name}-{start_id}")
        try:
            os.mkdir(group)
            _write(os.path.join(group, LIMIT), str(most))
        except OSError:
            self.end(group)
            return ""
        for file, value in ALONG.items():
            # A kernel without swap, or one that is older, has no such file.
            with contextlib.suppress(OSError):
                _write(os.path.join(group, file), value)
        return group

    def of(self, pid: int) -> str:
        """The group that `begin` made for the run of a process; empty where it has none."""
        if not self.folder:
            return ""
        with contextlib.suppress(OSError):
            own = next(cgroups.folders(cgroups.membership(pid), CONTROLLER), "")
            if os.path.dirname(own) == self.folder and os.path.basename(own).startswith(_PREFIX):
                return own
        return ""

    def change(self, group: str, most: int | None) -> None:
        """Another limit for a run under way, or none any more."""
        if group:
            with contextlib.suppress(OSError):
                _write(os.path.join(group, LIMIT), "max" if most is None else str(most))

    def end(self, group: str) -> None:
        """Remove a group whose last process is gone."""
        if group:
            with contextlib.suppress(OSError):
                os.rmdir(group)

    def sweep(self) -> None:
        """Remove what earlier daemons left behind, and nobody is in."""
        if self.folder:
            for name in os.listdir(self.folder):
                if name.startswith(_PREFIX):
                    self.end(os.path.join(self.folder, name))


def joining(group: str) -> Callable[[], None] | None:
    """What a child has to do between fork and exec, to be in the group from its first page on."""
    if not group:
        return None
    file = os.path.join(group, "cgroup.procs")

    def join() -> None:
        # Nothing but system calls: the daemon has threads, and what they held is held for ever
        # here. A limit that cannot be set is no reason not to start: it is watched as well.
        try:
            descriptor = os.open(file, os.O_WRONLY | os.O_CLOEXEC)
        except OSError:
            return
        with contextlib.suppress(OSError):
            os.write(descriptor, b"0")
        os.close(descriptor)

    return join


def delegated() -> HardLimits:
    """What was given to this process to divide, made ready for it."""
    try:
        folder = _ours(cgroups.membership())
        if not folder:
            return HardLimits()
        _step_aside(folder)
        _write(os.path.join(folder, "cgroup.subtree_control"), f"+{CONTROLLER}")
    except OSError:
        return HardLimits()
    limits = HardLimits(folder)
    limits.sweep()
    return limits


def _ours(said: str) -> str:
    """The group that may be divided; empty where none is, or it is not certain whose it is."""
    path = next((line[3:] for line in said.split("\n") if line.startswith("0::")), "")
    top = cgroups.unified()
    if path.endswith(f"/{LEAF}"):
        folder = os.path.dirname(os.path.join(top, path.lstrip("/")))
    elif path == "/" and os.path.exists(os.path.join(top, "cgroup.type")):
        # Only the machine's own root has no type: this is that of a container.
        folder = top
    else:
        return ""
    with cgroups.opened(os.path.join(folder, "cgroup.controllers")) as file:
        has = CONTROLLER in file.read().split()
    files = (folder, *(os.path.join(folder, f"cgroup.{one}") for one in _WRITTEN))
    return folder if has and all(os.access(one, os.W_OK) for one in files) else ""


_WRITTEN = ("procs", "subtree_control")


def _step_aside(folder: str) -> None:
    """Move all that is in a group into one below. Raises OSError."""
    leaf = os.path.join(folder, LEAF)
    with cgroups.opened(os.path.join(folder, "cgroup.procs")) as file:
        inside = file.read().split()
    if inside:
        os.makedirs(leaf, exist_ok=True)
    for pid in inside:
        # One that has just ended needs no other place.
        with contextlib.suppress(ProcessLookupError):
            _write(os.path.join(leaf, "cgroup.procs"), pid)


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)
