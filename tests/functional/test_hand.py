"""By hand: `start`, `stop`, `restart`, `kill` and `wait`, their exit codes, and what holds."""

from __future__ import annotations

import time

from tests.fakes import fake
from tests.look import kill_daemon, pids, rows, until_phase, until_row
from tests.world import World, alive, kill


def test_a_hold_outlives_edits_and_daemons_until_its_file_is_applied(any_world: World) -> None:
    world = any_world
    port = world.port()
    profile = world.profile({"a": {"port": port}, "b": None})
    world.run("apply", profile)
    before = pids(world)

    assert "a: stopped" in world.run("stop", "a").out
    assert not alive(before["a"])
    assert world.answers(port) is None
    row = rows(world)["a"]
    assert (row["phase"], row["reason"], row["held"]) == ("stopped", "held", True)
    assert world.run("status", "--check", ok=False).code == 1

    world.profile({"a": {"port": port, "flags": {"ctx-size": 512}}, "b": {"description": "new"}})
    until_row(world, "b", lambda r: r["description"] == "new")
    assert rows(world)["a"]["reason"] == "held"
    kill_daemon(world)
    world.run("daemon", "start")
    assert rows(world)["a"]["reason"] == "held"
    assert pids(world)["b"] == before["b"]
    # Asked again, it is so already.
    assert world.run("stop", "a").code == 0

    world.run("apply", profile)
    assert rows(world)["a"]["phase"] == "ready"
    assert world.props(port)["default_generation_settings"]["n_ctx"] == 512
    assert pids(world)["b"] == before["b"]


def test_start_releases_and_leaves_alone_what_runs(world: World) -> None:
    world.run("apply", world.profile({"a": None, "b": None}))
    before = pids(world)
    world.run("kill", "a")
    assert world.run("start", "a", "b").code == 0
    after = rows(world)
    assert after["a"]["phase"] == "ready"
    assert after["b"]["pid"] == before["b"]
    # A person asked for it: that is none of the restarts that tell of trouble.
    assert after["a"]["restarts"] == 0


def test_restart_is_another_process_with_the_same_settings(world: World) -> None:
    world.run("apply", world.profile({"a": None, "b": {"needs": ["a"]}}))
    before = rows(world)
    assert "a: ready" in world.run("restart", "a").out
    after = rows(world)
    assert after["a"]["pid"] != before["a"]["pid"]
    assert after["a"]["port"] == before["a"]["port"]
    assert after["b"]["pid"] == before["b"]["pid"]
    assert world.run("stop", "a").code == 0
    assert world.run("restart", "a").code == 0
    assert rows(world)["a"]["phase"] == "ready"


def test_what_does_not_come_up_again_is_told_by_the_exit_code(world: World) -> None:
    mended = world.folder / "mended"
    mended.touch()
    never = fake("exit=3", f"unless={mended}", restart={"policy": "never"})
    world.run("apply", world.profile({"a": never}))
    mended.unlink()
    ran = world.run("restart", "a", ok=False)
    assert ran.code == 1
    assert "gives up" in ran.out
    assert rows(world)["a"]["phase"] == "failed"
    assert world.run("start", "a", ok=False).code == 1
    mended.touch()
    assert world.run("start", "a").code == 0


def test_an_unknown_name_touches_nothing(world: World) -> None:
    world.run("apply", world.profile({"coder": None}))
    before = pids(world)
    for verb in ("start", "stop", "restart", "kill"):
        ran = world.run(verb, "coder", "codr", ok=False)
        assert ran.code == 2
        assert "did you mean 'coder'" in ran.err
    assert world.run("status", "codr", ok=False).code == 2
    assert world.run("wait", "codr", ok=False).code == 2
    assert world.run("logs", "codr", ok=False).code == 2
    assert pids(world) == before


def test_not_waiting_returns_at_once(world: World) -> None:
    world.run("apply", world.profile({"a": fake("deaf", stop={"grace": "40s"})}))
    began = time.monotonic()
    world.run("stop", "a", "--no-wait")
    assert time.monotonic() - began < 20
    assert until_phase(world, "a", "stopping")
    world.run("kill", "a")
    assert rows(world)["a"]["phase"] == "stopped"


def test_what_is_started_while_it_stops_comes_back(world: World) -> None:
    world.run("apply", world.profile({"a": fake("deaf", stop={"grace": "500ms"})}))
    before = pids(world)["a"]
    world.run("stop", "a", "--no-wait")
    assert world.run("start", "a").code == 0
    after = until_phase(world, "a", "ready")
    assert after["pid"] != before
    assert not after["held"]


def test_a_stop_in_the_middle_of_a_start(world: World) -> None:
    applying = world.begin("apply", "--timeout", "20s", world.profile({"a": fake("hang")}))
    until_row(world, "a", lambda r: r["phase"] == "starting" and r["pid"])
    pid = pids(world)["a"]
    assert world.run("stop", "a").code == 0
    assert not alive(pid)
    out, err = applying.communicate(timeout=20)
    assert applying.returncode == 1, (out, err)


def test_waiting_for_ready_and_for_stopped(world: World) -> None:
    go = world.folder / "go"
    profile = world.profile({"slow": fake(f"wait={go}"), "a": None})
    accepted = world.run("apply", "--no-wait", profile)
    assert accepted.code == 0
    assert world.run("wait", "a").code == 0
    ran = world.run("wait", "slow", "--timeout", "300ms", ok=False)
    assert ran.code == 4
    assert "slow" in ran.err
    assert world.run("apply", "--timeout", "300ms", profile, ok=False).code == 4
    waiting = world.begin("wait", "--timeout", "20s")
    go.touch()
    waiting.communicate(timeout=20)
    assert waiting.returncode == 0

    assert world.run("wait", "--for", "stopped", "--timeout", "300ms", ok=False).code == 4
    stopped = world.begin("wait", "a", "--for", "stopped")
    world.run("stop", "a")
    stopped.communicate(timeout=20)
    assert stopped.returncode == 0


def test_a_wait_ends_with_the_first_failure(world: World) -> None:
    bad = fake("load=1", "exit=1", restart={"policy": "never"})
    world.run("apply", "--no-wait", world.profile({"bad": bad, "slow": fake("hang")}))
    ran = world.run("wait", ok=False)
    assert ran.code == 1
    assert "bad" in ran.err


def test_needs_gate_the_start_and_say_so(world: World) -> None:
    go = world.folder / "go"
    world.run("apply", "--no-wait", world.profile({"b": {"needs": ["a"]}, "a": fake(f"wait={go}")}))
    row = until_phase(world, "b", "pending")
    assert row["reason"] == "blocked"
    assert "needs a" in row["message"]
    go.touch()
    until_phase(world, "b", "ready")
    # What needed it goes on when it falls: only starts are gated.
    before = pids(world)
    go.unlink()
    kill(before["a"])
    until_phase(world, "a", "starting")
    assert pids(world)["b"] == before["b"]
    go.touch()
    until_phase(world, "a", "ready")


def test_a_clean_end_of_its_own_accord_is_no_failure(world: World) -> None:
    world.run("apply", world.profile({"a": None, "b": {"restart": {"policy": "always"}}}))
    before = pids(world)
    for pid in before.values():
        kill(pid, 15)
    row = until_phase(world, "a", "stopped")
    assert row["reason"] == "exited"
    until_row(world, "b", lambda r: r["phase"] == "ready" and r["pid"] != before["b"])
    world.run("start", "a")
    assert rows(world)["a"]["phase"] == "ready"


def test_adding_a_file_is_no_word_about_the_instances_of_others(world: World) -> None:
    one = world.profile({"a": None, "b": None}, name="one.yaml")
    world.run("apply", one)
    world.run("stop", "a")
    world.run("apply", "--add", world.profile({"c": None}, name="two.yaml"), ok=False)
    assert until_phase(world, "c", "ready")
    assert rows(world)["a"]["held"]
    world.run("apply", "--add", one)
    assert rows(world)["a"]["phase"] == "ready"
