"""The daemon itself: killed at any moment, asked twice at once, interrupted, in the foreground."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import shutil
import signal
import stat
import subprocess
import time
from pathlib import Path

import pytest

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
from tests.world import PATIENCE, World, alive, kill


def _ended(begun: subprocess.Popen[str], timeout: float = 30) -> tuple[int, str, str]:
    try:
        out, err = begun.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        begun.kill()
        begun.communicate()
        raise
    return begun.returncode, out, err


# --- kill -9 --------------------------------------------------------------------------------------


def test_killed_at_rest_nothing_is_lost_or_started_twice(any_world: World) -> None:
    world = any_world
    profile = world.profile({"a": {"port": "auto"}, "b": None, "c": {"needs": ["a"]}})
    world.run("apply", profile)
    before = rows(world)
    world.run("stop", "b")

    kill_daemon(world)

    offline = world.run("status", "--json", ok=False)
    assert offline.code == 3
    assert offline.json["daemon"] is None
    assert not offline.json["converged"]
    shown = {row["name"]: (row["pid"], row["phase"]) for row in offline.json["instances"]}
    assert shown["a"] == (before["a"]["pid"], "ready")
    assert shown["b"] == (None, "stopped")
    assert world.run("logs", "a", ok=False).code == 3
    assert world.run("wait", "a", ok=False).code == 3
    assert world.run("daemon", "status", ok=False).code == 3

    assert "daemon started" in world.run("daemon", "start").out
    world.until(lambda: {n: r["phase"] for n, r in rows(world).items()}["c"] == "ready")
    after = rows(world)
    assert [after[n]["pid"] for n in "ac"] == [before[n]["pid"] for n in "ac"]
    assert [after[n]["port"] for n in "abc"] == [before[n]["port"] for n in "abc"]
    assert after["b"]["reason"] == "held"
    assert {n: len(p) for n, p in owned(world).items()} == {"a": 1, "c": 1}

    # An adopted process dies like any other.
    kill(after["a"]["pid"])
    until_row(world, "a", lambda r: r["phase"] == "ready" and r["pid"] != after["a"]["pid"])
    assert rows(world)["c"]["pid"] == before["c"]["pid"]
    # A hold ends with an apply of its file.
    world.run("apply", profile)
    assert rows(world)["b"]["phase"] == "ready"


@pytest.mark.parametrize("delay", [0.0, 0.02, 0.05, 0.1, 0.2])
def test_killed_in_the_middle_of_an_apply(world: World, delay: float) -> None:
    profile = world.profile({name: fake("load=0.2") if name == "s" else None for name in "abcs"})
    applying = world.begin("apply", profile)
    world.until(lambda: "applied" in world.log(), "it was taken up")
    time.sleep(delay)  # Not to wait for anything: the moment of the kill is what varies.
    kill_daemon(world)
    code, _, err = _ended(applying)
    assert code in (1, 3)
    assert "Traceback" not in err
    assert "bug in" not in err
    left = owned(world)

    world.run("apply", profile)

    found = owned(world)
    assert {name: len(found[name]) for name in found} == dict.fromkeys("abcs", 1)
    assert {name: found[name] for name in left} == left, "adopted as they run"
    assert {name: [row["pid"]] for name, row in rows(world).items()} == found
    assert all(row["restarts"] == 0 for row in rows(world).values())


def test_down_works_though_the_daemon_had_died(world: World) -> None:
    world.run("apply", world.profile({"a": None, "b": fake("fork")}))
    world.until(lambda: len(owned(world)["b"]) == 2, "it has forked")
    left = [pid for group in owned(world).values() for pid in group]
    kill_daemon(world)
    world.run("down")
    assert not any(alive(pid) for pid in left)
    assert daemon_pid(world) is None
    assert world.run("down").out == "nothing is running\n"
    assert world.run("daemon", "stop").code == 0


def test_a_stop_that_the_daemon_did_not_live_to_see_is_finished(world: World) -> None:
    deaf = fake("deaf", stop={"grace": "1s"})
    world.run("apply", world.profile({"a": deaf}))
    pid = pids(world)["a"]
    stopping = world.begin("stop", "a")
    until_phase(world, "a", "stopping")
    kill_daemon(world)
    assert _ended(stopping)[0] == 3
    world.run("daemon", "start")
    world.until(lambda: not alive(pid), "the stop is finished")
    assert until_phase(world, "a", "stopped")["reason"] == "held"


@pytest.mark.parametrize("verb", ["stop", "restart"])
def test_a_daemon_that_dies_while_it_is_asked_to_end_has_ended(world: World, verb: str) -> None:
    world.run("daemon", "start")
    daemon = world.daemon_pid()
    kill(daemon, signal.SIGSTOP)
    asking = world.begin("daemon", verb)
    world.until(lambda: _has_a_socket(asking.pid), "it is asked")
    kill(daemon)
    code, out, err = _ended(asking)
    assert (code, err) == (0, "")
    assert ("daemon stopped" if verb == "stop" else "daemon restarted") in out
    assert (daemon_pid(world) is not None) == (verb == "restart")


def _has_a_socket(pid: int) -> bool:
    found: list[str] = []
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            found.append(os.readlink(fd))
    return any(one.startswith("socket:") for one in found)


def test_a_daemon_that_does_not_answer_is_as_good_as_none(world: World) -> None:
    world.run("apply", world.profile({"a": None}))
    before, daemon = pids(world), world.daemon_pid()
    kill(daemon, signal.SIGSTOP)
    try:
        ran = world.run("status", "--json", ok=False, timeout=20)
    finally:
        kill(daemon, signal.SIGCONT)
    assert ran.code == 3
    assert ran.json["daemon"] is None
    assert [row["pid"] for row in ran.json["instances"]] == [before["a"]]
    assert pids(world) == before


# --- its own end ----------------------------------------------------------------------------------


def test_sigterm_ends_the_daemon_alone(world: World) -> None:
    world.run("apply", world.profile({"a": None}))
    before, daemon = pids(world), world.daemon_pid()
    kill(daemon, signal.SIGTERM)
    world.until(lambda: not alive(daemon), "the daemon ends")
    assert alive(before["a"])
    assert not (world.state / "control.sock").exists()
    world.run("daemon", "start")
    assert pids(world) == before
    world.run("daemon", "restart")
    assert pids(world) == before
    assert world.daemon_pid() != daemon


@pytest.mark.parametrize(
    "words", [("events", "-f"), ("logs", "a", "-f"), ("status", "--watch")], ids=lambda it: it[0]
)
def test_whoever_follows_is_let_go_at_its_end(world: World, words: tuple[str, ...]) -> None:
    world.run("apply", world.profile({"a": None}))
    with subprocess.Popen(
        world.command(*words), cwd=world.folder, env=world.env, stdout=subprocess.PIPE
    ) as follower:
        assert follower.stdout is not None
        assert follower.stdout.readline()
        world.run("daemon", "stop")
        follower.terminate()
    # The server tells of each that it had to cut off.
    assert "Traceback" not in world.log()


def test_stopped_with_its_instances_it_resumes_all_but_what_is_held(world: World) -> None:
    world.run("apply", world.profile({"a": None, "b": None, "c": None}))
    before = rows(world)
    world.run("stop", "c")
    world.run("daemon", "stop", "--instances")
    assert owned(world) == {}
    assert daemon_pid(world) is None

    world.run("daemon", "start")
    until_phase(world, "a", "ready")
    until_phase(world, "b", "ready")
    after = rows(world)
    assert after["a"]["port"] == before["a"]["port"]
    assert (after["c"]["phase"], after["c"]["reason"]) == ("stopped", "held")


def test_down_forgets_and_may_keep_the_daemon(world: World) -> None:
    world.run("apply", world.profile({"a": None}))
    daemon = world.daemon_pid()
    world.run("down", "--keep-daemon")
    document = world.run("status", "--json").json
    assert document["daemon"]["pid"] == daemon
    assert (document["instances"], document["profiles"]) == ([], [])
    assert document["converged"]
    world.run("down")
    assert not alive(daemon)
    world.run("daemon", "start")
    assert rows(world) == {}


def test_an_apply_during_down_wins(world: World) -> None:
    one = world.profile({"a": fake("deaf", stop={"grace": "1s"})}, name="one.yaml")
    two = world.profile({"b": None}, name="two.yaml")
    world.run("apply", one)
    down = world.begin("down")
    until_phase(world, "a", "stopping")
    world.run("apply", two)
    code, _, err = _ended(down)
    assert code == 1
    assert "superseded" in err
    assert rows(world)["b"]["phase"] == "ready"


# --- two at once ----------------------------------------------------------------------------------


def test_two_applies_at_once(world: World) -> None:
    shared = {"port": world.port()}
    one = world.profile({"a": shared, "b": fake("load=0.5")}, name="one.yaml")
    two = world.profile({"a": shared, "c": fake("load=0.5")}, name="two.yaml")
    world.run("daemon", "start")
    both = {"b": world.begin("apply", one), "c": world.begin("apply", two)}
    ended = {name: _ended(begun) for name, begun in both.items()}

    final = rows(world)
    winner, loser = ("b", "c") if "b" in final else ("c", "b")
    assert set(final) == {"a", winner}
    assert ended[winner][0] == 0, ended
    assert ended[loser][0] == 1, ended
    assert "superseded" in ended[loser][2]
    assert {name: len(found) for name, found in owned(world).items()} == {"a": 1, winner: 1}
    assert len([e for e in world.events("a") if e["type"] == "spawned"]) == 1


def test_two_first_applies_at_once_start_one_daemon(world: World) -> None:
    profile = world.profile({"a": None, "b": None})
    both = [world.begin("apply", profile) for _ in range(2)]
    ended = [_ended(begun) for begun in both]
    assert 0 in [code for code, _, _ in ended], ended
    assert all(code == 0 or "superseded" in err for code, _, err in ended), ended
    assert {name: len(found) for name, found in owned(world).items()} == {"a": 1, "b": 1}
    assert world.log().count("daemon-started") == 1
    assert status(world)["converged"]


# --- Ctrl-C ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", ["daemon.lock", "control.sock", "logs/slow.log"])
def test_ctrl_c_only_detaches(world: World, moment: str) -> None:
    applying = world.begin("apply", world.profile({"slow": fake("load=1"), "a": None}))
    world.until(lambda: (world.state / moment).exists(), moment)
    applying.send_signal(signal.SIGINT)
    code, _, err = _ended(applying)
    assert code == 130, err
    assert "Traceback" not in err
    world.until(lambda: daemon_pid(world) is not None, "the daemon goes on")
    until_phase(world, "slow", "ready")
    assert until_phase(world, "a", "ready")["restarts"] == 0


def test_ctrl_c_of_a_stop_does_not_wait_for_it(world: World) -> None:
    world.run("apply", world.profile({"a": fake("deaf", stop={"grace": "40s"})}))
    stopping = world.begin("stop", "a")
    until_phase(world, "a", "stopping")
    stopping.send_signal(signal.SIGINT)
    assert _ended(stopping, timeout=5)[0] == 130
    assert rows(world)["a"]["phase"] == "stopping"
    world.run("kill", "a")


# --- in the foreground ----------------------------------------------------------------------------


def _serving(world: World, *words: object) -> tuple[subprocess.Popen[str], dict[str, int]]:
    begun = world.begin(*words)
    world.until(lambda: daemon_pid(world) == begun.pid, "it holds the state folder")
    world.until(lambda: status(world)["daemon"] and status(world)["converged"], "all ready")
    return begun, pids(world)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_in_the_foreground_a_signal_ends_all(world: World, number: signal.Signals) -> None:
    profile = world.profile({"a": None, "b": fake("fork")})
    begun, running = _serving(world, "apply", "--foreground", profile)

    beside = world.run("serve", profile, ok=False)
    assert beside.code == 2
    assert str(begun.pid) in beside.err
    # Other commands talk to it like to any daemon.
    world.run("restart", "a")
    running = pids(world)

    begun.send_signal(number)
    code, _, err = _ended(begun)
    assert code == 0, err
    assert "Traceback" not in err
    assert not any(alive(pid) for pid in running.values() if pid)
    assert owned(world) == {}


def test_in_the_foreground_a_terminal_that_closes_ends_all(world: World) -> None:
    ours, theirs = pty.openpty()
    shell = ["setsid", "--ctty", *world.command("serve", world.profile({"a": None}))]
    begun = subprocess.Popen(
        shell, cwd=world.folder, env=world.env, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    world.until(lambda: daemon_pid(world) == begun.pid, "it holds the state folder")
    until_phase(world, "a", "ready")
    os.close(ours)
    assert begun.wait(PATIENCE) == 0
    assert owned(world) == {}


@pytest.mark.parametrize("background", [True, False])
def test_without_a_terminal_a_hangup_reads_the_files_again(world: World, background: bool) -> None:
    """What init systems and containers send to have a configuration read again."""
    port = world.port()
    profile = world.profile({"a": {"port": port}})
    begun = None
    if background:
        world.run("apply", profile)
    else:
        begun = _serving(world, "serve", profile)[0]
    pid = pids(world)["a"]
    late = world.folder / "late.gguf"
    world.profile({"a": {"port": port}, "b": {"model": str(late)}})
    world.until(lambda: not status(world)["profiles"][0]["ok"], "a model is missing")
    # That a model has come is no edit: nothing would look.
    shutil.copy(world.model, late)
    daemon = daemon_pid(world)
    assert daemon is not None
    os.kill(daemon, signal.SIGHUP)
    until_phase(world, "b", "ready")
    assert (daemon_pid(world), pids(world)["a"]) == (daemon, pid)
    if begun is not None:
        begun.send_signal(signal.SIGTERM)
        assert _ended(begun)[0] == 0


def test_in_the_foreground_instances_may_be_left_running(world: World) -> None:
    profile = world.profile({"a": None})
    begun, running = _serving(world, "serve", "--leave-running", profile)
    begun.send_signal(signal.SIGTERM)
    assert _ended(begun)[0] == 0
    assert all(alive(pid) for pid in running.values() if pid)
    world.run("apply", profile)
    assert pids(world) == running


def test_in_the_foreground_a_second_signal_kills(world: World) -> None:
    deaf = world.profile({"a": fake("deaf", stop={"grace": "40s"})})
    begun, running = _serving(world, "apply", "--foreground", deaf)
    begun.send_signal(signal.SIGTERM)
    until_phase(world, "a", "stopping")
    begun.send_signal(signal.SIGTERM)
    assert _ended(begun, timeout=10)[0] == 0
    assert not any(alive(pid) for pid in running.values() if pid)


def test_in_the_foreground_an_early_signal_leaves_nothing(world: World) -> None:
    begun = world.begin("apply", "--foreground", world.profile({"slow": fake("load=40")}))
    world.until(lambda: owned(world), "it starts something")
    begun.send_signal(signal.SIGINT)
    assert _ended(begun)[0] == 0
    assert owned(world) == {}


def test_in_the_foreground_what_is_wrong_ends_it(world: World) -> None:
    ran = world.run("serve", world.write("p.yaml", "instances: {a: {prot: 1}}\n"), ok=False)
    assert ran.code == 2
    assert "prot" in ran.err


# --- its folder -----------------------------------------------------------------------------------


def test_a_state_folder_with_a_long_path(world: World) -> None:
    deep = world.folder / ("d" * 60) / ("e" * 60)
    world.env["ORCHESTRATE_STATE_DIR"] = str(deep)
    world.state = deep
    assert len(str(deep / "control.sock")) > 107
    world.run("apply", world.profile({"a": None}))
    assert world.run("status", "--check").code == 0
    world.run("down")


def test_folders_may_be_relative_to_where_it_is_called(world: World) -> None:
    world.env |= {"ORCHESTRATE_STATE_DIR": "here/state", "ORCHESTRATE_CACHE_DIR": "here/cache"}
    world.state = world.folder / "here" / "state"

    world.run("apply", world.profile({"a": None}))

    assert os.listdir(world.folder / "here" / "cache")
    assert not (world.state / "here").exists()
    world.run("down")


def test_all_of_the_state_folder_is_ours_alone(world: World) -> None:
    before = os.umask(0)
    try:
        world.run("apply", world.profile({"a": {"flags": {"api-key": "sesame"}}}))
        world.run("restart", "a")
    finally:
        os.umask(before)
    seen: list[str] = []
    for path in [world.state, *sorted(Path(world.state).rglob("*"))]:
        mode = path.lstat().st_mode
        wanted = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(mode) == wanted, (path, oct(mode))
        seen.append(path.name)
    assert {"control.sock", "state.db", "daemon.log", "a.log", "a.log.1"} <= set(seen)


def test_json_is_one_document_and_nothing_else(world: World) -> None:
    profile = world.profile({"a": None})
    lines = world.run("apply", "--json", profile).out.splitlines()
    documents = [json.loads(line) for line in lines]
    assert documents[-1]["converged"]
    assert {"id", "time", "instance", "type"} <= set(documents[0])
    for words in (
        ("status",),
        ("plan", profile),
        ("validate", profile),
        ("wait", "a"),
        ("stop", "a"),
        ("daemon", "status"),
        ("remove", "p"),
    ):
        assert isinstance(world.run(*words, "--json").json, dict)
    world.run("down")
    assert world.run("status", "--json", ok=False).json["daemon"] is None
    assert world.run("daemon", "status", "--json", ok=False).json["daemon"] is None
