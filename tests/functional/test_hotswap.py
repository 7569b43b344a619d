"""Saving is applying: edits, folders, switches, live fields, and files wrong for a while."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tests.look import kill_daemon, pids, rows, status, until_phase, until_row
from tests.world import World, alive, kill


def test_what_does_not_reach_the_process_changes_under_it(any_world: World) -> None:
    world = any_world
    port = world.port()
    world.run("apply", world.profile({"a": {"port": port}, "b": {"port": world.port()}}))
    before = pids(world)
    other = {
        "port": port,
        "description": "other",
        "needs": ["b"],
        "restart": {"policy": "never"},
        "liveness": {"interval": "100ms", "timeout": "300ms", "failures": 1},
        "stop": {"grace": "1s"},
    }
    profile = world.profile({"a": other, "b": {"port": rows(world)["b"]["port"]}})
    until_row(world, "a", lambda r: r["description"] == "other")
    assert pids(world) == before
    updated = [e for e in world.events("a") if e["type"] == "updated"]
    assert "restart.policy: on-failure -> never" in updated[-1]["message"]
    assert world.run("plan", "--json", profile).json["actions"] == []

    # They are in force: the new policy is what a death meets now.
    kill(before["a"])
    assert until_phase(world, "a", "failed")["restarts"] == 0
    assert pids(world)["b"] == before["b"]


def test_new_liveness_counts_for_what_runs(world: World) -> None:
    world.run("apply", world.profile({"a": {"liveness": {"interval": "1h"}}}))
    pid = pids(world)["a"]
    quick = {"interval": "100ms", "timeout": "200ms", "failures": 1}
    world.profile({"a": {"liveness": quick, "description": "quick"}})
    until_row(world, "a", lambda r: r["description"] == "quick")
    kill(pid, 19)
    until_row(world, "a", lambda r: r["phase"] == "ready" and r["pid"] != pid)


def test_a_model_file_that_was_replaced_is_stale_until_told(any_world: World) -> None:
    world = any_world
    mine = Path(shutil.copy(world.model, world.folder / "mine.gguf"))
    profile = world.profile({"a": {"model": str(mine)}, "b": None})
    world.run("apply", profile)
    before = pids(world)

    def replace_model() -> None:
        aside = shutil.copy(world.model, world.folder / "aside.gguf")
        os.utime(aside, (1e9, 1e9 + len(world.events())))
        os.replace(aside, mine)

    replace_model()
    until_row(world, "a", lambda r: r["stale"])
    # An edit of something else, and of the file itself, does not take it up.
    world.profile({"a": {"model": str(mine), "description": "d"}, "b": None})
    until_row(world, "a", lambda r: r["description"] == "d")
    assert pids(world) == before
    assert not rows(world)["b"]["stale"]

    world.run("apply", profile)
    after = rows(world)
    assert after["a"]["pid"] != before["a"]
    assert not after["a"]["stale"]
    assert after["b"]["pid"] == before["b"]
    world.run("apply", profile)
    assert pids(world)["a"] == after["a"]["pid"]

    # A restart takes it up as well, whatever it is for, and then there is nothing left to do.
    replace_model()
    until_row(world, "a", lambda r: r["stale"])
    world.run("restart", "a")
    restarted = rows(world)["a"]
    assert not restarted["stale"]
    world.run("apply", profile)
    assert pids(world)["a"] == restarted["pid"]


def test_a_folder_is_what_lies_in_it(world: World) -> None:
    world.profile({"a": None}, name="set/a.yaml")
    world.profile({"b": None}, name="set/b.yaml")
    world.run("apply", "set")
    before = pids(world)
    assert set(before) == {"a", "b"}

    added = world.profile({"c": None}, name="set/c.yaml")
    until_phase(world, "c", "ready")
    # An editor that takes a file away for a moment.
    text = added.read_text()
    pid = pids(world)["c"]
    added.unlink()
    world.write("set/c.yaml", text)
    world.write("set/notes.txt", "no profile")
    world.write("set/.hidden.yaml", "nonsense: [")
    world.profile({"a": None, "a2": None}, name="set/a.yaml")
    until_phase(world, "a2", "ready")
    assert pids(world)["c"] == pid

    added.unlink()
    world.until(lambda: "c" not in rows(world), "it left the folder for good")
    assert not alive(pid)
    after = pids(world)
    assert (after["a"], after["b"]) == (before["a"], before["b"])
    assert status(world)["converged"]


def test_add_and_remove(world: World) -> None:
    one = world.profile({"a": None}, name="one.yaml")
    two = world.profile({"b": None}, name="two.yaml")
    world.run("apply", one)
    world.run("apply", "--add", two)
    before = pids(world)
    assert set(before) == {"a", "b"}
    # Adding what is in already replaces it.
    world.run("apply", "--add", two)
    assert pids(world) == before
    assert len(status(world)["profiles"]) == 2

    assert world.run("remove", "three", ok=False).code == 2
    world.run("remove", "two")
    world.until(lambda: set(rows(world)) == {"a"}, "what only it declared is gone")
    assert not alive(before["b"])
    world.run("apply", "--add", two)
    world.run("remove", one)
    world.until(lambda: set(rows(world)) == {"b"}, "removed by its path")


def test_one_instance_in_two_files(world: World) -> None:
    same = {"shared": {"port": world.port()}}
    one = world.profile({**same, "a": None}, name="one.yaml")
    two = world.profile({**same, "b": None}, name="two.yaml")
    world.run("apply", one, two)
    before = pids(world)
    assert sorted(rows(world)["shared"]["profiles"]) == ["one", "two"]
    world.run("remove", "one")
    world.until(lambda: set(rows(world)) == {"shared", "b"})
    assert pids(world)["shared"] == before["shared"]
    assert rows(world)["shared"]["profiles"] == ["two"]

    differs = world.profile({"shared": {"port": world.port()}}, name="three.yaml")
    ran = world.run("apply", two, differs, ok=False)
    assert ran.code == 2
    assert "shared" in ran.err
    assert str(differs) in ran.err
    assert pids(world)["shared"] == before["shared"]


def test_a_name_is_looked_up_in_the_folder_of_profiles(world: World) -> None:
    world.profile({"a": None}, name="profiles/coding.yaml")
    world.run("apply", "coding")
    assert status(world)["profiles"][0]["name"] == "coding"
    ran = world.run("apply", "codng", ok=False)
    assert ran.code == 2
    assert "coding" in ran.err
    assert world.run("apply", "nowhere.yaml", ok=False).code == 2
    assert set(rows(world)) == {"a"}


def test_a_variable_of_the_shell_is_remembered(any_world: World) -> None:
    world = any_world
    port = world.port()
    sized = {"port": port, "flags": {"ctx-size": "${env:SIZE}"}}
    profile = world.profile({"a": sized})
    assert world.run("apply", profile, ok=False).code == 2
    world.run("apply", profile, SIZE="512")
    assert world.props(port)["default_generation_settings"]["n_ctx"] == 512
    before = pids(world)

    # A daemon from another shell, and edits since, know it still.
    kill_daemon(world)
    world.run("daemon", "start", SIZE="1024")
    world.profile({"a": {**sized, "description": "edited"}})
    until_row(world, "a", lambda r: r["description"] == "edited")
    assert pids(world) == before

    # A variable that no shell has given: what was good stays, and it says what to do.
    world.profile({"a": {**sized, "description": "${env:WORDS}"}})
    world.until(lambda: not status(world)["profiles"][0]["ok"], "it is said")
    assert "run apply again" in str(status(world)["profiles"][0]["errors"]).replace("`", "")
    assert pids(world) == before
    assert not status(world)["converged"]

    world.run("apply", profile, SIZE="512", WORDS="given")
    assert rows(world)["a"]["description"] == "given"
    assert pids(world) == before
    world.run("apply", profile, SIZE="1024", WORDS="given")
    assert pids(world) != before


def test_an_identical_file_elsewhere_is_identical(world: World) -> None:
    one = world.profile({"a": {"port": world.port()}}, name="here/p.yaml")
    world.run("apply", one)
    before = pids(world)
    there = world.write("there/p.yaml", one.read_text())
    world.run("apply", there)
    assert pids(world) == before
    # The first is no longer watched.
    one.write_text("nonsense: [")
    world.run("apply", "--add", there)
    assert status(world)["converged"]


def test_an_empty_profile_means_none(world: World) -> None:
    world.run("apply", world.profile({"a": None}))
    pid = pids(world)["a"]
    world.run("apply", world.write("none.yaml", "instances: {}\n"))
    assert rows(world) == {}
    assert not alive(pid)
    assert world.run("status", "--check").code == 0
