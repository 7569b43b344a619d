"""The daemon's process is begun before the command that needs it is loaded; nobody can tell."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from orchestrator.cli import head_start
from orchestrator.settings import Settings
from tests.look import rows, status
from tests.world import PATIENCE, World

BEGUN = "orchestrator.cli.background"


@pytest.fixture
def used(any_world: World) -> World:
    """A world in which a daemon has been, and has ended."""
    any_world.run("apply", any_world.profile({}))
    any_world.run("down")
    return any_world


def begun(world: World) -> list[int]:
    """The processes of this world that are a daemon, or are to be one."""
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().decode().split("\0")
            env = (entry / "environ").read_bytes().decode().split("\0")
        except (OSError, ValueError):
            continue
        if BEGUN in words and f"ORCHESTRATE_STATE_DIR={world.state}" in env:
            found.append(int(entry.name))
    return found


def children() -> list[int]:
    """The processes that this thread began."""
    own = f"/proc/self/task/{threading.get_native_id()}/children"
    return [int(word) for word in Path(own).read_text().split()]


def until_none(world: World) -> None:
    end = time.monotonic() + PATIENCE
    while begun(world):
        assert time.monotonic() < end, "it waits for a task that will not come"
        time.sleep(0.01)


def test_the_next_apply_is_served_by_the_one_that_was_begun(used: World) -> None:
    used.run("apply", used.profile({"a": None}))
    assert begun(used) == [status(used)["daemon"]["pid"]]


@pytest.mark.parametrize("words", [["nothing.yaml"], ["p.yaml", "--no-such-option"], []])
def test_a_command_that_is_wrong_leaves_none(used: World, words: list[str]) -> None:
    log = (used.state / "daemon.log").read_bytes()
    assert used.run("apply", *words, ok=False).code == 2
    until_none(used)
    assert (used.state / "daemon.log").read_bytes() == log


def test_a_folder_that_was_never_used_is_not_touched_by_a_command_that_is_wrong(
    any_world: World,
) -> None:
    any_world.state.mkdir(mode=0o755)
    assert any_world.run("apply", "nothing.yaml", ok=False).code == 2
    assert any_world.state.stat().st_mode & 0o777 == 0o755
    assert list(any_world.state.iterdir()) == []


def test_what_the_caller_has_open_is_not_kept_open(used: World, tmp_path: Path) -> None:
    held = os.open(tmp_path / "held", os.O_RDWR | os.O_CREAT)
    try:
        os.set_inheritable(held, True)
        profile = used.profile({"a": None})
        command = used.command("apply", profile)
        subprocess.run(command, env=used.env, pass_fds=(held,), check=True, capture_output=True)
    finally:
        os.close(held)
    [pid] = begun(used)
    for one in (pid, rows(used)["a"]["pid"]):
        links = [os.readlink(entry) for entry in Path(f"/proc/{one}/fd").iterdir()]
        assert str(tmp_path / "held") not in links


def test_it_is_no_part_of_the_shell_that_began_it(used: World) -> None:
    used.run("apply", used.profile({}))
    (pid,) = begun(used)
    assert os.getsid(pid) == pid
    fields = dict(
        line.split(":\t") for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    held_back = int(fields["SigBlk"], 16) | int(fields["ShdPnd"], 16) | int(fields["SigPnd"], 16)
    assert held_back == 0


def test_ctrl_c_does_not_reach_it_however_young(used: World) -> None:
    log = (used.state / "daemon.log").read_bytes()
    young = head_start.spawn(Settings.from_env(used.env))
    (pid,) = children()
    for number in head_start.TO_THE_GROUP:
        os.kill(pid, number)
    os.close(young.tasks)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    os.close(young.answers)
    assert (used.state / "daemon.log").read_bytes() == log


def test_a_command_that_stays_keeps_at_most_the_last_one_that_ended(used: World) -> None:
    settings, pid = Settings.from_env(used.env), 0
    for _ in range(3):
        young = head_start.take(settings)
        (pid,) = children()
        os.close(young.tasks)
        os.close(young.answers)
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    os.waitpid(pid, 0)


def test_a_variable_without_a_name_is_no_matter(used: World) -> None:
    profile = used.profile({"a": None})
    given = [f"{name}={value}" for name, value in used.env.items()]
    words = ["env", "-i", *given, "=x", *used.command("apply", profile)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert rows(used)["a"]["phase"] == "ready"
