"""On demand: the first request starts an instance, idleness and others' needs stop it."""

from __future__ import annotations

import http.client
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import fake
from tests.look import kill_daemon, rows, status, until_phase, until_row
from tests.world import World, kill, listening

LONG = "1h"
"""Nothing is idle for so long in a test."""


def on_demand(idle: str = LONG, **more: Any) -> dict[str, Any]:
    return {"start": "on-demand", "idle": idle, **more}


class Asked:
    """An answer of the gateway."""

    def __init__(self, answer: http.client.HTTPResponse) -> None:
        self.code = answer.status
        self.instance = answer.headers.get("x-orchestrate-instance")
        self.retry_after = answer.headers.get("retry-after")
        self.body = answer.read().decode()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Gate(World):
    """A user's machine with a gateway in every profile."""

    gate = 0

    def declare(self, instances: dict[str, Any], **more: Any) -> Path:
        """A profile with these, applied."""
        self.gate = self.gate or self.port()
        path = self.profile(instances, gateway={"port": self.gate}, **more)
        self.run("apply", path)
        return path

    def ask(self, model: str, *, stream: bool = False, tokens: int = 4) -> Asked:
        """A completion by way of the gateway."""
        connection = http.client.HTTPConnection("127.0.0.1", self.gate, timeout=60)
        body = {"model": model, "prompt": "hot", "max_tokens": tokens, "stream": stream}
        try:
            headers = {"content-type": "application/json"}
            connection.request("POST", "/v1/completions", json.dumps(body), headers)
            return Asked(connection.getresponse())
        finally:
            connection.close()

    def starts(self, name: str) -> int:
        return sum(event["type"] == "spawned" for event in self.events(name))


@pytest.fixture
def world(world: World) -> Gate:
    world.__class__ = Gate
    assert isinstance(world, Gate)
    return world


def slow_engine(world: World, until: Path) -> str:
    """The real engine, that begins once a file is there."""
    real = world.env["ORCHESTRATE_LLAMA_SERVER"]
    script = f"""#!/bin/sh
case "$*" in *--help*|*--version*) exec {real} "$@";; esac
while [ ! -e {until} ]; do sleep 0.02; done
exec {real} "$@"
"""
    path = world.write("slow-llama-server", script)
    path.chmod(0o755)
    return str(path)


def test_nothing_runs_until_the_first_request_and_that_is_converged(world: Gate) -> None:
    path = world.declare({"a": on_demand(), "b": None})
    assert (rows(world)["a"]["phase"], rows(world)["a"]["reason"]) == ("stopped", "idle")
    assert status(world)["converged"]
    assert "1 of 2 ready, 1 idle" in world.run("status").out
    assert world.run("status", "--check").code == 0
    assert world.run("wait", "a", "b", "--timeout", "5s").code == 0
    answer = world.ask("a")
    assert (answer.code, answer.instance) == (200, "a")
    # What runs stays, and what is at rest is not started by an apply.
    pid = rows(world)["a"]["pid"]
    world.run("apply", path)
    assert rows(world)["a"]["pid"] == pid
    assert "asked for by a request" in {event["message"] for event in world.events("a")}


def test_many_requests_at_once_start_it_once(world: Gate) -> None:
    world.declare({"a": on_demand(flags={"parallel": 2})})
    with ThreadPoolExecutor(10) as threads:
        answers = list(threads.map(lambda _: world.ask("a"), range(10)))
    assert {answer.code for answer in answers} == {200}
    assert world.starts("a") == 1


def test_what_nobody_uses_is_stopped_and_comes_back(world: Gate) -> None:
    world.declare({"a": on_demand("1s")})
    assert world.ask("a").code == 200
    row = until_row(world, "a", lambda r: (r["phase"], r["reason"]) == ("stopped", "idle"))
    assert row["message"] == "nobody has used it for 1s"
    assert status(world)["converged"]
    assert world.ask("a").code == 200
    assert world.starts("a") == 2


def test_no_request_fails_however_often_it_is_just_being_stopped(world: Gate) -> None:
    """Requests come at about the time at which it is idle, before it and after it."""
    world.declare({"a": on_demand("1s")})
    for pause in (0.9, 0.95, 1.0, 1.0, 1.05, 1.1, 1.15, 1.2, 1.3, 1.5):
        end = time.monotonic() + pause
        while time.monotonic() < end:
            assert rows(world)["a"]["phase"] in ("ready", "stopping", "stopped", "starting")
        assert world.ask("a").code == 200
    assert world.starts("a") > 1, "it has been stopped in between"


def test_what_is_at_work_is_not_idle(world: Gate) -> None:
    busy = world.folder / "busy"
    world.declare({"a": {**fake(f"toil={busy}"), **on_demand("1s")}})
    assert world.ask("a").code == 200
    busy.touch()
    with ThreadPoolExecutor(1) as thread:
        asking = thread.submit(world.ask, "a")
        end = time.monotonic() + 3
        while time.monotonic() < end:
            assert rows(world)["a"]["phase"] in ("ready", "unready")
        busy.unlink()
        assert asking.result().code == 200
    until_phase(world, "a", "stopped")


def test_what_nobody_can_ask_for_is_idle_too(world: Gate) -> None:
    world.declare({"a": on_demand("1s")})
    assert world.ask("a").code == 200
    world.run("stop", "gateway")
    until_phase(world, "a", "stopped")


def test_requests_past_the_gateway_are_use_as_well(world: Gate) -> None:
    world.declare({"a": on_demand("1s", flags={"ctx-size": 8192})})
    world.ask("a")
    port = rows(world)["a"]["port"]
    end = time.monotonic() + 4
    while time.monotonic() < end:
        world.complete(port, tokens=50)
    assert world.starts("a") == 1
    assert rows(world)["a"]["phase"] == "ready"
    until_phase(world, "a", "stopped")


def test_the_least_recently_used_makes_room_and_never_what_is_pinned(world: Gate) -> None:
    world.env["ORCHESTRATE_MEMORY"] = "1GiB"
    big: dict[str, Any] = {"resources": {"memory": "400MiB"}}
    world.declare(
        {
            "old": on_demand(**big, pin=True),
            "a": on_demand(**big),
            "b": on_demand(**big),
        }
    )
    for name in ("old", "a", "b"):
        assert world.ask(name).code == 200
    gone = rows(world)["a"]
    assert (gone["phase"], gone["reason"], gone["message"]) == (
        "stopped",
        "idle",
        "makes room for b",
    )
    assert world.ask("a").code == 200
    assert (rows(world)["b"]["phase"], rows(world)["old"]["phase"]) == ("stopped", "ready")
    assert status(world)["converged"]


def test_what_can_never_fit_beside_the_others_is_refused(world: Gate) -> None:
    world.env["ORCHESTRATE_MEMORY"] = "1GiB"
    many = {name: on_demand(resources={"memory": "700MiB"}) for name in "abc"}
    assert world.run("plan", world.profile(many)).code == 0
    always = {"z": {"resources": {"memory": "400MiB"}}}
    ran = world.run("plan", world.profile({**many, **always}), ok=False)
    assert ran.code == 2
    assert "together these instances need 1.1GiB of memory" in ran.err


def test_the_cause_of_a_failed_start_is_the_answer_at_once(world: Gate) -> None:
    mended = world.folder / "mended"
    world.declare({"a": {**fake(f"exit=1,unless={mended}"), "start": "on-demand"}})
    began = time.monotonic()
    answer = world.ask("a")
    assert answer.code == 503
    assert time.monotonic() - began < 20
    assert "a is backoff, crashed" in answer.json["error"]["message"]
    assert "the fake engine gives up" in answer.json["error"]["message"]
    assert answer.retry_after is not None
    # By hand, as anything else that has failed.
    mended.touch()
    world.run("restart", "a")
    assert rows(world)["a"]["phase"] == "ready"


def test_what_cannot_come_up_at_all_is_not_tried_for_each_request(world: Gate) -> None:
    broken = world.write("broken.gguf", "GGUF").with_suffix(".gguf")
    good = world.model.read_bytes()
    broken.write_bytes(good)
    world.declare({"a": on_demand(model=str(broken))})
    broken.write_bytes(good[:5000])
    answers = [world.ask("a") for _ in range(3)]
    assert {answer.code for answer in answers} == {503}
    assert {answer.json["error"]["code"] for answer in answers} == {"model-unreadable"}
    assert world.starts("a") == 1
    # Once the file is whole again, the next request is answered.
    broken.write_bytes(good)
    until_row(world, "a", lambda r: r["reason"] == "idle")
    assert world.ask("a").code == 200


@pytest.mark.parametrize("starts_anew", [True, False])
def test_a_daemon_that_dies_in_the_middle_loses_no_request(world: Gate, starts_anew: bool) -> None:
    go = world.folder / "go"
    slow = {**on_demand(), "binary": slow_engine(world, go)}
    world.declare({"a": slow})
    with ThreadPoolExecutor(1) as thread:
        asking = thread.submit(world.ask, "a")
        until_phase(world, "a", "starting")
        kill_daemon(world)
        if not starts_anew:
            go.touch()
        world.run("daemon", "start")
        go.touch()
        assert asking.result().code == 200
    assert world.starts("a") == 1


def test_a_request_while_there_is_no_daemon_waits_for_the_next(world: Gate) -> None:
    world.declare({"a": on_demand()})
    kill_daemon(world)
    with ThreadPoolExecutor(1) as thread:
        asking = thread.submit(world.ask, "a")
        world.run("daemon", "start")
        assert asking.result().code == 200


def test_a_stranger_on_the_port_that_was_chosen_for_it_costs_no_request(world: Gate) -> None:
    world.declare({"a": on_demand()})
    port = rows(world)["a"]["port"]
    with listening(port):
        assert world.ask("a").code == 200
        assert rows(world)["a"]["port"] != port


def test_by_hand_it_is_started_held_and_let_go_of(world: Gate) -> None:
    path = world.declare({"a": on_demand()})
    world.run("start", "a")
    assert rows(world)["a"]["phase"] == "ready"
    world.run("stop", "a")
    answer = world.ask("a")
    assert (answer.code, "held" in answer.body) == (503, True)
    world.run("apply", path)
    assert rows(world)["a"]["reason"] == "idle"
    assert world.ask("a").code == 200
    kill(rows(world)["a"]["pid"])
    until_phase(world, "a", "ready")


def test_preload_starts_it_with_the_apply(world: Gate) -> None:
    path = world.declare({"a": on_demand("1s", preload=True), "b": on_demand()})
    assert world.starts("a") == 1
    until_phase(world, "a", "stopped")
    world.run("apply", path)
    assert world.starts("a") == 2
    assert world.starts("b") == 0


def test_how_it_is_started_changes_in_place(world: Gate) -> None:
    world.declare({"a": None})
    world.profile({"a": on_demand("1s")}, gateway={"port": world.gate})
    until_phase(world, "a", "stopped")
    told = {event["type"]: event for event in world.events("a")}
    assert told["updated"]["message"] == "start: always -> on-demand; idle: 1s (new)"
    assert told["stopping"]["reason"] == "idle", "its process stayed until then"
    world.profile({"a": None}, gateway={"port": world.gate})
    until_phase(world, "a", "ready")


# --- streams --------------------------------------------------------------------------------------


def stream_while_it_starts(world: Gate, model: str, go: Path) -> list[str]:
    """The lines of a stream whose instance begins to load once the client has heard of it."""
    connection = http.client.HTTPConnection("127.0.0.1", world.gate, timeout=60)
    body = {"model": model, "prompt": "hot", "max_tokens": 4, "stream": True}
    connection.request(
        "POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"}
    )
    answer = connection.getresponse()
    assert answer.headers["content-type"].startswith("text/event-stream")
    first = answer.readline().decode()
    go.touch()
    lines = [first, *answer.read().decode().splitlines()]
    connection.close()
    return [line.strip() for line in lines if line.strip()]


def test_a_stream_hears_of_the_start_that_it_waits_for(world: Gate) -> None:
    go = world.folder / "go"
    world.declare({"a": {**on_demand(), "binary": slow_engine(world, go)}})
    lines = stream_while_it_starts(world, "a", go)
    assert lines[0] == ": waiting for a to start"
    pieces = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    assert any(piece.get("choices") and piece["choices"][0]["text"] for piece in pieces), lines
    assert lines[-1] == "data: [DONE]"
    assert world.ask("a", stream=True).body.startswith("data: "), "no comment for what runs"


def test_an_error_after_that_is_an_event_of_the_stream(world: Gate) -> None:
    go = world.folder / "go"
    world.declare({"a": {**fake(f"loads={go}"), "start": "on-demand"}})
    lines = stream_while_it_starts(world, "a", go)
    assert lines[0] == ": waiting for a to start"
    error = json.loads(lines[-1].removeprefix("data: "))["error"]
    assert error["message"] == "a has answered 200, and no stream"


def test_a_gateway_that_ends_after_that_says_so_in_the_stream(world: Gate) -> None:
    never = world.folder / "never"
    world.declare({"a": {**fake(f"loads={never}"), **on_demand()}})
    connection = http.client.HTTPConnection("127.0.0.1", world.gate, timeout=60)
    body = json.dumps({"model": "a", "prompt": "hot", "stream": True})
    connection.request("POST", "/v1/completions", body, {"content-type": "application/json"})
    # Its head comes with the first comment.
    answer = connection.getresponse()
    world.run("stop", "gateway")
    assert "the gateway ends before this was answered" in answer.read().decode()
    connection.close()


def test_a_start_that_fails_after_that_is_an_event_too(world: Gate) -> None:
    go = world.folder / "go"
    script = f"#!/bin/sh\nwhile [ ! -e {go} ]; do sleep 0.02; done\nexit 3\n"
    real = world.env["ORCHESTRATE_LLAMA_SERVER"]
    script = script.replace("\n", f'\ncase "$*" in *--help*) exec {real} "$@";; esac\n', 1)
    path = world.write("ends", script)
    path.chmod(0o755)
    world.declare({"a": {**on_demand(), "binary": str(path)}})
    lines = stream_while_it_starts(world, "a", go)
    error = json.loads(lines[-1].removeprefix("data: "))["error"]
    assert "a is backoff, crashed: exited with code 3" in error["message"]


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("instances", "said", "hint"),
    [
        (
            {"a": {"idle": "15m"}},
            "'idle' of instance 'a' goes with 'start: on-demand'",
            "add 'start: on-demand'",
        ),
        (
            {"a": {"start": "on-demand"}, "b": {"needs": ["a"]}},
            "instance 'b' needs 'a', which runs on demand only",
            "remove 'start: on-demand' from 'a'",
        ),
        (
            {"o": {"engine": "ollama", "start": "on-demand"}},
            "unknown key 'start' in instance 'o'",
            "an Ollama loads its models on demand by itself",
        ),
        ({"a": {"start": "lazy"}}, "unknown way to start 'lazy'", "on-demand"),
        ({"a": {"start": "on-demand", "idle": 0}}, "expected a duration of at least 1s", ""),
    ],
)
def test_what_makes_no_sense_is_refused(
    world: Gate, instances: dict[str, Any], said: str, hint: str
) -> None:
    path = world.profile(instances)
    if "o" in instances:
        lines = path.read_text().splitlines()
        path.write_text("\n".join(line for line in lines if "model:" not in line))
    ran = world.run("validate", path, ok=False)
    assert ran.code == 2
    assert said in ran.err
    assert hint in ran.err


def test_a_profile_without_a_gateway_is_warned_of(world: Gate) -> None:
    alone = world.profile({"a": on_demand(), "b": on_demand()}, name="alone.yaml")
    ran = world.run("validate", alone)
    assert ran.err.count("no gateway is declared") == 1
    beside = world.profile({}, name="beside.yaml", gateway={"port": world.port()})
    assert world.run("validate", alone, beside).err == ""
