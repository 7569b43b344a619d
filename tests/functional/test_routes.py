"""Who serves a name, and who else does when that one cannot: real gateway, real engines."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests import elsewhere
from tests.fakes import fake
from tests.look import pids, status, until_row
from tests.world import World


class Gateway:
    """A client of the gateway."""

    def __init__(self, port: int) -> None:
        self.port = port

    def ask(
        self, model: str, *, path: str = "/v1/completions", headers: Mapping[str, str] | None = None
    ) -> tuple[int, dict[str, str], Any]:
        """Status, headers by small names, and the body of an answer."""
        prompt: dict[str, Any] = {"prompt": "a", "max_tokens": 1}
        if path.startswith("/v1/chat") or path == "/api/chat":
            prompt = {"messages": [{"role": "user", "content": "a"}], "max_tokens": 1}
            prompt |= {"stream": False} if path == "/api/chat" else {}
        body = json.dumps({"model": model, **prompt}).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            data=body,
            headers={"content-type": "application/json", **(headers or {})},
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                raw, code, said = answer.read(), answer.status, answer.headers
        except urllib.error.HTTPError as error:
            with error:
                raw, code, said = error.read(), error.code, error.headers
        return code, {k.lower(): v for k, v in said.items()}, json.loads(raw)

    def served_by(self, model: str, **more: Any) -> str:
        code, said, body = self.ask(model, **more)
        assert code == 200, body
        return said["x-orchestrate-instance"]


def session(number: int) -> dict[str, str]:
    return {"x-session-id": str(number)}


def applied(
    world: World, instances: dict[str, Any], gateway: dict[str, Any], **env: Any
) -> Gateway:
    port = world.port()
    world.run("apply", world.profile(instances, gateway={"port": port, **gateway}), **env)
    return Gateway(port)


def test_replicas_serve_one_name_and_a_change_of_their_number_touches_no_other(
    world: World,
) -> None:
    gateway = applied(world, {"coder": {"replicas": 2}, "b": {"needs": ["coder"]}}, {})
    before = pids(world)
    assert set(before) == {"coder-1", "coder-2", "b"}
    assert {gateway.served_by("coder", headers=session(n)) for n in range(16)} == {
        "coder-1",
        "coder-2",
    }
    assert gateway.served_by("coder-2") == "coder-2"
    code, headers, _ = gateway.ask("", path="/instances/coder/completion")
    assert (code, headers["x-orchestrate-instance"][:6]) == (200, "coder-")

    more = {"coder": {"replicas": 3}, "b": {"needs": ["coder"]}}
    world.run("apply", world.profile(more, gateway={"port": gateway.port}))
    after = pids(world)
    assert set(after) == {*before, "coder-3"}
    assert {name: after[name] for name in before} == before

    said = world.run("restart", "coder", "--json").json["outcomes"]
    assert sorted(one["instance"] for one in said) == ["coder-1", "coder-2", "coder-3"]
    assert not set(before[name] for name in ("coder-1", "coder-2")) & set(pids(world).values())
    assert pids(world)["b"] == before["b"]
    shown = world.run("status", "coder", "--json").json["instances"]
    assert [one["replica_of"] for one in shown] == ["coder"] * 3
    assert "coder-1, coder-2, coder-3" in world.run("logs", "coder", ok=False).err

    world.run("apply", world.profile({"coder": {"replicas": 1}}, gateway={"port": gateway.port}))
    assert set(pids(world)) == {"coder-1"}


def test_weights_are_kept_exactly_and_a_session_stays_with_its_side(world: World) -> None:
    to = [{"instance": "old", "weight": 9}, {"instance": "new", "weight": 1}]
    routes = {"chat": {"to": to}, "none": {"to": [{"instance": "old", "weight": 0}, "new"]}}
    gateway = applied(world, {"old": None, "new": None}, {"routes": routes})
    served = Counter(gateway.served_by("chat") for _ in range(50))
    assert served == {"old": 45, "new": 5}
    sessions = {
        n: {gateway.served_by("chat", headers=session(n)) for _ in range(3)} for n in (1, 2)
    }
    assert all(len(one) == 1 for one in sessions.values())
    assert {gateway.served_by("none") for _ in range(8)} == {"new"}


def test_the_same_beginning_goes_to_the_same_instance(world: World) -> None:
    gateway = applied(world, {"a": {"replicas": 3}}, {})
    one = {gateway.served_by("a", path="/v1/chat/completions") for _ in range(6)}
    assert len(one) == 1


FALLS = {
    "failing, by its answers": ({"refuse": "503"}, {}),
    "failing, by its connections": ({"cut": ""}, {}),
    "slow to begin": ({"late": "2"}, {"slow": "200ms"}),
    "slow after its head": ({"silent": "2"}, {"slow": "200ms"}),
    "overloaded, as it says": ({"refuse": "429"}, {}),
}


@pytest.mark.parametrize("how", FALLS)
def test_what_cannot_serve_is_fallen_back_from(world: World, how: str) -> None:
    words, route = FALLS[how]
    said = [f"{word}={value}" if value else word for word, value in words.items()]
    gateway = applied(
        world,
        {"a": fake(*said), "b": None},
        {"routes": {"chat": {"to": ["a"], "fallback": ["b"], **route}}},
    )
    assert gateway.served_by("chat") == "b"


def test_a_fault_of_the_client_is_its_own_and_so_is_what_the_route_does_not_name(
    world: World,
) -> None:
    routes = {
        "wrong": {"to": ["a"], "fallback": ["c"]},
        "chat": {"to": ["b"], "fallback": ["c"], "on": ["down"]},
    }
    instances = {"a": fake("refuse=400"), "b": fake("refuse=503"), "c": None}
    gateway = applied(world, instances, {"routes": routes})
    assert gateway.ask("wrong")[0] == 400
    assert gateway.ask("chat")[0] == 503
    world.run("stop", "b")
    assert gateway.served_by("chat") == "c"


def test_what_is_down_falls_back_and_with_nobody_left_the_causes_are_told(world: World) -> None:
    routes = {"chat": {"to": ["a"], "fallback": ["second"]}, "second": {"to": ["b"]}}
    gateway = applied(world, {"a": None, "b": None}, {"routes": routes})
    assert gateway.served_by("chat") == "a"
    world.run("stop", "a")
    assert gateway.served_by("chat") == "b"
    world.run("stop", "b")
    code, headers, body = gateway.ask("chat")
    assert code == 503
    assert "retry-after" in headers
    assert "a is stopped, held" in body["error"]["message"]
    assert "b is stopped, held" in body["error"]["message"]


def test_busy_slots_fall_back_and_a_full_line_is_refused_with_a_time(world: World) -> None:
    busy = {**fake("late=3"), "flags": {"parallel": 1}}
    gateway = applied(
        world,
        {"a": busy, "b": None},
        {
            "queue": {"size": 1, "deadline": "10s"},
            "routes": {"chat": {"to": ["a"], "fallback": ["b"], "slow": "200ms"}},
        },
    )
    began = [threading.Thread(target=gateway.ask, args=("a",)) for _ in range(2)]
    began[0].start()
    until_gateway(world, in_flight=1)
    assert gateway.served_by("chat") == "b"
    began[1].start()
    until_gateway(world, waiting=1)
    code, headers, body = gateway.ask("a")
    assert (code, body["error"]["code"]) == (429, "overloaded")
    assert 1 <= int(headers["retry-after"]) <= 60
    for one in began:
        one.join()


def until_gateway(world: World, **counts: int) -> None:
    def so() -> bool:
        requests = status(world)["gateway"]["requests"] or {}
        return all(requests.get(name) == count for name, count in counts.items())

    world.until(so, f"{counts}")


def in_the_cloud(port: int, **more: Any) -> dict[str, Any]:
    cloud = {"url": f"https://localhost:{port}/api/v1", "key": "${env:CLOUD_KEY}", "model": "big"}
    routes = {"chat": {"to": ["a"], "fallback": ["sky"]}}
    return {"cloud": {"sky": {**cloud, **more}}, "routes": routes}


def test_a_cloud_serves_what_nobody_here_does(world: World, tmp_path: Path) -> None:
    pair = elsewhere.certificate(tmp_path)
    port = world.port()
    with elsewhere.running(port, pair) as cloud:
        gateway = applied(
            world,
            {"a": None},
            {**in_the_cloud(port), "tokens": {"ci": {"token": "t-1", "priority": "low"}}},
            CLOUD_KEY=elsewhere.KEY,
            SSL_CERT_FILE=str(pair[0]),
        )
        mine = {"authorization": "Bearer t-1", "cookie": "c=1"}
        assert gateway.ask("chat")[0] == 401
        assert gateway.served_by("chat", headers=mine) == "a"
        assert not cloud.paths
        world.run("stop", "a")
        code, headers, body = gateway.ask("chat", path="/v1/chat/completions", headers=mine)
        assert (code, headers["x-orchestrate-instance"]) == (200, "cloud:sky")
        assert body["choices"][0]["message"]["content"] == "from elsewhere"
        assert "set-cookie" not in headers
        assert cloud.paths == ["/api/v1/chat/completions"]
        assert cloud.bodies[0]["model"] == "big"
        assert cloud.headers[0]["host"] == f"localhost:{port}"
        assert "t-1" not in json.dumps(cloud.headers)
        assert "cookie" not in cloud.headers[0]
        # A client of Ollama is served there as well, in its own words.
        code, headers, body = gateway.ask("chat", path="/api/chat", headers=mine)
        assert (code, headers["x-orchestrate-instance"]) == (200, "cloud:sky")
        assert body["message"]["content"] == "from elsewhere"
        cloud.status = 500
        assert gateway.ask("chat", headers=mine)[0] == 500

    code, _, body = gateway.ask("chat", headers=mine)
    assert code == 503
    assert "a is stopped, held" in body["error"]["message"]
    assert "cloud:sky: nothing answers at localhost" in body["error"]["message"]
    assert "/v1/models" not in body
    said = (
        world.run("status", "--json").out
        + world.run("plan", world.folder / "p.yaml", CLOUD_KEY="x").out
    )
    said += world.run("logs", "gateway").out
    assert elsewhere.KEY not in said
    assert "t-1" not in said
    lines = [
        json.loads(one) for one in world.run("logs", "gateway").out.splitlines() if one[:1] == "{"
    ]
    assert {one["client"] for one in lines if one["status"] == 200} == {"ci"}


def test_a_cloud_that_refuses_the_key_is_told_plainly(world: World, tmp_path: Path) -> None:
    port = world.port()
    with elsewhere.running(port):
        gateway = applied(
            world,
            {"a": fake("refuse=503")},
            in_the_cloud(port, url=f"http://127.0.0.1:{port}/v1"),
            CLOUD_KEY="sk-wrong",
        )
        code, _, body = gateway.ask("chat")
    assert code == 502
    assert "cloud:sky has answered 401: it refuses our key" in body["error"]["message"]
    assert "sk-wrong" not in json.dumps(body)


def test_a_certificate_that_nobody_vouches_for_is_no_cloud(world: World, tmp_path: Path) -> None:
    port = world.port()
    with elsewhere.running(port, elsewhere.certificate(tmp_path)) as cloud:
        gateway = applied(world, {"a": fake("cut")}, in_the_cloud(port), CLOUD_KEY=elsewhere.KEY)
        code, _, body = gateway.ask("chat")
    assert code == 502
    assert "certificate verify failed" in body["error"]["message"]
    assert not cloud.paths


def test_a_name_that_falls_back_too_often_is_an_alert_that_passes(world: World) -> None:
    gateway = applied(
        world,
        {"a": None, "b": None},
        {"fallback": {"warn": "50%"}, "routes": {"chat": {"to": ["a"], "fallback": ["b"]}}},
    )
    world.run("stop", "a")
    for _ in range(10):
        assert gateway.served_by("chat") == "b"

    def alerts() -> list[str]:
        return [one["message"] for one in status(world)["gateway"]["alerts"]]

    said = world.until(alerts, "an alert")
    assert said == ["more than 50% of what asks for chat is served by a fallback"]
    assert said[0] in world.run("status").out
    world.run("start", "a")
    until_row(world, "a", lambda row: row["phase"] == "ready")
    for _ in range(13):
        assert gateway.served_by("chat") == "a"
    world.until(lambda: not alerts(), "the alert has passed")
    said = [one["type"] for one in world.events("gateway") if one["reason"] == "fallbacks"]
    assert said == ["alert", "alert-over"]


def test_two_gateways_are_one_too_many(world: World) -> None:
    first = world.profile({"a": None}, name="one.yaml", gateway={"port": world.port()})
    second = world.profile({"b": None}, name="two.yaml", gateway={"port": world.port()})
    ran = world.run("validate", first, second, "--json", ok=False)
    assert ran.code == 2
    error = ran.json["errors"][0]
    assert error["path"] == "gateway"
    assert error["message"].startswith("the gateway is declared differently in ")
    assert error["line"] > 1 or error["column"] == 1


def test_what_rests_until_it_is_asked_for_is_asked_and_not_fallen_back_from(world: World) -> None:
    gateway = applied(
        world,
        {"a": {"start": "on-demand"}, "b": None},
        {"routes": {"chat": {"to": ["a"], "fallback": ["b"]}}},
    )
    assert pids(world)["a"] is None
    assert gateway.served_by("chat") == "a"
