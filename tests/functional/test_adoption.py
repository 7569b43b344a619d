"""What an earlier daemon left: found by its record, or by its mark, and never mixed up."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from orchestrator.runtime.identity import OWNER_VARIABLE, read_stat, state_id
from tests.fakes import fake
from tests.look import (
    daemon_pid,
    kill_daemon,
    owned,
    pids,
    rows,
    status,
    until_phase,
    until_row,
)
from tests.ollama_world import OllamaWorld, unload
from tests.world import World, alive, kill


def _lose_store(world: World) -> None:
    for path in world.state.glob("state.db*"):
        path.unlink()


def _stranger(tmp: Path, **env: str) -> subprocess.Popen[bytes]:
    """A process in a session of its own that only waits."""
    return subprocess.Popen(
        [sys.executable, "-SEc", "import signal; signal.pause()"],
        env={**os.environ, **env},
        cwd=tmp,
        start_new_session=True,
    )


def test_without_its_store_a_daemon_adopts_by_the_mark(any_world: World) -> None:
    world = any_world
    settings = {"flags": {"ctx-size": 512, "api-key": "sesame"}, "env": {"SOME": "thing"}}
    profile = world.profile({"a": {**settings, "port": world.port()}, "b": {"port": world.port()}})
    world.run("apply", profile)
    before = pids(world)
    kill_daemon(world)
    _lose_store(world)

    world.run("apply", profile)

    assert pids(world) == before
    assert all(row["restarts"] == 0 for row in rows(world).values())
    assert world.status()["converged"]
    # From here on they are instances like all others.
    world.run("daemon", "restart")
    assert pids(world) == before
    world.run("restart", "a")
    assert pids(world)["a"] != before["a"]
    assert pids(world)["b"] == before["b"]


def test_without_its_store_an_ollama_keeps_what_it_has_in_memory(ollama_world: OllamaWorld) -> None:
    world = ollama_world
    model = {"name": "tiny", "gguf": str(world.model), "preload": True}
    profile = world.ollamas({"o": [model]})
    world.run("apply", profile)
    before, runners = rows(world)["o"], world.runners("o")
    assert runners
    kill_daemon(world)
    _lose_store(world)

    world.run("apply", profile)

    after = rows(world)["o"]
    assert [after[key] for key in ("pid", "port", "restarts")] == [before["pid"], before["port"], 0]
    assert world.runners("o") == runners
    # And its models are kept from here on.
    unload(after["port"], "tiny")
    world.until(lambda: world.runners("o") not in ([], runners), "it is loaded again")


@pytest.mark.parametrize("corpse", [False, True])
def test_what_a_store_does_not_know_yet_is_adopted_in_place_of_what_it_knows(
    world: World, corpse: bool
) -> None:
    """The disk was full while an instance was started again, and then the daemon was killed.

    What it knows may still be a corpse then: process 1 takes its time to wait for it.
    """
    world.run("apply", world.profile({"a": {"port": world.port()}, "b": {"port": world.port()}}))
    with (
        closing(sqlite3.connect(world.state / "state.db")) as now,
        closing(sqlite3.connect(world.folder / "earlier.db")) as earlier,
    ):
        now.backup(earlier)
    kill(pids(world)["a"])
    until_row(world, "a", lambda row: (row["phase"], row["restarts"]) == ("ready", 1))
    before = pids(world)
    kill_daemon(world)
    _lose_store(world)
    shutil.copy(world.folder / "earlier.db", world.state / "state.db")
    dead = _corpse()
    if corpse:
        _put_on_record(world, "a", dead)

    world.run("daemon", "start")
    world.run("wait")

    assert pids(world) == before
    assert all(alive(pid) for pid in before.values() if pid)
    dead.wait()


def _corpse() -> subprocess.Popen[bytes]:
    """A process that has ended, and that nobody has waited for."""
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    return process


def _put_on_record(world: World, name: str, process: subprocess.Popen[bytes]) -> None:
    stat = read_stat(process.pid)
    assert stat is not None
    with sqlite3.connect(world.state / "state.db") as db:
        db.execute(
            "UPDATE instances SET data = json_set(data, '$.process.pid', ?,"
            " '$.process.start_ticks', ?) WHERE name = ?",
            (process.pid, stat.start_ticks, name),
        )
    db.close()


def test_without_its_store_a_daemon_stops_nothing_until_told_what_is_wanted(world: World) -> None:
    one = {"a": {"port": world.port()}, "b": {"port": world.port()}, "c": {"port": world.port()}}
    world.run("apply", world.profile(one))
    before = pids(world)
    kill_daemon(world)
    _lose_store(world)

    world.run("daemon", "start")
    assert all(alive(pid) for pid in before.values() if pid)

    # One as it was, one changed, one gone.
    changed = {"a": one["a"], "b": {**one["b"], "flags": {"ctx-size": 256}}}
    world.run("apply", world.profile(changed))
    after = pids(world)
    assert after["a"] == before["a"]
    assert set(after) == {"a", "b"}
    assert after["b"] != before["b"]
    assert not alive(before["b"])
    assert not alive(before["c"])


def test_without_its_store_down_still_leaves_nothing(world: World) -> None:
    world.run("apply", world.profile({"a": None, "b": fake("fork")}))
    world.until(lambda: len(owned(world)["b"]) == 2, "it has forked")
    left = [pid for group in owned(world).values() for pid in group]
    kill_daemon(world)
    _lose_store(world)
    world.run("down")
    assert not any(alive(pid) for pid in left)


@pytest.mark.parametrize("damage", ["garbage", "cut", "alien", "newer"])
def test_an_unreadable_store_is_set_aside_and_said(world: World, damage: str) -> None:
    profile = world.profile({"a": {"port": world.port()}})
    world.run("apply", profile)
    before = pids(world)
    world.run("daemon", "stop")
    _damage(world.state / "state.db", damage)
    assert world.run("status", ok=False).code == 3

    world.run("daemon", "start")

    aside = [path.name for path in world.state.glob("state.db.unreadable-*")]
    assert len(aside) == 1
    assert any(aside[0] in event["message"] for event in world.events())
    world.run("apply", profile)
    assert pids(world) == before


def _damage(path: Path, how: str) -> None:
    whole = path.read_bytes()
    if how == "garbage":
        path.write_bytes(b"not a database at all" * 500)
    elif how == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    else:
        if how == "alien":
            path.unlink()
        with sqlite3.connect(path) as db:
            db.execute("CREATE TABLE other (x)")
            db.execute("PRAGMA user_version = 99")
        db.close()


def test_an_empty_store_is_a_new_one(world: World) -> None:
    profile = world.profile({"a": {"port": world.port()}})
    world.run("apply", profile)
    before = pids(world)
    world.run("daemon", "stop")
    (world.state / "state.db").write_bytes(b"")
    world.run("apply", profile)
    assert pids(world) == before


def test_what_died_while_no_daemon_looked_comes_back(world: World) -> None:
    world.run("apply", world.profile({"a": None, "b": None}))
    before = pids(world)
    kill_daemon(world)
    kill(before["a"])
    world.until(lambda: not alive(before["a"]), "it is dead")
    offline = {
        row["name"]: row for row in world.run("status", "--json", ok=False).json["instances"]
    }
    assert (offline["a"]["phase"], offline["a"]["pid"]) == ("stopped", None)
    assert offline["b"]["pid"] == before["b"]

    world.run("daemon", "start")
    row = until_row(world, "a", lambda r: r["phase"] == "ready")
    assert row["restarts"] == 1
    assert pids(world)["b"] == before["b"]


def test_a_group_whose_leader_is_dead_is_swept(world: World) -> None:
    port = world.port()
    world.run("apply", world.profile({"a": fake("fork", port=port)}))
    world.until(lambda: len(owned(world)["a"]) == 2, "it has forked")
    leader = pids(world)["a"]
    (child,) = set(owned(world)["a"]) - {leader}
    kill_daemon(world)
    kill(leader)
    world.until(lambda: not alive(leader), "only the child is left, and has the port")
    assert alive(child)

    world.run("daemon", "start")
    row = until_row(world, "a", lambda r: r["phase"] == "ready")
    assert not alive(child)
    assert row["pid"] not in (leader, child)


def test_a_session_that_an_engine_began_is_its_own_affair(world: World) -> None:
    world.run("apply", world.profile({"a": fake("session")}))
    world.until(lambda: len(owned(world)["a"]) == 2, "its child has a session")
    before = sorted(owned(world)["a"])
    kill_daemon(world)
    world.run("daemon", "start")
    until_phase(world, "a", "ready")
    assert sorted(owned(world)["a"]) == before
    # Nobody knows of it once the run is over: the next daemon ends it.
    world.run("stop", "a")
    world.run("daemon", "restart")
    world.until(lambda: owned(world) == {}, "swept")


def test_a_recorded_pid_that_is_somebody_elses_now_is_left_alone(world: World) -> None:
    profile = world.profile({"a": None})
    world.run("apply", profile)
    before = pids(world)["a"]
    kill_daemon(world)
    kill(before)
    world.until(lambda: not alive(before), "it is dead")
    with _stranger(world.folder) as stranger:
        with sqlite3.connect(world.state / "state.db") as db:
            db.execute(
                "UPDATE instances SET data = json_set(data, '$.process.pid', ?)", (stranger.pid,)
            )
        db.close()
        world.run("apply", profile)
        assert rows(world)["a"]["phase"] == "ready"
        world.run("down")
        assert stranger.poll() is None
        stranger.kill()


def test_processes_of_other_state_folders_are_left_alone(world: World) -> None:
    """Marks that only look alike: of another folder, or not at the place of a mark."""
    ours = state_id(str(world.state))
    marks = (
        {OWNER_VARIABLE: f"{'0' * 16}/a/1"},
        {f"X{OWNER_VARIABLE}": f"{ours}/a/1"},
        {"NOTE": f"{OWNER_VARIABLE}={ours}/a/1"},
    )
    strangers = [_stranger(world.folder, **mark) for mark in marks]
    try:
        profile = world.profile({"a": None})
        world.run("apply", profile)
        kill_daemon(world)
        world.run("daemon", "start")
        world.run("kill", "a")
        world.run("down")
        assert all(stranger.poll() is None for stranger in strangers)
    finally:
        for stranger in strangers:
            stranger.kill()
            stranger.wait()


def test_a_double_is_ended_and_the_recorded_one_stays(world: World) -> None:
    world.run("apply", world.profile({"a": None}))
    before = pids(world)
    kill_daemon(world)
    mark = f"{state_id(str(world.state))}/a/other"
    with _stranger(world.folder, **{OWNER_VARIABLE: mark}) as double:
        world.run("daemon", "start")
        assert double.wait(20) == -signal.SIGKILL
        assert pids(world) == before
    assert any(event["type"] == "swept" for event in world.events())
    assert daemon_pid(world) is not None
    assert status(world)["converged"]


def test_one_that_hangs_when_it_is_adopted_is_not_taken_for_ready(world: World) -> None:
    liveness = {"interval": "200ms", "timeout": "200ms", "failures": 2}
    world.run("apply", world.profile({"a": {"liveness": liveness}}))
    before = pids(world)["a"]
    kill_daemon(world)
    os.kill(before, signal.SIGSTOP)

    world.run("daemon", "start")

    row = until_row(world, "a", lambda r: r["pid"] not in (before, None) and r["phase"] == "ready")
    assert row["restarts"] == 1
    assert "hung" in {e["reason"] for e in world.events("a")}


def test_a_foreground_that_was_given_nonsense_does_not_stay(world: World) -> None:
    world.run("apply", world.profile({"a": None}))
    before = pids(world)
    world.run("daemon", "stop")
    world.write("bad.yaml", "instances: 7\n")

    ran = world.run("serve", "--leave-running", "bad.yaml", ok=False)

    assert ran.code == 2
    assert "bad.yaml:1:12" in ran.err
    world.run("daemon", "start")
    assert pids(world) == before
