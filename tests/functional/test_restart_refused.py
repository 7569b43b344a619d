"""`restart` of what would not come up again; verbs without a daemon."""

from __future__ import annotations

import shutil

import pytest

from tests.world import World, alive, listening


def test_a_model_that_is_gone_or_damaged(world: World) -> None:
    own = world.folder / "own.gguf"
    shutil.copy(world.model, own)
    world.run("apply", world.profile({"a": {"model": str(own)}, "b": None}))
    before = world.pids()
    aside = own.rename(world.folder / "aside")

    gone = world.run("restart", "a", "b", ok=False)

    # The other one is restarted all the same.
    assert gone.code == 2
    assert f"error: a is not restarted, for it would not come up again: {own} does not" in gone.err
    assert "hint: put the file in order; it goes on as it is. --force" in gone.err
    assert gone.out.startswith("b: ready")
    after = world.pids()
    assert (after["a"], alive(before["a"])) == (before["a"], True)
    assert after["b"] != before["b"]

    own.write_bytes(aside.read_bytes()[:3000])
    damaged = world.run("restart", "a", ok=False)
    assert damaged.code == 2
    assert f"not come up again: {own} " in damaged.err
    assert world.pids()["a"] == before["a"]

    own.unlink()
    forced = world.run("restart", "--force", "a", ok=False)
    assert forced.code == 1
    assert not alive(before["a"])

    aside.rename(own)
    world.until_phase("a", "ready")
    world.run("restart", "a")


def test_a_port_that_a_stranger_has(world: World) -> None:
    first, second = world.port(), world.port()
    profile = world.profile({"a": {"port": first}})
    world.run("apply", profile)
    with listening(second):
        world.profile({"a": {"port": second}})
        world.until(lambda: world.instance("a")["reason"] == "rolled-back", "the way back")
        world.until_phase("a", "ready")
        pid = world.pids()["a"]

        refused = world.run("restart", "a", ok=False)

        assert refused.code == 2
        assert f"it would not come up again: port {second} is taken by pid" in refused.err
        assert world.pids()["a"] == pid
        planned = world.run("plan", profile).out
        assert "tried and undone: did not come up (port-taken)" in planned
    world.run("restart", "a")
    assert world.instance("a")["port"] == second


@pytest.mark.parametrize("words", [("start", "a"), ("restart", "a"), ("remove", "p")])
def test_a_daemon_that_was_started_for_nothing_is_ended_again(
    world: World, words: tuple[str, ...]
) -> None:
    world.run("apply", world.profile({"a": None}))
    world.run("down")

    ran = world.run(*words, ok=False)

    assert ran.code == 2
    assert "started the daemon" not in ran.err
    assert world.status()["daemon"] is None


def test_a_daemon_that_is_started_for_a_verb_is_told_of(world: World) -> None:
    world.run("apply", world.profile({"a": None}))
    world.run("daemon", "stop")

    ran = world.run("restart", "a")

    assert ran.err == f"started the daemon (pid {world.daemon_pid()})\n"
    assert ran.out == "a: ready\n"
    assert world.run("restart", "a").err == ""
