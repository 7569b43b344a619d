"""`liveness: {mode: inference}`: one token now and then tells whether a server is well."""

from __future__ import annotations

import json
import re
import signal
import socket
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.look import rows, until_phase, until_row
from tests.ollama_world import OllamaWorld, generate, ps, running_ollama
from tests.world import World, alive, kill

QUICK = {"mode": "inference", "interval": "200ms", "slow": "300ms", "down": "1s", "failures": 2}
CALM = {**QUICK, "slow": "10s", "down": "20s"}
"""Where nothing is to be wrong, however busy the machine is."""
STOP = {"grace": "200ms"}
"""What is stopped by a signal does not heed another one: no test is to wait for it."""


def health(world: World, name: str, kind: str) -> dict[str, Any]:
    """Wait for that class of health; the row."""
    return until_row(
        world, name, lambda row: row["health"] and row["health"]["class"] == kind, f"is {kind}"
    )


@contextmanager
def long_generation(port: int) -> Generator[socket.socket]:
    """A request that keeps a slot for as long as this lasts: its answer has begun."""
    body = json.dumps({"prompt": "hot", "n_predict": -1, "ignore_eos": True, "stream": True})
    head = f"POST /completion HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        connection.sendall(f"{head}{body}".encode())
        while b"data: " not in connection.recv(1 << 16):
            pass
        yield connection


def test_the_health_of_an_instance_is_shown(any_world: World) -> None:
    port = any_world.port()
    flags = {"api-key": "sesame", "api-prefix": "/llm"}
    any_world.run(
        "apply", any_world.profile({"a": {"port": port, "flags": flags, "liveness": CALM}})
    )

    row = health(any_world, "a", "healthy")

    assert 0 < row["health"]["latency_s"] < 10
    said = [one for one in any_world.events() if one["type"] == "health"]
    # Only what is new is kept; that it answered, not that it refused for want of a key.
    assert [one["reason"] for one in said] == ["healthy"]
    assert said[0]["message"].startswith("a token after ")
    assert "sesame" not in any_world.run("events", "--json", "-n", 1000).out
    assert "sesame" not in any_world.run("status", "--json").out
    assert "sesame" not in any_world.log()


@pytest.mark.parametrize("flag", ["embeddings", "reranking"])
def test_one_that_generates_no_tokens_is_asked_for_what_it_does(
    any_world: World, flag: str
) -> None:
    any_world.run("apply", any_world.profile({"a": {"flags": {flag: True}, "liveness": CALM}}))

    health(any_world, "a", "healthy")

    assert "refuses" not in any_world.events()[-1]["message"]


def test_one_that_hangs_is_unready_then_restarted(any_world: World) -> None:
    profile = any_world.profile({"a": {"liveness": QUICK, "stop": STOP}})
    any_world.run("apply", profile)
    first = health(any_world, "a", "healthy")

    kill(first["pid"], signal.SIGSTOP)
    down = health(any_world, "a", "down")

    assert down["phase"] in {"unready", "stopping"}
    assert down["reason"] in {"unhealthy", "hung"}
    again = until_row(any_world, "a", lambda r: r["phase"] == "ready" and r["pid"] != first["pid"])
    assert again["restarts"] == 1
    assert not alive(first["pid"])
    health(any_world, "a", "healthy")


def test_one_that_comes_to_itself_is_ready_again(world: World) -> None:
    world.run("apply", world.profile({"a": {"liveness": {**QUICK, "failures": 100}}}))
    first = health(world, "a", "healthy")

    kill(first["pid"], signal.SIGSTOP)
    until_phase(world, "a", "unready")
    kill(first["pid"], signal.SIGCONT)

    row = until_phase(world, "a", "ready")
    assert (row["pid"], row["restarts"]) == (first["pid"], 0)
    health(world, "a", "healthy")


def test_one_that_is_busy_is_slow_and_goes_on(any_world: World) -> None:
    port = any_world.port()
    flags = {"parallel": 1, "ctx-size": 512, "context-shift": True}
    any_world.run(
        "apply", any_world.profile({"a": {"port": port, "flags": flags, "liveness": QUICK}})
    )
    first = health(any_world, "a", "healthy")

    with long_generation(port):
        health(any_world, "a", "slow")
        seen = set[float]()
        # More of them than may fail.
        any_world.until(
            lambda: seen.add(rows(any_world)["a"]["health"]["latency_s"]) or len(seen) > 2
        )
        assert rows(any_world)["a"]["phase"] == "ready"

    row = health(any_world, "a", "healthy")
    assert (row["pid"], row["restarts"]) == (first["pid"], 0)
    slow = [one for one in any_world.events() if one["reason"] == "slow"]
    assert re.fullmatch(
        r"busy: no answer after \S+ s, every slot is generating", slow[0]["message"]
    )
    assert not [one for one in any_world.events() if one["type"] in {"unready", "condemned"}]


def test_the_mode_is_changed_while_it_runs(world: World) -> None:
    profile = world.profile({"a": {"liveness": {"interval": "200ms"}}})
    world.run("apply", profile)
    first = until_phase(world, "a", "ready")
    assert first["health"] is None

    world.profile({"a": {"liveness": QUICK}})
    health(world, "a", "healthy")
    world.profile({"a": {"liveness": {"interval": "200ms"}}})
    row = until_row(world, "a", lambda r: r["health"] is None)

    assert row["pid"] == first["pid"]


def test_one_that_is_to_fall_asleep_is_not_kept_awake(world: World) -> None:
    flags = {"sleep-idle-seconds": 60}
    done = world.run("apply", world.profile({"a": {"flags": flags, "liveness": QUICK}}))

    assert "asked for its health only" in done.out + done.err
    assert until_phase(world, "a", "ready")["health"] is None


# --- Ollama ---------------------------------------------------------------------------------------


def test_an_ollama_is_asked_for_a_token_of_what_it_has_in_memory(
    ollama_world: OllamaWorld,
) -> None:
    world = ollama_world
    models = [{"name": "tiny", "gguf": str(world.model), "preload": True}]
    world.run(
        "apply",
        world.ollamas({"a": {"models": models, "liveness": QUICK, "stop": STOP}}),
        timeout=60,
    )
    row = health(world, "a", "healthy")
    port = row["port"]
    told = world.until(
        lambda: [e for e in world.events() if e["type"] == "health"], "a token of tiny"
    )
    assert told[0]["message"].startswith(("a token of tiny:latest after", "its version after"))
    # Pinned it was, and is.
    assert ps(port)["tiny:latest"]["expires_at"] > "2100"

    for pid in [row["pid"], *world.runners("a")]:
        kill(pid, signal.SIGSTOP)
    again = until_row(world, "a", lambda r: r["phase"] == "ready" and r["pid"] != row["pid"])
    assert again["restarts"] == 1
    health(world, "a", "healthy")
    assert generate(port, "tiny")


def test_an_attached_ollama_that_hangs_is_only_reported(ollama_world: OllamaWorld) -> None:
    world = ollama_world
    port = world.port()
    with running_ollama(world.folder / "theirs", port, binary=world.ollama) as theirs:
        liveness = {**QUICK, "timeout": "200ms", "failures": 1}
        world.run("apply", world.ollamas({"a": {"port": port, "liveness": liveness}}))
        row = health(world, "a", "healthy")
        assert (row["managed"], row["pid"]) == (False, theirs.pid)
        # Nothing is in memory, and nothing was loaded.
        assert ps(port) == {}

        kill(theirs.pid, signal.SIGSTOP)
        until_row(world, "a", lambda r: r["phase"] == "unready" or r["health"]["class"] == "down")
        kill(theirs.pid, signal.SIGCONT)

        until_phase(world, "a", "ready")
        assert health(world, "a", "healthy")["pid"] == theirs.pid
        assert alive(theirs.pid)
    assert not [e for e in world.events() if e["type"] in {"condemned", "stopping"}]
