"""`orchestrate apply profile.yaml` on real engines: to ready, through edits, to down."""

from __future__ import annotations

import os
import shutil

from tests.world import World, alive


def test_from_nothing_to_ready_to_nothing(any_world: World) -> None:
    world = any_world
    port = world.port()
    profile = world.profile({"a": {"port": port}, "b": None, "c": {"needs": ["a"]}})

    ran = world.run("apply", profile)

    assert "start" in ran.out
    assert "converged: 3 of 3 ready" in ran.out
    status = world.status()
    assert status["converged"]
    assert [row["phase"] for row in status["instances"]] == ["ready"] * 3
    assert world.answers(port) == 200
    assert isinstance(world.complete(port), str)
    pids = [row["pid"] for row in status["instances"]]

    assert "stopped" in world.run("down").out
    assert not any(alive(pid) for pid in pids)
    assert world.answers(port) is None
    assert world.run("status", ok=False).code == 3


def test_only_what_changed_is_replaced(any_world: World) -> None:
    world = any_world
    a, b = world.port(), world.port()
    world.profile({"a": {"port": a, "flags": {"ctx-size": 512}}, "b": {"port": b}})
    world.run("apply", "p.yaml")
    before = world.pids()

    profile = world.folder / "p.yaml"
    plan = world.run("plan", profile).out
    assert "nothing to do" in plan
    world.profile({"a": {"port": a, "flags": {"ctx-size": 1024}}, "b": {"port": b}})

    # Saving was applying: nobody called anything.
    world.until(lambda: world.pids()["a"] not in (before["a"], None), "a is replaced")
    world.until_converged()
    after = world.pids()
    assert after["b"] == before["b"]
    assert world.props(a)["default_generation_settings"]["n_ctx"] == 1024
    stopping = [e for e in world.events("a") if e["type"] == "stopping"]
    assert stopping[-1]["message"] == "ctx-size: 512 -> 1024"


def test_another_profile_keeps_what_both_declare_alike(world: World) -> None:
    a, b = world.port(), world.port()
    world.profile({"a": {"port": a}, "b": {"port": b}}, name="one.yaml")
    other = world.profile({"a": {"port": a}, "c": None}, name="two.yaml")
    world.run("apply", "one.yaml")
    before = world.pids()

    world.run("apply", other)

    after = world.pids()
    assert set(after) == {"a", "c"}
    assert after["a"] == before["a"]
    assert not alive(before["b"])
    assert world.instance("a")["profiles"] == ["two"]


def test_a_broken_edit_changes_nothing_and_a_valid_one_recovers(world: World) -> None:
    port = world.port()
    profile = world.profile({"a": {"port": port}})
    world.run("apply", profile)
    before = world.pids()
    good = profile.read_text()

    world.write("p.yaml", good + "  b: {modle: x}\n")
    world.until(lambda: not world.status()["profiles"][0]["ok"], "the error is shown")
    status = world.status()
    assert not status["converged"]
    assert "modle" in str(status["profiles"][0]["errors"])
    assert world.pids() == before

    profile.unlink()
    world.until(lambda: "exist" in str(world.status()["profiles"][0]["errors"]), "it is missing")
    assert world.pids() == before

    world.write("p.yaml", good)
    world.until_converged()
    assert world.pids() == before


def test_an_apply_that_is_wrong_touches_nothing(world: World) -> None:
    port = world.port()
    world.run("apply", world.profile({"a": {"port": port}}))
    before = world.pids()
    bad = world.write("bad.yaml", "instances:\n  a: {model: nowhere.gguf, prot: 1}\n")

    ran = world.run("apply", bad, ok=False)

    assert ran.code == 2
    assert f"{bad}:2:" in ran.err
    assert "'prot'" in ran.err
    assert world.pids() == before
    assert world.status()["converged"]


def test_a_wrong_first_apply_leaves_no_daemon(world: World) -> None:
    ran = world.run("apply", world.write("bad.yaml", "instances: [\n"), ok=False)
    assert ran.code == 2
    assert world.run("status", ok=False).code == 3


def test_a_rehearsal_in_the_foreground_is_refused_and_starts_nothing(world: World) -> None:
    profile = world.profile({"a": None})
    for option in ("--dry-run", "--add", "--no-wait"):
        ran = world.run("apply", "--foreground", option, profile, ok=False)
        assert ran.code == 2
        assert f"{option} does not go with --foreground" in ran.err
    assert not world.state.exists()


def test_a_model_whose_folder_is_no_text_is_refused_and_hurts_nobody(world: World) -> None:
    """Nothing that is kept or sent could hold such a path; the daemon used to end over it."""
    world.run("apply", world.profile({"a": None}))
    before = world.pids()
    odd = os.fsencode(world.folder / "models") + b"/\xff"
    os.makedirs(odd)
    shutil.copy(world.model, os.fsdecode(odd + b"/odd.gguf"))
    profile = world.write("odd.yaml", "instances: {b: {model: odd}}\n")

    ran = world.run("apply", "--add", profile, ok=False)

    assert ran.code == 2
    assert "is not valid UTF-8 (rename the file, or its folder)" in ran.err
    assert world.pids() == before


def test_a_folder_without_profiles_is_a_mistake_and_stops_nothing(world: World) -> None:
    world.run("apply", world.profile({"a": None}))
    before = world.pids()
    (world.folder / "empty").mkdir()

    for verb in ("apply", "plan", "validate"):
        ran = world.run(verb, "empty", ok=False)
        assert ran.code == 2
        assert "no profile (*.yaml, *.yml) in this folder" in ran.err
    assert world.pids() == before


def test_a_daemon_that_was_given_nothing_is_converged(world: World) -> None:
    world.run("daemon", "start")
    assert "nothing is applied" in world.run("status", "--check").out
    world.run("wait", "--timeout", "5s")


def test_a_folder_of_other_things_is_no_state_folder(world: World) -> None:
    other = world.folder / "other"
    other.mkdir(mode=0o755)
    (other / "thesis.tex").touch()

    ran = world.run("daemon", "start", ok=False, ORCHESTRATE_STATE_DIR=str(other))

    assert ran.code == 2
    assert "holds other things" in ran.err
    assert other.stat().st_mode & 0o777 == 0o755
