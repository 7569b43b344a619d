"""The gateway as people use it: declared, asked, edited, restarted, ended."""

from __future__ import annotations

import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from tests.gateway_asking import ask, asked, completion, endless, gateway, lines
from tests.look import kill_daemon, owned, pids, rows, status, until_phase
from tests.world import World, alive, kill, listening


def test_one_address_for_every_model(world: World) -> None:
    port = world.port()
    one = {"port": "auto", "flags": {"alias": "quick,Fast"}}
    profile = world.profile({"a": one, "b": {"port": "auto"}}, gateway={"port": port})
    assert "gateway: ready" in world.run("apply", profile).out
    for name, served_by in (
        ("a", {"a"}),
        ("A", {"a"}),
        ("quick", {"a"}),
        ("fast", {"a"}),
        ("b", {"b"}),
        ("b:latest", {"b"}),
        ("tiny.gguf", {"a", "b"}),
    ):
        answer = ask(port, completion(name))
        assert (answer.status, answer.json["object"]) == (200, "text_completion"), name
        assert answer.by in served_by
        assert answer.headers["x-request-id"]
    listed = {row["id"]: row for row in ask(port, path="/v1/models").json["data"]}
    assert {"a", "quick", "Fast", "tiny", "b"} <= set(listed)
    assert listed["tiny"]["instances"] == ["a", "b"]

    # Wrong ones: with the nearest names, in the form of the protocol, and no instance is asked.
    answer = ask(port, completion("quikc"))
    assert (answer.status, answer.error["code"]) == (404, "model-not-found")
    assert "quick" in answer.error["message"]
    assert ask(port, b'{"model": "a"').status == 400
    assert ask(port, b"[1]").status == 400
    assert ask(port, b"\xff\xfe").status == 400
    assert ask(port, b"[" * 100_000).status == 400
    assert "one of" in ask(port, b"{}").error["message"]
    assert ask(port, path="/nowhere").status == 404
    assert ask(port, path="/instances/c/props").status == 404
    assert ask(port, path="/instances/b/props").json["total_slots"] == 4

    # What it does is seen, and not among the instances.
    assert set(rows(world)) == {"a", "b"}
    document = json.loads(world.run("status", "--json").out)
    assert document["gateway"]["phase"] == "ready"
    assert document["gateway"]["url"].endswith(f":{port}")
    assert "gateway: ready" in world.run("status").out
    world.until(lambda: rows(world)["a"]["requests"]["requests"] >= 4, "figures come")
    seen = lines(world)
    assert {"model": "quick", "instance": "a", "status": 200}.items() <= seen[2].items()
    assert not any("hot" in json.dumps(line) for line in seen), "what was said is nobody's"

    world.run("down")
    assert world.answers(port) is None
    assert owned(world) == {}


def test_a_body_beyond_all_bounds_is_refused_and_that_can_be_read(world: World) -> None:
    port = world.port()
    world.run("apply", world.profile({"a": None}, gateway={"port": port}))
    pid = gateway(world)["pid"]
    answer = ask(port, completion("a", prompt="x" * (70 << 20)))
    assert (answer.status, answer.error["code"]) == (413, "too-large")
    assert ask(port, completion("a")).status == 200
    assert gateway(world)["pid"] == pid


def test_with_a_token_only_who_has_it_is_let_in(world: World) -> None:
    port = world.port()
    profile = world.profile({"a": None}, gateway={"port": port, "token": "${env:WORD}"})
    world.run("apply", profile, WORD="swordfish")
    for headers in ({}, {"Authorization": "Bearer sword"}, {"X_Api_Key": "x"}):
        answer = ask(port, completion("a"), **headers)
        assert (answer.status, answer.error["code"]) == (401, "unauthorized")
    assert ask(port, completion("a"), Authorization="Bearer swordfish").status == 200
    assert ask(port, completion("a"), X_Api_Key="swordfish").status == 200
    assert world.answers(port, "/health") == 200
    for text in (world.run("status", "--json").out, world.run("logs", "gateway").out):
        assert "swordfish" not in text


def test_a_client_that_leaves_ends_what_is_generated_for_it(world: World) -> None:
    port = world.port()
    world.run("apply", world.profile({"a": {"port": "auto"}}, gateway={"port": port}))

    def busy() -> int:
        slots = ask(port, path="/instances/a/slots").json
        return sum(slot["is_processing"] for slot in slots)

    log = world.state / "logs" / "a.log"
    for count, body in enumerate((endless(), endless(stream=False)), start=1):
        with socket.create_connection(("127.0.0.1", port)) as client:
            head = (
                f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
            )
            client.sendall(head.encode() + body)
            world.until(busy, "it generates")
        # Not seen by asking: while others ask, llama-server does not look whether its client left.
        told = f"cancelled {count}"
        world.until(partial(_cancelled, log, count), told)
    world.until(lambda: not busy(), "nothing is generated any more")


def _cancelled(log: Path, count: int) -> bool:
    return log.read_text().count("cancel task") >= count


def test_edits_of_the_gateway(world: World) -> None:
    port, other = world.port(), world.port()
    instances = {"a": {"port": "auto"}, "b": {"port": "auto"}}
    world.run("apply", world.profile(instances, gateway={"port": port}))
    before, pid = pids(world), gateway(world)["pid"]
    assert ask(port, completion("chat")).status == 404

    # Routes, the queue and who may ask are live: the process stays, and every answer under way.
    with asked(port, endless()) as stream:
        assert stream.read(1)
        routes = {"chat": ["b"]}
        edited = {"port": port, "routes": routes, "hosts": ["models.test"], "queue": {"size": 7}}
        world.profile(instances, gateway=edited)
        world.until(lambda: ask(port, completion("chat")).status == 200, "the route is there")
        assert stream.read(1)
    assert ask(port, completion("chat")).by == "b"
    assert ask(port, path="/v1/models", Host="models.test").status == 200
    assert ask(port, path="/v1/models", Host="evil.test").status == 403
    assert gateway(world)["pid"] == pid

    # What does not hold is said, and changes nothing.
    wrong = world.profile(instances, gateway={"port": port, "routes": {"chat": ["c"]}})
    world.until(lambda: not status(world)["profiles"][0]["ok"], "it is said")
    ran = world.run("apply", wrong, ok=False)
    assert (ran.code, "'c'" in ran.err) == (2, True)
    assert ask(port, completion("chat")).by == "b"

    # Another port is another process, and no instance feels it.
    world.profile(instances, gateway={"port": other})
    world.until(lambda: world.answers(other) == 200 and status(world)["converged"], "it moves")
    assert ask(other, completion("a")).status == 200
    assert world.answers(port) is None
    assert not alive(pid)

    # Without one, nothing of it is left.
    world.profile(instances)
    world.until(lambda: world.answers(other) is None, "it ends")
    world.until(lambda: status(world)["gateway"] is None, "and is not shown")
    assert pids(world) == before


def test_several_profiles_may_say_the_same_gateway(world: World) -> None:
    port = world.port()
    one = world.profile({"a": None}, name="one.yaml", gateway={"port": port})
    two = world.profile({"b": None}, name="two.yaml", gateway={"port": port})
    world.run("apply", one, two)
    assert {ask(port, completion(name)).by for name in ("a", "b")} == {"a", "b"}
    other = world.profile({"c": None}, name="three.yaml", gateway={"port": world.port()})
    ran = world.run("apply", one, two, other, ok=False)
    assert ran.code == 2
    assert "gateway" in ran.err
    world.run("remove", "one")
    world.until(lambda: set(rows(world)) == {"b"})
    assert ask(port, completion("b")).status == 200
    assert ask(port, completion("a")).status == 404


def test_a_port_that_is_taken(world: World) -> None:
    port = world.port()
    with listening(port):
        ran = world.run("apply", world.profile({"a": None}, gateway={"port": port}), ok=False)
        assert ran.code != 0
        assert str(port) in ran.out + ran.err
        assert rows(world)["a"]["phase"] == "ready"
    world.until(lambda: world.answers(port) == 200, "it takes the port once that is free")
    assert ask(port, completion("a")).status == 200


def test_the_gateway_outlives_the_daemon(world: World) -> None:
    port = world.port()
    profile = world.profile({"a": {"port": "auto"}}, gateway={"port": port})
    world.run("apply", profile)
    before, pid = pids(world), gateway(world)["pid"]
    with asked(port, endless()) as stream, ThreadPoolExecutor(4) as others:
        assert stream.read(1)
        kill_daemon(world)
        asking = [others.submit(ask, port, completion("a")) for _ in range(20)]
        assert {one.result().status for one in asking} == {200}
        assert stream.read(1)
        world.run("daemon", "start")
        assert gateway(world)["pid"] == pid
        assert stream.read(1)
    assert pids(world) == before
    # The next daemon is heard: an edit reaches it.
    world.profile({"a": {"port": "auto"}, "b": None}, gateway={"port": port})
    world.until(lambda: ask(port, completion("b")).status == 200, "the table is followed")
    assert gateway(world)["pid"] == pid


def test_a_killed_gateway_comes_back(world: World) -> None:
    port = world.port()
    world.run("apply", world.profile({"a": None}, gateway={"port": port}))
    before, pid = pids(world), gateway(world)["pid"]
    kill(pid)
    world.until(lambda: gateway(world)["pid"] not in (None, pid), "another process")
    world.until(lambda: world.answers(port) == 200, "it answers")
    assert ask(port, completion("a")).status == 200
    assert pids(world) == before

    world.run("restart", "gateway")
    assert ask(port, completion("a")).status == 200


def test_what_is_under_way_may_end_when_the_gateway_is_told_to(world: World) -> None:
    port = world.port()
    world.run("apply", world.profile({"a": None}, gateway={"port": port}))
    said: list[bytes] = []

    def read_all() -> None:
        with asked(port, completion("a", tokens=40, ignore_eos=True, stream=True)) as stream:
            began.set()
            said.append(stream.read())

    began = threading.Event()
    reader = threading.Thread(target=read_all)
    reader.start()
    began.wait(20)
    world.run("restart", "gateway")
    reader.join()
    assert said[0].rstrip().endswith(b"data: [DONE]")
    until_phase(world, "a", "ready")
