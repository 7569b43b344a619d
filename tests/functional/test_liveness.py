"""What hangs is found and restarted; what is only busy is left to its work."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import socket
import time
from collections.abc import Callable, Generator

import pytest

from tests.fakes import fake
from tests.look import kill_daemon, pids, rows, until_phase, until_row
from tests.world import World, kill

QUICK = {"interval": "200ms", "timeout": "600ms", "failures": 3}


@pytest.mark.parametrize("how", ["stopped", "mute"])
def test_what_answers_nothing_and_does_nothing_hangs(world: World, how: str) -> None:
    """SIGSTOP leaves a listening socket that takes connections; so does a deadlock."""
    mute = world.folder / "mute"
    instance = {"liveness": QUICK} if how == "stopped" else fake(f"mute={mute}", liveness=QUICK)
    world.run("apply", world.profile({"a": instance, "b": {"liveness": QUICK}}))
    before = pids(world)
    began = time.monotonic()
    if how == "stopped":
        kill(before["a"], signal.SIGSTOP)
    else:
        mute.touch()
    until_row(world, "a", lambda r: r["pid"] not in (None, before["a"]) or r["phase"] == "backoff")
    # interval x failures + timeouts; the rest is what a loaded machine takes to look.
    assert time.monotonic() - began < 20
    hung = [e for e in world.events("a") if e["reason"] == "hung"]
    assert hung
    assert pids(world)["b"] == before["b"]
    mute.unlink(missing_ok=True)
    until_phase(world, "a", "ready")


def test_a_server_that_toils_and_answers_nothing_is_left_alone(world: World) -> None:
    toil = world.folder / "toil"
    world.run("apply", world.profile({"a": fake(f"toil={toil}", liveness=QUICK)}))
    pid = pids(world)["a"]
    port = rows(world)["a"]["port"]
    toil.touch()
    with contextlib.closing(socket.create_connection(("127.0.0.1", port))):
        watched_for_a_while(lambda: rows(world)["a"]["phase"] == "ready")
    assert pids(world)["a"] == pid
    toil.unlink()
    # Done with it, it is looked at like any other again.
    kill(pid, signal.SIGSTOP)
    until_row(world, "a", lambda r: r["phase"] == "ready" and r["pid"] != pid)


def test_a_real_server_whose_slots_all_generate_is_left_alone(any_world: World) -> None:
    world = any_world
    port = world.port()
    flags = {"context-shift": True, "ctx-size": 256, "parallel": 1}
    world.run("apply", world.profile({"a": {"port": port, "flags": flags, "liveness": QUICK}}))
    pid = pids(world)["a"]
    with contextlib.ExitStack() as streams:
        first = streams.enter_context(generating(port))
        # It has the one slot, and generates without end; the others wait for it.
        assert first.read(64)
        for _ in range(3):
            streams.enter_context(generating(port))
        watched_for_a_while(lambda: first.read(64))
    row = until_phase(world, "a", "ready")
    assert (row["pid"], row["restarts"]) == (pid, 0)
    assert not [e for e in world.events("a") if e["type"] == "condemned"]


def test_what_gets_well_while_no_daemon_looks_is_ready_again(world: World) -> None:
    sick = world.folder / "sick"
    patient = {**QUICK, "failures": 100}
    world.run("apply", world.profile({"a": fake(f"sick={sick}", liveness=patient)}))
    pid = pids(world)["a"]
    sick.touch()
    until_phase(world, "a", "unready")
    kill_daemon(world)
    sick.unlink()
    world.run("daemon", "start")
    assert until_phase(world, "a", "ready")["pid"] == pid


def watched_for_a_while(fine: Callable[[], object]) -> None:
    """As long as it would take to condemn an instance, twice."""
    until = time.monotonic() + 2 * 3 * (0.2 + 0.6)
    while time.monotonic() < until:
        assert fine()


@contextlib.contextmanager
def generating(port: int) -> Generator[Later]:
    """The stream of a generation that does not end by itself."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        body = {"prompt": "a", "n_predict": -1, "ignore_eos": True, "stream": True}
        connection.request("POST", "/completion", json.dumps(body))
        yield Later(connection)
    finally:
        connection.close()


class Later:
    """The answer, asked for when it is wanted: who waits for a slot gets none before."""

    def __init__(self, connection: http.client.HTTPConnection) -> None:
        self._connection = connection
        self._answer: http.client.HTTPResponse | None = None

    def read(self, count: int) -> bytes:
        self._answer = self._answer or self._connection.getresponse()
        return self._answer.read(count)
