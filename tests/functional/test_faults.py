"""What goes wrong with instances: they die, hang, fork, go deaf; their disk and logs go away."""

from __future__ import annotations

import os
import signal
import time

from tests.fakes import fake
from tests.look import (
    daemon_pid,
    descriptors,
    owned,
    pids,
    rows,
    status,
    until_phase,
    until_row,
    zombies_of,
)
from tests.world import World, alive, kill

# --- dying ----------------------------------------------------------------------------------------


def test_a_killed_instance_is_back_at_once_and_the_others_never_knew(any_world: World) -> None:
    world = any_world
    port = world.port()
    world.run("apply", world.profile({"a": {"port": port}, "b": None, "c": {"needs": ["a"]}}))
    before = pids(world)

    killed_at = time.time()
    kill(before["a"])
    row = until_row(world, "a", lambda r: r["phase"] == "ready" and r["pid"] != before["a"])

    assert row["restarts"] == 1
    after = pids(world)
    assert (after["b"], after["c"]) == (before["b"], before["c"])
    assert isinstance(world.complete(port), str)
    exited = [e for e in world.events("a") if e["type"] == "exited"]
    assert len(exited) == 1
    assert "SIGKILL" in exited[0]["message"]
    # Noticed by the kernel's word, not by the next look of some timer.
    assert _seconds(exited[0]["time"]) - killed_at < 0.5
    again = [e for e in world.events("a") if e["type"] == "starting"][-1]
    assert _seconds(again["time"]) - _seconds(exited[0]["time"]) < 0.5
    assert zombies_of(world.daemon_pid()) == []


def _seconds(stamp: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(stamp.replace("Z", "+00:00")).timestamp()


def test_an_engine_that_dies_at_once_is_given_up_with_its_last_words(world: World) -> None:
    mended = world.folder / "mended"
    quick = {"initial": "10ms", "max": "20ms", "limit": "3 in 1m"}
    bad = fake("exit=7", f"unless={mended}", restart=quick)
    profile = world.profile({"bad": bad, "good": None})

    ran = world.run("apply", profile, ok=False)

    assert ran.code == 1
    assert "gives up" in ran.err
    row = until_phase(world, "bad", "failed")
    assert row["reason"] == "crashed"
    assert row["exit_code"] == 7
    assert "gave up after 4 failures" in row["message"]
    assert "error: the fake engine gives up" in row["message"]
    assert "Traceback" not in ran.err
    assert rows(world)["good"]["phase"] == "ready"
    assert world.run("wait", "bad", ok=False).code == 1
    assert world.run("status", "--check", ok=False).code == 1

    # The verb `apply` tries again, and fails again.
    starts = _count(world, "bad", "starting")
    assert world.run("apply", profile, ok=False).code == 1
    assert until_phase(world, "bad", "failed")
    assert _count(world, "bad", "starting") > starts

    # An edit of the file is another way to try again; of anything that concerns it.
    mended.touch()
    world.profile({"bad": {**bad, "description": "mended"}, "good": None})
    until_phase(world, "bad", "ready")


def test_an_apply_takes_up_what_was_given_up(world: World) -> None:
    mended = world.folder / "mended"
    bad = fake("exit=7", f"unless={mended}", restart={"policy": "never"})
    profile = world.profile({"bad": bad})
    assert world.run("apply", profile, ok=False).code == 1
    row = until_phase(world, "bad", "failed")
    assert row["message"].startswith("exited with code 7")

    mended.touch()
    world.run("apply", profile)
    assert rows(world)["bad"]["phase"] == "ready"


def _count(world: World, name: str, kind: str) -> int:
    return sum(event["type"] == kind for event in world.events(name))


def test_a_real_engines_own_error_line_is_the_message(any_world: World) -> None:
    world = any_world
    never = {"restart": {"policy": "never"}, "args": ["--no-such-flag"]}
    ran = world.run("apply", world.profile({"a": never}), ok=False)
    assert ran.code == 1
    row = until_phase(world, "a", "failed")
    assert "no-such-flag" in row["message"]
    assert row["pid"] is None


# --- hanging --------------------------------------------------------------------------------------


def test_what_hangs_while_it_loads_is_ended_and_what_loads_slowly_is_not(world: World) -> None:
    patience = {"readiness": {"timeout": "600ms"}, "restart": {"policy": "never"}}
    slow = fake("load=2", **patience)
    ran = world.run(
        "apply", world.profile({"hung": fake("hang", **patience), "slow": slow}), ok=False
    )

    assert ran.code == 1
    found = rows(world)
    assert (found["hung"]["phase"], found["hung"]["reason"]) == ("failed", "timeout")
    assert "no progress for 0.6 s" in found["hung"]["message"]
    assert found["hung"]["pid"] is None
    assert found["slow"]["phase"] == "ready"
    assert found["slow"]["ready_after_s"] >= 2
    assert set(owned(world)) == {"slow"}


def test_progress_does_not_help_past_the_deadline(world: World) -> None:
    late = fake("load=60", readiness={"deadline": "700ms"}, restart={"policy": "never"})
    assert world.run("apply", world.profile({"late": late}), ok=False).code == 1
    row = until_phase(world, "late", "failed")
    assert row["reason"] == "timeout"
    assert "not ready within 0.7 s" in row["message"]


LIVELY = {"interval": "100ms", "timeout": "300ms", "failures": 2}


def test_a_running_instance_that_hangs_is_restarted(any_world: World) -> None:
    world = any_world
    port = world.port()
    world.run("apply", world.profile({"a": {"port": port, "liveness": LIVELY}, "b": None}))
    before = pids(world)

    kill(before["a"], signal.SIGSTOP)

    until_row(world, "a", lambda r: r["phase"] == "ready" and r["pid"] != before["a"])
    assert not alive(before["a"])
    assert rows(world)["b"]["pid"] == before["b"]
    assert isinstance(world.complete(port), str)
    kinds = [(e["type"], e["reason"]) for e in world.events("a")]
    assert ("unready", "unhealthy") in kinds
    assert ("condemned", "hung") in kinds
    assert ("stopping", "hung") in kinds
    assert rows(world)["a"]["restarts"] == 1


def test_a_short_stall_is_unready_and_no_restart(world: World) -> None:
    patient = {"interval": "100ms", "timeout": "200ms", "failures": 50}
    world.run("apply", world.profile({"a": {"liveness": patient}}))
    pid = pids(world)["a"]
    kill(pid, signal.SIGSTOP)
    row = until_phase(world, "a", "unready")
    assert row["reason"] == "unhealthy"
    assert not status(world)["converged"]
    kill(pid, signal.SIGCONT)
    assert until_phase(world, "a", "ready")["pid"] == pid
    assert rows(world)["a"]["restarts"] == 0


def test_a_health_check_that_says_500_counts_as_hung(world: World) -> None:
    sick = world.folder / "sick"
    world.run("apply", world.profile({"a": fake(f"sick={sick}", liveness=LIVELY)}))
    pid = pids(world)["a"]
    sick.touch()
    world.until(lambda: not alive(pid), "the sick process is ended")
    sick.unlink()
    until_row(world, "a", lambda r: r["phase"] == "ready" and r["pid"] != pid)
    condemned = [e for e in world.events("a") if e["type"] == "condemned"]
    assert "answers 500 (2 of 2)" in condemned[0]["message"]


def test_accepting_connections_is_not_being_ready(world: World) -> None:
    mute = fake("mute", readiness={"timeout": "500ms"}, restart={"policy": "never"})
    assert world.run("apply", world.profile({"a": mute}), ok=False).code == 1
    assert until_phase(world, "a", "failed")["reason"] == "timeout"


# --- stopping -------------------------------------------------------------------------------------


def test_deaf_to_sigterm_it_is_killed_after_its_grace(world: World) -> None:
    world.run("apply", world.profile({"a": fake("deaf", stop={"grace": "700ms"}), "b": None}))
    pid = pids(world)["a"]
    began = time.monotonic()
    world.run("stop", "a")
    assert time.monotonic() - began >= 0.7
    assert not alive(pid)
    assert (rows(world)["a"]["phase"], rows(world)["a"]["reason"]) == ("stopped", "held")
    assert rows(world)["b"]["phase"] == "ready"


def test_kill_waits_for_no_grace(world: World) -> None:
    world.run("apply", world.profile({"a": fake("deaf", stop={"grace": "40s"})}))
    pid = pids(world)["a"]
    world.run("kill", "a", timeout=10)
    assert not alive(pid)
    assert rows(world)["a"]["reason"] == "held"


def test_down_stops_waiting_when_told_to_and_kill_still_helps(world: World) -> None:
    world.run("apply", world.profile({"a": fake("deaf", stop={"grace": "40s"})}))
    pid, daemon = pids(world)["a"], daemon_pid(world)
    ran = world.run("down", "--timeout", "300ms", ok=False)
    assert ran.code == 4
    assert "kill NAME" in ran.err
    assert alive(pid)
    assert rows(world)["a"]["phase"] == "stopping"

    world.run("kill", "a", timeout=10)
    assert not alive(pid)
    world.until(lambda: daemon is not None and not alive(daemon), "down goes on to its end")


def test_children_of_an_engine_end_with_it(world: World) -> None:
    port = world.port()
    world.run("apply", world.profile({"a": fake("fork", port=port)}))
    world.until(lambda: len(owned(world)["a"]) == 2, "it has forked")
    first = set(owned(world)["a"])

    # The leader dies; its child would keep the port.
    kill(pids(world)["a"])
    row = until_row(world, "a", lambda r: r["phase"] == "ready" and r["pid"] not in first)
    assert row["restarts"] == 1
    assert not any(alive(pid) for pid in first)
    world.until(lambda: len(owned(world)["a"]) == 2, "it has forked again")

    second = owned(world)["a"]
    world.run("stop", "a")
    assert not any(alive(pid) for pid in second)
    assert owned(world) == {}
    assert zombies_of(world.daemon_pid()) == []


# --- over time ------------------------------------------------------------------------------------


def test_many_restarts_leave_nothing_in_the_daemon(world: World) -> None:
    world.run("apply", world.profile({"a": None, "b": None}))
    daemon = world.daemon_pid()
    world.run("restart", "a")
    first = descriptors(daemon)
    from tests.look import client

    for _ in range(30):
        client(world).post("/v1/instances/a/restart", {}, wait=1)
    assert descriptors(daemon) <= first + 1
    assert zombies_of(daemon) == []
    assert len(owned(world)["a"]) == 1
    assert os.path.exists(f"/proc/{daemon}")
