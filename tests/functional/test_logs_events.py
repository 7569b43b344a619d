"""What is said afterwards: logs, events with their causes, and secrets, which are never said."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

from orchestrator.runtime.identity import environment_of
from tests.fakes import fake
from tests.look import kill_daemon, owned, pids, rows, status, until_phase, until_row
from tests.world import World, kill

SECRET = "sesame-open-thyself"


def test_logs_by_lines_by_run_and_without_a_daemon(any_world: World) -> None:
    world = any_world
    world.run("apply", world.profile({"a": None}))
    whole = world.run("logs", "a").out
    assert len(whole.splitlines()) > 3
    three = world.run("logs", "a", "-n", "3").out.splitlines()
    assert three == whole.splitlines()[-3:]
    assert world.run("logs", "a", "-n", "0").out == ""

    world.run("restart", "a")
    previous = world.run("logs", "a", "--previous", "-n", "1000").out
    assert previous.startswith(whole[:200])
    assert "daemon-started" in world.run("logs", "--daemon").out
    assert world.run("logs", ok=False).code == 2

    kill_daemon(world)
    offline = world.run("logs", "a", "-n", "2", ok=False)
    assert offline.code == 3
    assert len(offline.out.splitlines()) == 2
    assert world.run("logs", "a", "-f", ok=False).code == 3
    assert world.run("logs", "--daemon").code == 0


def test_a_followed_log_goes_on_with_the_next_run(world: World) -> None:
    world.run("apply", world.profile({"a": fake()}))
    following = world.begin("logs", "a", "-f", "-n", "1")
    assert following.stdout is not None
    try:
        assert following.stdout.readline() == "fake engine begins\n"
        world.run("restart", "a")
        assert following.stdout.readline() == "fake engine begins\n"
    finally:
        following.send_signal(2)
        following.communicate(timeout=10)
    assert following.returncode == 130


def test_a_log_cannot_steer_the_terminal_that_it_is_shown_on(world: World) -> None:
    folder = Path(world.env["ORCHESTRATE_STATE_DIR"])
    folder.mkdir(mode=0o700, exist_ok=True)
    hostile = "\x1b]0;title\x07one\x1b[2J\ttwo\u202e ü\rthree"
    (folder / "daemon.log").write_bytes(f"{hostile}\r\nnext\n".encode())
    shown = world.on_a_terminal("logs", "--daemon", LC_ALL="C.UTF-8")
    assert shown == "�]0;title�one�[2J\ttwo� üthree\r\nnext\r\n"
    assert "\x1b]0;title" in world.run("logs", "--daemon").out, "as it is in a pipe"


def test_what_an_event_quotes_is_inert_in_the_log(world: World) -> None:
    one = fake()
    for said in ("one", "\x1b]0;t\x07"):
        world.run("apply", world.profile({"a": {**one, "env": {**one["env"], "X": said}}}))
    log = Path(world.env["ORCHESTRATE_STATE_DIR"], "daemon.log").read_text()
    assert "env.X: one -> \\x1b]0;t\\x07" in log
    assert "\x1b" not in log


def test_the_timeline_has_causes_and_outlives_daemons(world: World) -> None:
    port = world.port()
    world.run("apply", world.profile({"a": {"port": port}, "b": None}))
    kill(pids(world)["a"])
    until_row(world, "a", lambda r: r["restarts"] == 1 and r["phase"] == "ready")
    kill_daemon(world)
    stored = [json.loads(line) for line in world.run("events", "--json", ok=False).out.splitlines()]
    assert any(event["type"] == "exited" for event in stored)
    world.run("daemon", "start")
    world.profile({"a": {"port": port, "flags": {"ctx-size": 256}}, "b": None})
    until_row(world, "a", lambda r: r["phase"] == "ready" and "256" in r["command"])

    events = world.events()
    ids = [event["id"] for event in events]
    assert ids == sorted(set(ids))
    kinds = [event["type"] for event in events if event["instance"] in ("", "a")]
    wanted = ["daemon-started", "applied", "starting", "spawned", "ready", "converged", "exited"]
    wanted += ["starting", "ready", "daemon-started", "adopted", "applied", "stopping", "exited"]
    at = 0
    for kind in wanted:
        assert kind in kinds[at:], (kind, kinds[at:])
        at = kinds.index(kind, at) + 1
    assert {event["instance"] for event in world.events("a")} == {"a"}
    ends = [event for event in world.events("a") if event["type"] == "exited"]
    assert [event["reason"] for event in ends] == ["crashed", "replaced"]
    assert all(event.keys() >= {"id", "time", "reason", "message", "data"} for event in events)
    assert len(world.run("events", "-n", "2").out.splitlines()) == 2


def test_events_are_followed(world: World) -> None:
    world.run("apply", world.profile({"a": None}))
    following = world.begin("events", "a", "-f", "-n", "0", "--json")
    assert following.stdout is not None
    try:
        # Whether it is listening yet cannot be seen: something happens until it is seen to be.
        pid = pids(world)["a"]
        os.set_blocking(following.stdout.fileno(), False)

        def seen() -> bool:
            nonlocal pid
            now = pids(world)["a"]
            if now == pid and now is not None:
                world.run("restart", "a")
            pid = now
            return bool(following.stdout and following.stdout.readline())

        world.until(seen, "an event")
    finally:
        following.send_signal(2)
        following.communicate(timeout=10)
    assert following.returncode == 130


def test_a_secret_works_and_is_nowhere_to_be_seen(any_world: World) -> None:
    world = any_world
    port = world.port()
    settings = {"port": port, "env": {"SOME_TOKEN": SECRET}}
    profile = world.profile({"a": {**settings, "flags": {"api-key": SECRET}}})
    shown = [world.run("apply", "--json", profile)]

    assert _asked(port, key="") == 401
    assert _asked(port, key=SECRET) == 200
    (pid,) = owned(world)["a"]
    assert SECRET not in Path(f"/proc/{pid}/cmdline").read_text()

    world.profile({"a": {**settings, "flags": {"api-key": f"{SECRET}-2"}}})
    until_row(world, "a", lambda r: r["phase"] == "ready" and r["pid"] != pid)
    assert _asked(port, key=f"{SECRET}-2") == 200
    changed = world.profile({"a": {**settings, "env": {"API_KEY": SECRET}}}, name="q.yaml")
    shown += [world.run("plan", changed), world.run("plan", "--json", changed)]
    shown += [world.run("apply", changed), world.run("status"), world.run("status", "--json")]
    shown += [world.run("events", "-n", "500", "--json"), world.run("logs", "--daemon")]
    # An edit that is wrong just where the secret stands.
    world.write(
        "q.yaml", f"instances: {{a: {{model: x, flags: {{api-key: {{x: {SECRET}}}}}, b: 1}}}}\n"
    )
    world.until(lambda: not status(world)["profiles"][0]["ok"], "it is said")
    shown += [world.run("status"), world.run("status", "--json"), world.run("events", "--json")]
    kill_daemon(world)
    shown += [world.run("status", "--json", ok=False), world.run("events", "--json", ok=False)]
    for ran in shown:
        assert SECRET not in ran.out + ran.err
    assert "***" in shown[1].out
    assert SECRET not in world.log()
    with sqlite3.connect(world.state / "state.db") as db:
        events = " ".join(row[0] for row in db.execute("SELECT data FROM events"))
    db.close()
    assert SECRET not in events


def _asked(port: int, *, key: str) -> int:
    """The HTTP status of a completion that is asked for with that key."""
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
    body = json.dumps({"prompt": "hot", "n_predict": 1}).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}/completion", body, headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_what_changes_engines_silently_is_not_inherited(world: World) -> None:
    port = world.port()
    loud = {
        "LLAMA_ARG_CTX_SIZE": "256",
        "LLAMA_API_KEY": "from the shell",
        "MTMD_BACKEND_DEVICE": "x",
        "OLLAMA_HOST": "127.0.0.1:1",
        "ORCHESTRATE_TOKEN": "x",
        "PLAIN": "passed on",
    }
    declared = {"port": port, "env": {"LLAMA_ARG_THREADS": "1"}}
    world.env.update(loud)
    world.run("apply", world.profile({"a": declared}))
    for name in loud:
        del world.env[name]
    (pid,) = owned(world)["a"]
    env = environment_of(pid)
    assert env["PLAIN"] == "passed on"
    assert env["LLAMA_ARG_THREADS"] == "1"
    assert not set(env) & {name for name in loud if name != "PLAIN"}
    assert world.props(port)["default_generation_settings"]["n_ctx"] != 256
    assert _asked(port, key="") == 200
    # What is inherited is never compared: another shell changes nothing.
    world.run("apply", "p.yaml", OTHER="shell")
    assert owned(world)["a"] == [pid]


def test_a_reader_that_goes_away_is_no_error(world: World) -> None:
    world.run("apply", world.profile({"a": None}))
    with subprocess.Popen(
        ["sh", "-c", '"$@" | head -n 1', "sh", *world.command("logs", "a")],
        cwd=world.folder,
        env=world.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as piped:
        out, err = piped.communicate(timeout=20)
    assert len(out.splitlines()) == 1
    assert err == ""


def test_an_output_that_is_closed_or_full_is_no_bug(world: World) -> None:
    script = '"$@" | head -n 1; exec 3>&1; "$@" >&-; echo "closed: $?" >&3'
    script += '; "$@" >/dev/full; echo "full: $?" >&3; "$@" >/dev/null <&- 2>&-; echo "all: $?"'
    ran = subprocess.run(
        ["bash", "-c", script, "bash", *world.command("schema")],
        cwd=world.folder,
        env=world.env,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.stdout.splitlines()[1:] == ["closed: 0", "full: 1", "all: 0"]
    assert ran.stderr == "error: the output cannot be written: its disk is full\n"
    ran = subprocess.run(
        ["bash", "-c", '"$@" | true; exit "${PIPESTATUS[0]}"', "bash", *world.command("schema")],
        cwd=world.folder,
        env=world.env,
        timeout=60,
    )
    assert ran.returncode == 0


def test_what_is_followed_goes_on_until_it_is_interrupted(world: World) -> None:
    world.run("apply", world.profile({"a": None}))
    with subprocess.Popen(
        world.command("logs", "--daemon", "-f", "-n", "1"),
        cwd=world.folder,
        env=world.env,
        stdout=subprocess.PIPE,
        text=True,
    ) as following:
        assert following.stdout is not None
        assert "converged" in following.stdout.readline()
        world.run("stop", "a")
        assert "held" in following.stdout.readline()
        following.send_signal(signal.SIGINT)
        assert following.wait(timeout=20) == 130
    with subprocess.Popen(
        world.command("status", "--watch", "--json"),
        cwd=world.folder,
        env=world.env,
        stdout=subprocess.PIPE,
        text=True,
    ) as watching:
        assert watching.stdout is not None
        for _ in range(2):
            assert json.loads(watching.stdout.readline())["instances"][0]["reason"] == "held"
        watching.send_signal(signal.SIGINT)
        assert watching.wait(timeout=20) == 130


def test_what_is_followed_says_that_the_daemon_has_gone(world: World) -> None:
    world.run("apply", world.profile({"a": None}))
    followers = [
        subprocess.Popen(
            world.command(*words),
            cwd=world.folder,
            env=world.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for words in (("status", "-w"), ("events", "-f"), ("logs", "a", "-f"))
    ]
    for one in followers:
        assert one.stdout is not None
        assert one.stdout.readline()
    world.run("daemon", "stop")
    for one in followers:
        with one:
            assert one.stderr is not None
            assert "error: " in one.stderr.read()
            assert one.wait(timeout=20) == 3


def test_exit_codes_of_a_world_without_a_daemon(world: World) -> None:
    assert world.run("status", ok=False).code == 3
    assert world.run("status", "--json", ok=False).json["instances"] == []
    assert world.run("daemon", "status", ok=False).code == 3
    assert world.run("wait", ok=False).code == 3
    assert world.run("logs", "a", ok=False).code == 2
    assert world.run("events", ok=False).out == ""
    assert world.run("down").code == 0
    assert world.run("daemon", "stop").code == 0
    assert world.run("nonsense", ok=False).code == 2
    assert world.run("apply", ok=False).code == 2
    assert world.run("status", "--no-such", ok=False).code == 2
    for words in (("apply", "--help"), ("status", "--help"), ("--version",)):
        assert world.run(*words).code == 0
    assert not (world.state / "state.db").exists(), "looking begins nothing"
    assert rows(world) == {}
    profile = world.profile({"a": None})
    world.run("validate", profile)
    world.run("plan", profile)
    assert world.run("status", ok=False).code == 3
    world.run("apply", profile)
    assert until_phase(world, "a", "ready")
