"""Instances that die, hang or stay away behind the gateway, and what its clients see of that."""

from __future__ import annotations

import signal
import threading
from concurrent.futures import Future, ThreadPoolExecutor

from tests.fakes import fake
from tests.gateway_asking import Answer, ask, asked, completion, endless, gateway, lines
from tests.load import Beside
from tests.load import completion as raw_completion
from tests.look import kill_daemon, pids, rows, until_phase
from tests.world import World, kill

PATIENT = {"liveness": {"interval": "1h"}}
"""Nobody but the gateway finds out that it hangs."""


def in_flight(world: World) -> int:
    told = rows(world)["a"]["requests"]
    return told["in_flight"] if told else 0


def test_one_that_dies_before_its_first_byte_costs_nobody_anything(world: World) -> None:
    port = world.port()
    both = {"port": port, "routes": {"both": ["a", "b"]}}
    world.run("apply", world.profile({"a": PATIENT, "b": PATIENT}, gateway=both))
    pid = pids(world)["a"]
    # It takes what it is asked, and says nothing: so the request is under way when it dies.
    kill(pid, signal.SIGSTOP)
    with ThreadPoolExecutor(8) as clients:
        asking = [clients.submit(ask, port, completion("both")) for _ in range(8)]
        world.until(lambda: in_flight(world), "some wait for it")
        kill(pid)
        answers = [one.result() for one in asking]
    # By the other, or by its own next process where that was quicker.
    assert [one.status for one in answers] == [200] * 8
    assert {one.by for one in answers} <= {"a", "b"}
    world.until(lambda: any(line["retries"] for line in lines(world)), "it is logged")

    # With nobody else for it, a request waits for the next process.
    until_phase(world, "a", "ready")
    pid = pids(world)["a"]
    kill(pid, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as clients:
        asking_a: Future[Answer] = clients.submit(ask, port, completion("a"))
        world.until(lambda: in_flight(world), "it waits for it")
        kill(pid)
        assert (asking_a.result().status, asking_a.result().by) == (200, "a")
    assert pids(world)["a"] != pid


def test_a_stream_that_breaks_off_says_so(world: World) -> None:
    port = world.port()
    world.run("apply", world.profile({"a": PATIENT}, gateway={"port": port}))
    pid = pids(world)["a"]
    with asked(port, endless()) as stream:
        said = stream.read1()
        kill(pid, signal.SIGSTOP)
        kill(pid)
        said += stream.read()
    events = [line for line in said.split(b"\n\n") if line]
    assert len(events) > 1
    assert events[-1].startswith(b'data: {"error":{"message":"a broke off')
    assert ask(port, completion("a")).status == 200
    world.until(lambda: rows(world)["a"]["requests"]["failures"] == 1, "it is counted")

    # What is no stream must not look whole.
    world.until(
        lambda: [line["lost"] for line in lines(world) if "lost" in line] == [True], "one is lost"
    )


def test_one_that_hangs_is_not_waited_for_where_another_can(world: World) -> None:
    port = world.port()
    chat = {"to": ["a"], "fallback": ["b"], "slow": "3s"}
    one = {"port": port, "routes": {"chat": chat}}
    world.run("apply", world.profile({"a": PATIENT, "b": PATIENT}, gateway=one))
    assert ask(port, completion("chat")).by == "a"
    kill(pids(world)["a"], signal.SIGSTOP)
    for body in (completion("chat"), completion("chat", stream=True)):
        answer = ask(port, body)
        assert (answer.status, answer.by) == (200, "b")
    world.until(lambda: lines(world)[-1]["fallbacks"] == 1, "it is logged")
    kill(pids(world)["a"], signal.SIGCONT)
    world.until(lambda: ask(port, completion("chat")).by == "a", "it is asked again")


def test_what_cannot_come_is_not_waited_for(world: World) -> None:
    port = world.port()
    chat = {"to": ["a"], "fallback": ["b"]}
    broken = fake("exit=3", restart={"policy": "never"})
    instances = {"a": broken, "b": {"port": "auto"}}
    profile = world.profile(instances, gateway={"port": port, "routes": {"chat": chat}})
    assert world.run("apply", profile, ok=False).code != 0
    answer = ask(port, completion("a"))
    assert answer.status == 503
    assert int(answer.headers["retry-after"]) > 0
    # Whoever reads it knows what to do.
    assert "a is failed" in answer.error["message"]
    assert "the fake engine gives up" in answer.error["message"]
    assert "orchestrate status a" in answer.error["message"]
    assert ask(port, completion("chat")).by == "b"

    # All of them down, each with its cause; the gateway itself is well.
    world.run("stop", "b")
    answer = ask(port, completion("chat"))
    assert (answer.status, "retry-after" in answer.headers) == (503, True)
    assert ask(port, completion("b")).status == 503
    assert "stopped" in ask(port, completion("b")).error["message"]
    assert world.answers(port) == 200
    world.run("start", "b")
    assert ask(port, completion("chat")).by == "b"


def test_more_than_may_wait_are_told_to_come_again(world: World) -> None:
    port = world.port()
    queue = {"size": 2, "deadline": "30s"}
    one = {**PATIENT, "flags": {"parallel": 1}}
    world.run("apply", world.profile({"a": one}, gateway={"port": port, "queue": queue}))
    pid = pids(world)["a"]
    kill(pid, signal.SIGSTOP)
    with ThreadPoolExecutor(8) as clients:
        asking = [clients.submit(ask, port, completion("a")) for _ in range(8)]
        world.until(lambda: sum(one.done() for one in asking) == 5, "the others are refused")
        kill(pid, signal.SIGCONT)
        answers = [one.result() for one in asking]
    refused = [one for one in answers if one.status == 429]
    assert (len(refused), sum(one.status == 200 for one in answers)) == (5, 3)
    assert {"retry-after" in one.headers for one in refused} == {True}


def goes_on(world: World, load: Beside) -> None:
    seen = load.answered
    world.until(lambda: load.answered > seen + 10, "requests are answered")


def test_the_daemon_is_killed_under_load(world: World) -> None:
    port = world.port()
    profile = world.profile({"a": None, "b": None}, gateway={"port": port})
    world.run("apply", profile)
    before, pid = pids(world), gateway(world)["pid"]
    requests = [raw_completion("a"), raw_completion("b", stream=True, tokens=8)]
    with Beside(port, requests, a_second=20) as load:
        world.until(lambda: load.answered > 10)
        for _ in range(2):
            kill_daemon(world)
            goes_on(world, load)
            world.run("daemon", "start")
    assert load.wrong == []
    assert (pids(world), gateway(world)["pid"]) == (before, pid)


def test_clients_that_do_nothing_take_nothing_from_the_others(world: World) -> None:
    import socket

    port = world.port()
    world.run("apply", world.profile({"a": None}, gateway={"port": port}))
    half = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{"
    idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(300)]
    try:
        for one in idle[::2]:
            one.sendall(half)
        with ThreadPoolExecutor(4) as clients:
            asking = [clients.submit(ask, port, completion("a")) for _ in range(40)]
            assert {one.result().status for one in asking} == {200}
    finally:
        for one in idle:
            one.close()
    assert threading.active_count() < 10
