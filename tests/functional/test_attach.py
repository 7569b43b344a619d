"""An Ollama that somebody else runs, declared in a profile: used, provisioned, never ended."""

from __future__ import annotations

import getpass
import json
import os
import signal
from collections.abc import Iterator

import pytest

from tests.look import kill_daemon, owned, rows, status, until_phase, until_row
from tests.ollama_world import OllamaWorld, Server, ask, generate, ps, running_ollama, tags
from tests.world import alive


@pytest.fixture
def theirs(ollama_world: OllamaWorld) -> Iterator[Server]:
    """A server of a person who has never heard of us."""
    world = ollama_world
    with running_ollama(world.folder / "theirs", world.port(), binary=world.ollama) as server:
        yield server


def who(server: Server) -> str:
    return f"pid {server.pid} of {getpass.getuser()}"


def test_it_gets_the_declared_models_and_outlives_everything(
    ollama_world: OllamaWorld, theirs: Server
) -> None:
    world = ollama_world
    made = {"name": "tiny", "gguf": str(world.model), "preload": True}
    settings = {"num_parallel": 2, "keep_alive": "5m"}
    profile = world.ollamas({"o": {"port": theirs.port, "settings": settings, "models": [made]}})
    done = world.run("apply", profile)
    ignored = "keep_alive, num_parallel are ignored"
    assert f"attached to {who(theirs)} (Ollama " in done.out + done.err
    row = rows(world)["o"]
    assert (row["phase"], row["managed"], row["command"]) == ("ready", False, [])
    assert (row["pid"], row["owner"]) == (theirs.pid, getpass.getuser())
    assert row["message"].endswith(f"; its settings are its own: {ignored}")
    assert any(ignored in warning for warning in status(world)["warnings"])
    assert list(ps(theirs.port)) == ["tiny:latest"]
    assert generate(theirs.port, "tiny")
    assert owned(world) == {}, "nothing of ours was started"
    # The server and its runner together.
    alone = next(int(line.split()[1]) for line in _status_of(theirs.pid) if "VmRSS" in line)
    both = alone * 1024 * 1.1
    world.until(lambda: rows(world)["o"]["memory_bytes"] > both, "its runner counts, too")

    said = world.run("restart", "o").out
    assert "the server itself is not ours" in said
    assert world.run("stop", "o").out == f"o: stopped: detached: {who(theirs)} goes on\n"
    assert status(world)["instances"][0]["managed"]
    world.run("start", "o")
    assert f"detached: {who(theirs)} goes on" in world.run("kill", "o").out
    world.run("apply", profile)
    world.run("remove", "p")
    world.until(lambda: rows(world) == {}, "it is let go of")
    assert [e["message"] for e in world.events("o") if e["type"] == "detached"] == [
        f"detached: {who(theirs)} goes on"
    ] * 4
    world.run("apply", profile)
    assert f"pid {theirs.pid} at http://127.0.0.1:{theirs.port} goes on" in world.run("down").out
    assert alive(theirs.pid)
    assert "tiny:latest" in tags(theirs.port), "and it keeps what it was given"


def _status_of(pid: int) -> list[str]:
    with open(f"/proc/{pid}/status") as file:
        return file.read().splitlines()


def test_nothing_is_ever_deleted_there(ollama_world: OllamaWorld, theirs: Server) -> None:
    world = ollama_world
    models = [{"name": name, "gguf": str(world.model)} for name in ("kept", "leaves")]
    whole = {"port": theirs.port, "prune": True}
    world.run("apply", world.ollamas({"o": {**whole, "models": models}}))
    world.run("apply", world.ollamas({"o": {**whole, "models": models[:1]}}))
    until_row(world, "o", lambda row: [m["name"] for m in row["models"]] == ["kept:latest"])
    assert set(tags(theirs.port)) == {"kept:latest", "leaves:latest"}


def test_only_says_that_there_is_nothing_and_takes_it_up_when_there_is(
    ollama_world: OllamaWorld,
) -> None:
    world = ollama_world
    port = world.port()
    profile = world.ollamas({"o": {"port": port, "attach": "only"}})
    tried = world.run("apply", profile, ok=False)
    assert tried.code == 1
    assert f"no Ollama answers at 127.0.0.1:{port}" in tried.out + tried.err
    assert rows(world)["o"]["reason"] == "nothing-to-attach"
    with running_ollama(world.folder / "theirs", port, binary=world.ollama) as server:
        assert until_phase(world, "o", "ready")["pid"] == server.pid
        world.run("down")


def test_never_names_whose_server_is_in_the_way(ollama_world: OllamaWorld, theirs: Server) -> None:
    world = ollama_world
    profile = world.ollamas({"o": {"port": theirs.port, "attach": "never"}})
    tried = world.run("apply", profile, ok=False)
    assert tried.code == 1
    assert rows(world)["o"]["reason"] == "port-taken"
    assert f"taken by pid {theirs.pid} (" in rows(world)["o"]["message"]


def test_a_killed_daemon_finds_it_again(ollama_world: OllamaWorld, theirs: Server) -> None:
    world = ollama_world
    made = {"name": "tiny", "gguf": str(world.model), "preload": True}
    world.run("apply", world.ollamas({"o": {"port": theirs.port, "models": [made]}}))
    kill_daemon(world)
    world.run("daemon", "start")
    row = until_phase(world, "o", "ready")
    world.until_converged()
    assert (row["pid"], row["restarts"], row["managed"]) == (theirs.pid, 0, False)
    assert not [event for event in world.events("o") if event["type"] == "exited"]
    world.run("daemon", "restart")
    until_phase(world, "o", "ready")
    assert world.events("o")[-1]["type"] != "exited"
    assert rows(world)["o"]["restarts"] == 0


def test_a_service_that_restarts_is_provisioned_again(
    ollama_world: OllamaWorld, theirs: Server
) -> None:
    world = ollama_world
    made = {"name": "tiny", "gguf": str(world.model), "preload": True}
    world.run("apply", world.ollamas({"o": {"port": theirs.port, "models": [made]}}))
    theirs.end(signal.SIGKILL)
    gone = until_phase(world, "o", "unready")
    assert (gone["reason"], gone["pid"], gone["managed"]) == ("gone", None, False)
    with running_ollama(world.folder / "anew", theirs.port, binary=world.ollama) as server:
        # With another store: what is declared is made there, too.
        row = until_row(world, "o", lambda r: r["phase"] == "ready" and r["pid"] == server.pid)
        world.until_converged()
        assert list(ps(server.port)) == ["tiny:latest"]
        assert row["restarts"] == 0
        world.run("down")
        assert alive(server.pid)


def test_what_another_state_folder_runs_is_somebody_elses(
    ollama_world: OllamaWorld,
) -> None:
    world = ollama_world
    port = world.port()
    profile = world.ollamas({"o": {"port": port}})
    world.run("apply", profile)
    first = rows(world)["o"]
    assert first["managed"]
    other = str(world.folder / "other")
    try:
        world.run("apply", profile, ORCHESTRATE_STATE_DIR=other)
        document = json.loads(world.run("status", "--json", ORCHESTRATE_STATE_DIR=other).out)
        row = document["instances"][0]
        assert (row["pid"], row["managed"]) == (first["pid"], False)
    finally:
        world.run("down", ORCHESTRATE_STATE_DIR=other)
    assert alive(first["pid"])
    assert rows(world)["o"]["phase"] == "ready"
    assert ask(port, "/api/version")


def test_in_the_foreground_only_what_is_ours_ends(
    ollama_world: OllamaWorld, theirs: Server
) -> None:
    world = ollama_world
    profile = world.ollamas({"o": {"port": theirs.port}, "own": {}})
    shell = world.begin("apply", "--foreground", profile)
    until_phase(world, "own", "ready")
    until_phase(world, "o", "ready")
    ours = rows(world)["own"]["pid"]
    os.kill(shell.pid, signal.SIGTERM)
    out, err = shell.communicate(timeout=30)
    assert f"detached: {who(theirs)} goes on" in out + err
    assert alive(theirs.pid)
    assert not alive(ours)
