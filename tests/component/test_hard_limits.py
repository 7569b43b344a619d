"""Control groups that limit instances: with a real controller of version 2 where there is one.

The one that counts, memory, belongs to version 1 on many machines that have both. There the same is
tried with whatever controller version 2 does have, and with folders that look like groups.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from uuid import uuid4

import pytest

from orchestrator.core.export_systemd import LEAF
from orchestrator.runtime import cgroups
from orchestrator.runtime.hard_limits import HardLimits, delegated


def looks_like_a_group(
    folder: Path, *, controllers: str = "cpu memory pids", procs: str = ""
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in {
        "cgroup.controllers": controllers,
        "cgroup.procs": procs,
        "cgroup.subtree_control": "",
        "cgroup.type": "domain",
    }.items():
        (folder / name).write_text(f"{content}\n")
    return folder


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where control groups are, for the rest of the test."""
    monkeypatch.setattr(cgroups.unified, "__defaults__", (str(tmp_path),))
    monkeypatch.setattr(cgroups.folders, "__defaults__", (str(tmp_path),))
    return tmp_path


def belongs_to(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    said = f"3:cpu:/elsewhere\n0::{path}\n"
    monkeypatch.setattr(cgroups, "membership", lambda pid="self": said)


def test_a_service_with_a_place_of_its_own(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service = looks_like_a_group(root / "app.slice/orchestrate.service")
    looks_like_a_group(service / LEAF)
    (service / "instance-old-1").mkdir()
    belongs_to(monkeypatch, f"/app.slice/orchestrate.service/{LEAF}")
    limits = delegated()
    assert limits.folder == str(service)
    assert (service / "cgroup.subtree_control").read_text() == "+memory"
    assert not (service / "instance-old-1").exists()

    group = Path(limits.begin("coder", "ab12", 1 << 30))
    assert group == service / "instance-coder-ab12"
    assert (group / "memory.max").read_text() == str(1 << 30)
    assert (group / "memory.swap.max").read_text() == "0"
    assert (group / "memory.oom.group").read_text() == "1"
    limits.change(str(group), 1 << 31)
    assert (group / "memory.max").read_text() == str(1 << 31)
    limits.change(str(group), None)
    assert (group / "memory.max").read_text() == "max"
    belongs_to(monkeypatch, "/app.slice/orchestrate.service/instance-coder-ab12")
    assert limits.of(os.getpid()) == str(group)
    assert limits.begin("free", "ab12", None) == ""


def test_a_container_that_may_divide_its_own(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks_like_a_group(root, procs="1\n77")
    looks_like_a_group(root / LEAF)
    belongs_to(monkeypatch, "/")
    assert delegated().folder == str(root)
    assert (root / LEAF / "cgroup.procs").read_text() == "77"


@pytest.mark.parametrize(
    ("path", "controllers"),
    [
        # No place of its own beside its instances: the next daemon could not be put there.
        ("/app.slice/orchestrate.service", "memory"),
        # Whoever's that is, nobody gave it to us.
        ("/user.slice/session-1.scope", "memory"),
        # The controller belongs to version 1.
        (f"/app.slice/orchestrate.service/{LEAF}", "cpu pids"),
    ],
)
def test_what_was_not_given_is_left_alone(
    root: Path, monkeypatch: pytest.MonkeyPatch, path: str, controllers: str
) -> None:
    groups = [root / "app.slice/orchestrate.service", root / "user.slice/session-1.scope"]
    for group in groups:
        looks_like_a_group(group, controllers=controllers)
    looks_like_a_group(groups[0] / LEAF)
    belongs_to(monkeypatch, path)
    limits = delegated()
    assert limits == HardLimits()
    assert limits.begin("coder", "ab12", 1 << 30) == ""
    assert all((one / "cgroup.subtree_control").read_text() == "\n" for one in groups)


def test_the_root_of_the_machine_is_nobodys(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks_like_a_group(root)
    (root / "cgroup.type").unlink()
    belongs_to(monkeypatch, "/")
    assert delegated() == HardLimits()


# --- a real hierarchy -----------------------------------------------------------------------------

_LIFE = """
import asyncio, os, sys, tempfile
from orchestrator.core.spec import Command
from orchestrator.runtime import cgroups, hard_limits, process
from tests.component.test_hard_limits import own_group, procs

hard_limits.CONTROLLER, hard_limits.LIMIT = sys.argv[1], sys.argv[2]

async def main():
    limits = hard_limits.delegated()
    assert limits.folder, "it was given to us"
    group = limits.begin("coder", "ab12", 1 << 30)
    assert group, "it may be divided"
    with tempfile.TemporaryFile() as log:
        command = Command(("/bin/sh", "-c", "sleep 60 & sleep 60"), {}, "/")
        running = process.spawn(
            command, inherited=dict(os.environ), owner=("X", "y"), log=log.fileno(), group=group
        )
        assert own_group(running.ref.pid) == group == limits.of(running.ref.pid)
        # Not so is whoever has no limit.
        other = process.spawn(
            command, inherited=dict(os.environ), owner=("X", "y"), log=log.fileno()
        )
        assert limits.of(other.ref.pid) == "" and own_group(other.ref.pid) == own_group(os.getpid())
        # Another daemon finds it where it is; what is in use is not swept away.
        again = hard_limits.delegated()
        assert again.folder == limits.folder and again.of(running.ref.pid) == group
        limits.change(group, 1 << 31)
        assert open(f"{group}/{hard_limits.LIMIT}").read().strip() == str(1 << 31)
        await process.stop(running, grace=5)
        await process.stop(other, grace=5)
        limits.end(group)
        assert not os.path.exists(group)
    print("it is so")

asyncio.run(main())
"""


def own_group(pid: int) -> str:
    """The folder of the group of version 2 that a process is in."""
    return next(cgroups.folders(cgroups.membership(pid), "of version 2 alone"))


def procs(group: str) -> list[str]:
    return Path(group, "cgroup.procs").read_text().split()


def _usable() -> tuple[str, str] | None:
    """A controller of version 2 on this machine, and a file that limits bytes."""
    try:
        known = Path(cgroups.unified(), "cgroup.controllers").read_text().split()
    except OSError:
        return None
    files = {"memory": "memory.max", "hugetlb": "hugetlb.2MB.max"}
    return next(((name, file) for name, file in files.items() if name in known), None)


@pytest.fixture
def service() -> Generator[Path]:
    """A group that was made for us, with a place in it for the daemon."""
    group = Path(own_group(os.getpid()), f"test-{uuid4().hex[:8]}")
    usable, control = _usable(), group.parent / "cgroup.subtree_control"
    if usable is None:
        pytest.skip("not on this machine: a controller of version 2 that limits bytes")
    try:
        before = control.read_text().split()
        control.write_text(f"+{usable[0]}")
        (group / LEAF).mkdir(parents=True)
    except OSError:
        pytest.skip("not on this machine: control groups that a test may make (needs root)")
    yield group
    for folder in (group / LEAF, group):
        folder.rmdir()
    if usable[0] not in before:
        # Where somebody else has come to use it meanwhile, it stays.
        with contextlib.suppress(OSError):
            control.write_text(f"-{usable[0]}")


def test_for_real(service: Path) -> None:
    usable = _usable()
    assert usable is not None
    join = f"echo $$ >'{service / LEAF}/cgroup.procs'; exec \"$@\""
    done = subprocess.run(
        ["sh", "-c", join, "sh", sys.executable, "-c", _LIFE, *usable],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=Path(__file__).parent.parent.parent,
    )
    assert done.stdout == "it is so\n", done.stderr
