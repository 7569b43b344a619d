"""Disks that are full, and logs that go away: it is said, and no instance pays for it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.look import (
    daemon_pid,
    kill_daemon,
    pids,
    rows,
    status,
    until_phase,
    until_row,
)
from tests.world import World, kill


def test_the_log_folder_goes_away_and_nothing_else_does(world: World) -> None:
    world.run("apply", world.profile({"a": None, "b": None}))
    before = pids(world)
    lines = world.run("logs", "a").out
    assert lines

    shutil.rmtree(world.state / "logs")

    # What was written is still to be read, of the process itself.
    assert world.run("logs", "a").out.startswith(lines[:100])
    kill_daemon(world)
    assert world.run("logs", "b", ok=False).code == 3
    assert world.run("logs", "b", ok=False).out
    world.run("daemon", "start")
    assert pids(world) == before
    kill(before["a"])
    until_row(world, "a", lambda r: r["phase"] == "ready" and r["pid"] != before["a"])
    assert (world.state / "logs" / "a.log").read_text()
    assert rows(world)["b"]["pid"] == before["b"]


@contextmanager
def small_disk(folder: Path, size: str = "2m") -> Generator[Path]:
    """A file system that is soon full."""
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs", folder],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        pytest.skip(f"no small disk to be had here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def fill(folder: Path) -> Path:
    """Take every last byte."""
    ballast = folder / "ballast"
    with ballast.open("ab", buffering=0) as file:
        for size in (65536, 4096, 1):
            while True:
                try:
                    file.write(b"x" * size)
                except OSError:
                    break
    return ballast


def warned(world: World, *words: str) -> bool:
    text = " ".join(status(world)["warnings"])
    return all(word in text for word in words)


def test_a_full_disk_for_state_is_said_and_costs_no_instance(world: World) -> None:
    with small_disk(world.state):
        profile = world.profile({"a": None, "b": None})
        world.run("apply", profile)
        before = pids(world)
        daemon = daemon_pid(world)
        ballast = fill(world.state)

        # Much happens that cannot be recorded.
        world.profile(
            {"a": {"description": "d" * 20_000}, "b": {"flags": {"ctx-size": 512}}, "c": None}
        )
        world.until(lambda: warned(world, "state cannot be saved"), "the warning")
        until_phase(world, "c", "ready")
        until_row(world, "b", lambda r: r["phase"] == "ready" and r["pid"] != before["b"])
        kill(pids(world)["b"])
        until_row(world, "b", lambda r: r["phase"] == "ready" and r["restarts"] == 1)
        shown = world.run("status")
        assert "cannot be saved" in shown.out + shown.err
        assert (pids(world)["a"], daemon_pid(world)) == (before["a"], daemon)

        ballast.unlink()
        world.until(lambda: status(world)["warnings"] == [], "the warning goes")
        after = pids(world)
        kill_daemon(world)
        # All of it is on record now: what is applied, and who is who.
        assert {
            r["name"]: r["pid"] for r in world.run("status", "--json", ok=False).json["instances"]
        } == after
        world.run("daemon", "start")
        world.until_converged()
        assert pids(world) == after
        world.run("down")


def test_a_daemon_that_begins_on_a_full_disk_keeps_what_runs(world: World) -> None:
    with small_disk(world.state):
        world.run("apply", world.profile({"a": None, "b": None}))
        before = pids(world)
        kill_daemon(world)
        ballast = fill(world.state)

        world.run("daemon", "start")
        world.until(lambda: warned(world, "state cannot be saved"), "the warning")
        world.until(lambda: pids(world) == before, "all are adopted")
        assert not list(world.state.glob("*.unreadable*"))
        world.run("stop", "a")

        ballast.unlink()
        world.until(lambda: status(world)["warnings"] == [], "the warning goes")
        kill_daemon(world)
        world.run("daemon", "start")
        world.until(lambda: rows(world)["a"]["reason"] == "held", "the hold was recorded")
        assert pids(world)["b"] == before["b"]
        world.run("down")


def test_what_a_full_disk_does_not_let_down_forget_is_said(world: World) -> None:
    with small_disk(world.state):
        world.run("apply", world.profile({"a": None}))
        ballast = fill(world.state)

        done = world.run("down", ok=False)
        assert done.code == 1
        assert "all instances are stopped" in done.out
        assert f"could not be forgotten: {world.state} cannot be written" in done.err
        assert "hint: make room there, and `orchestrate down` again" in done.err

        ballast.unlink()
        world.run("down")
        assert world.run("down").out == "nothing is running\n"


def test_a_full_disk_for_logs_is_said_and_costs_no_instance(world: World) -> None:
    world.state.mkdir(mode=0o700)
    with small_disk(world.state / "logs", "256k"):
        world.run("apply", world.profile({"a": None, "b": None}))
        before = pids(world)
        ballast = fill(world.state / "logs")

        world.until(lambda: warned(world, "logs", "full"), "the warning")
        kill(before["a"])
        until_row(world, "a", lambda r: r["phase"] == "ready" and r["pid"] != before["a"])
        assert pids(world)["b"] == before["b"]
        assert isinstance(world.complete(rows(world)["a"]["port"]), str)

        ballast.unlink()
        world.until(lambda: status(world)["warnings"] == [], "the warning goes")
        world.run("down")
