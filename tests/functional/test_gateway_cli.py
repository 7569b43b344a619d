"""Where the gateway appears on the command line: like an instance, and counted as none."""

from __future__ import annotations

import pytest

from tests.agent import agent
from tests.world import World, listening


@pytest.fixture
def gate(world: World) -> World:
    """A machine with a profile of one instance and a gateway, which is not applied yet."""
    world.env["GATE"] = str(world.port())
    world.profile({"a": None}, "profiles/gate.yaml", gateway={"port": "${env:GATE}"})
    return world


def test_apply_shows_it_and_says_where_it_is(gate: World) -> None:
    ran = gate.run("apply", "gate")

    url = f"http://127.0.0.1:{gate.env['GATE']}"
    assert [line.split()[:2] for line in ran.out.splitlines()[:2]] == [
        ["start", "a"],
        ["start", "gateway"],
    ]
    assert "converged: 1 of 1 ready" in ran.out
    assert f"gateway: ready at {url}" in ran.out
    [line] = [one for one in ran.err.splitlines() if one.startswith("gateway") and "ready" in one]
    assert url in line
    assert f"gateway: ready at {url}" in gate.run("status").out


def test_it_is_named_like_an_instance(gate: World) -> None:
    gate.run("apply", "gate")

    shown = gate.run("status", "gateway").out.splitlines()[1]
    before = gate.status()["gateway"]["pid"]
    restarted = gate.run("restart", "gateway").out
    after = gate.status()["gateway"]["pid"]
    stopped = gate.run("stop", "gateway").out
    waited = gate.run("wait", "--timeout", "100ms", ok=False)
    gate.run("start", "gateway")
    gate.run("wait", "gateway")

    assert shown.split()[:2] == ["gateway", "ready"]
    assert (restarted, stopped) == ("gateway: ready\n", "gateway: stopped\n")
    assert before != after
    assert waited.code == 4
    assert "gateway (stopped, held by hand)" in waited.err
    assert "hint: orchestrate start gateway" in waited.err


def test_where_somebody_has_its_port_apply_and_doctor_say_who(gate: World) -> None:
    port = int(gate.env["GATE"])
    with listening(port):
        ran = gate.run("apply", "gate", ok=False)
        examined = gate.run("doctor").out

    assert ran.code == 1
    assert f"gateway: backoff, port-taken: port {port} is taken by" in ran.err
    assert f"port {port} of the gateway is held by" in examined
    gate.until(lambda: gate.status()["converged"], "the gateway has its port")
    assert f"ok    gateway ready at http://127.0.0.1:{port}" in gate.run("doctor").out


def test_an_agent_sees_it(gate: World) -> None:
    gate.run("apply", "gate")

    with agent(gate) as one:
        whole, alone = one.call("status"), one.call("status", name="gateway")
        log = one.call("logs", name="gateway")
        restarted = one.call("restart", name="gateway")

    url = f"http://127.0.0.1:{gate.env['GATE']}"
    assert [row["name"] for row in whole.data["instances"]] == ["a"]
    assert (whole.data["gateway"]["phase"], whole.data["gateway"]["url"]) == ("ready", url)
    assert f"gateway: ready at {url}" in whole.text
    assert "with no model" not in whole.text
    assert [row["name"] for row in alone.data["instances"]] == ["gateway"]
    assert alone.text.count("gateway: ready") == 1
    assert not log.failed
    assert restarted.data["phase"] == "ready"
