"""Swaps under load: what is behind a name is replaced, and no client sees a failed request."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.fakes import fake
from tests.gateway_asking import ask, asked, completion, endless, gateway
from tests.load import Beside, percentile
from tests.load import completion as raw_completion
from tests.look import pids, rows, status
from tests.world import World

pytestmark = pytest.mark.timeout(180)

ROUNDS = 3

A_SECOND = 10
"""Requests: what a machine that does ten other things can answer."""

SHORT = [raw_completion("a")] * 4
MIXED = [*SHORT, raw_completion("a", stream=True, tokens=10)]


def profile(world: World, port: int, instance: dict[str, Any]) -> Path:
    return world.profile({"a": instance}, gateway={"port": port})


def edits(world: World, load: Beside, port: int, instance: dict[str, Any]) -> list[int]:
    """The instance gets another flag again and again, while requests go on; its pids."""
    seen = [pids(world)["a"]]
    for at in range(ROUNDS):
        profile(world, port, {**instance, "flags": {"ctx-size": 4096 + 1024 * at}})
        # Replaced, and asked again.
        world.until(lambda: pids(world)["a"] not in (None, *seen) and status(world)["converged"])
        seen.append(pids(world)["a"])
        goes_on(world, load)
    return seen


def goes_on(world: World, load: Beside) -> None:
    before = load.answered
    world.until(lambda: load.answered > before + 10, "requests are answered")


@pytest.mark.parametrize("port_of_a", ["fixed", "auto"])
def test_no_request_fails_while_an_instance_is_replaced(world: World, port_of_a: str) -> None:
    port = world.port()
    instance = {"port": world.port() if port_of_a == "fixed" else "auto"}
    world.run("apply", profile(world, port, instance))
    pid = gateway(world)["pid"]
    with Beside(port, MIXED, a_second=A_SECOND) as load:
        goes_on(world, load)
        seen = edits(world, load, port, instance)
    assert load.wrong == []
    assert len(set(seen)) == ROUNDS + 1
    assert gateway(world)["pid"] == pid
    told = rows(world)["a"]["requests"]
    assert told["failures"] == 0
    # Nobody waited longer than some starts of an engine and an answer take.
    assert percentile([one.took for one in load.load.done], 1.0) < 30


def test_no_request_fails_while_an_instance_is_restarted_or_rolled_back(world: World) -> None:
    port = world.port()
    world.run("apply", profile(world, port, {"port": "auto"}))
    with Beside(port, MIXED, a_second=A_SECOND) as load:
        goes_on(world, load)
        world.run("restart", "a")
        goes_on(world, load)
        # A change that cannot come up: what was there before runs again.
        broken = fake("exit=1", port="auto", flags={"ctx-size": 1024})
        profile(world, port, broken)
        world.until(lambda: "rolled-back" in str(rows(world)["a"]), "it is undone")
        world.until(lambda: rows(world)["a"]["phase"] == "ready", "it runs again")
        goes_on(world, load)
    assert load.wrong == []


def test_an_answer_under_way_has_the_time_that_it_was_given(world: World) -> None:
    port = world.port()
    patient = {"port": "auto", "stop": {"drain": "30s"}}
    world.run("apply", profile(world, port, patient))
    long = [raw_completion("a", stream=True, tokens=200)]
    with Beside(port, long, a_second=1) as load:
        world.until(lambda: (rows(world)["a"]["requests"] or {}).get("in_flight"))
        world.run("restart", "a")
    assert load.wrong == []

    # One that is not to wait cuts off, and says so.
    hasty = {"port": "auto", "stop": {"drain": "0s"}, "flags": {"ctx-size": 4096}}
    world.run("apply", profile(world, port, hasty))
    with asked(port, endless()) as stream:
        assert stream.read1()
        world.run("restart", "a")
        assert b"broke off" in stream.read()
    assert ask(port, completion("a")).status == 200
