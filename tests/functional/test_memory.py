"""Memory admission: what fits starts, what does not fit yet waits, what never fits is refused."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from tests.look import kill_daemon, pids, rows, status, until_phase, until_row
from tests.world import World, alive, kill

CAP = {"ORCHESTRATE_MEMORY": "1GiB"}


def declares(memory: str, **more: Any) -> dict[str, Any]:
    return {"resources": {"memory": memory}, **more}


@pytest.fixture
def small(world: World) -> World:
    """A user who lets instances have 1 GiB."""
    world.env.update(CAP)
    return world


def test_what_can_never_fit_is_refused_before_anything_is_touched(small: World) -> None:
    world = small
    world.run("apply", world.profile({"a": declares("700MiB")}, name="one.yaml"))
    before = pids(world)
    both = world.profile({"a": declares("700MiB"), "b": declares("600MiB")}, name="two.yaml")
    for verb in ("plan", "apply"):
        ran = world.run(verb, both, ok=False)
        assert ran.code == 2
        assert (
            "together these instances need 1.3GiB of memory, more than the 1GiB of "
            "ORCHESTRATE_MEMORY: a 700MiB, b 600MiB" in ran.err
        )
        assert "two.yaml:" in ran.err
        assert "--force" in ran.err
    assert pids(world) == before
    # Another machine may have more.
    assert "warning" in world.run("validate", both).err

    world.run("apply", "--force", both)
    forced = pids(world)
    assert forced["a"] == before["a"]
    # The word outlives the daemon: what dies comes back, whatever the sum is.
    kill_daemon(world)
    world.run("daemon", "start")
    kill(forced["b"])
    until_row(world, "b", lambda r: r["phase"] == "ready" and r["pid"] != forced["b"])
    assert world.run("apply", both, ok=False).code == 2


def test_without_a_daemon_plan_refuses_as_well(small: World) -> None:
    ran = small.run("plan", small.profile({"a": declares("2GiB")}), ok=False)
    assert ran.code == 2
    assert "a needs 2GiB of memory, more than the 1GiB of ORCHESTRATE_MEMORY" in ran.err
    assert small.run("plan", "--force", small.folder / "p.yaml").code == 0


def test_an_edit_that_can_never_fit_leaves_what_runs_in_force(small: World) -> None:
    world = small
    world.run("apply", world.profile({"a": declares("700MiB")}))
    before = pids(world)
    world.profile({"a": declares("700MiB"), "b": declares("700MiB")})
    world.until(lambda: not status(world)["profiles"][0]["ok"], "the edit is refused")
    assert "1.4GiB" in status(world)["profiles"][0]["errors"][0]["message"]
    world.profile({"a": declares("300MiB"), "b": declares("700MiB")})
    until_phase(world, "b", "ready")
    assert pids(world)["a"] == before["a"], "what is declared of memory is taken up in place"


def test_a_start_waits_until_the_memory_of_another_is_free(small: World) -> None:
    world = small
    old = world.profile({"old": declares("700MiB", stop={"grace": "3s"})}, name="old.yaml")
    world.run("apply", old)
    pid = pids(world)["old"]
    # It will not end when it is asked to, but when its grace is over.
    os.kill(pid, 19)
    new = {"new": declares("700MiB"), "little": declares("100MiB")}
    world.run("apply", "--no-wait", world.profile(new, name="new.yaml"))
    row = until_row(world, "new", lambda r: r["phase"] == "pending")
    assert row["reason"] == "blocked"
    assert "needs 700MiB of memory" in row["message"]
    assert "of 1GiB are free" in row["message"]
    assert "old has 700MiB" in row["message"]
    until_phase(world, "little", "ready")
    assert alive(pid)
    until_phase(world, "new", "ready")
    assert not alive(pid)


def test_a_replacement_has_the_room_of_what_it_replaces(small: World) -> None:
    world = small
    world.run("apply", world.profile({"a": declares("800MiB", flags={"ctx-size": 512})}))
    pid = pids(world)["a"]
    world.profile({"a": declares("900MiB", flags={"ctx-size": 1024})})
    until_row(world, "a", lambda r: r["phase"] == "ready" and r["pid"] != pid)


def test_estimates_alone_let_many_small_ones_start(small: World) -> None:
    names = [f"m{number}" for number in range(8)]
    small.run("apply", small.profile(dict.fromkeys(names)))
    assert {row["phase"] for row in rows(small).values()} == {"ready"}


def test_a_gpu_that_is_not_there_is_an_error_of_the_profile(world: World) -> None:
    ran = world.run("validate", world.profile({"a": {"resources": {"gpus": [63]}}}), ok=False)
    assert ran.code == 2
    assert "there is no GPU 63" in ran.err
    assert world.run("validate", world.profile({"a": {"resources": {"gpus": "auto"}}})).code == 0


@contextlib.contextmanager
def cgroup_of(count: int) -> Generator[Path]:
    """A cgroup of ours that may use so many bytes."""
    first, second = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
    version = (first, "memory.limit_in_bytes") if first.is_dir() else (second, "memory.max")
    folder = version[0] / f"orchestrate-test-{os.getpid()}"
    try:
        folder.mkdir()
        (folder / version[1]).write_text(str(count))
    except OSError as error:
        with contextlib.suppress(OSError):
            folder.rmdir()
        pytest.skip(f"a memory cgroup that may be written is missing: {error.strerror}")
    try:
        yield folder
    finally:
        folder.rmdir()


def test_the_limit_of_a_cgroup_is_what_there_is(world: World) -> None:
    profile = world.profile({"a": declares("2GiB")})
    with cgroup_of(1 << 30) as folder:
        script = f'echo $$ > {folder}/cgroup.procs && exec "$@"'
        done = subprocess.run(
            ["sh", "-c", script, "sh", *world.command("plan", profile)],
            cwd=world.folder,
            env=world.env,
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.returncode == 2, done.stderr
    assert "a needs 2GiB of memory, more than the 1GiB of this cgroup" in done.stderr
