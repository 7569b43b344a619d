"""Limits: what is passed is told, in events and in `status`, and ends what passes its most."""

from __future__ import annotations

from tests.fakes import fake
from tests.look import pids, rows, until_phase, until_row
from tests.world import World, kill


def test_an_alert_comes_and_goes_without_touching_the_process(any_world: World) -> None:
    world = any_world
    port = world.port()
    instance = {"port": port, "limits": {"memory": {"warn": "1MiB"}}}
    world.run("apply", world.profile({"a": instance, "b": None}))
    pid = pids(world)["a"]
    row = until_row(world, "a", lambda r: r["alerts"])
    assert row["phase"] == "ready"
    assert [one["alert"] for one in row["alerts"]] == ["memory"]
    assert row["alerts"][0]["message"].endswith("warn: 1MiB")
    assert rows(world)["b"]["alerts"] == []
    assert "warn: 1MiB" in world.run("status").out

    # A live field: the limit is raised, the alert passes, the process stays.
    world.profile({"a": {"port": port, "limits": {"memory": {"warn": "1TiB"}}}, "b": None})
    until_row(world, "a", lambda r: not r["alerts"])
    assert pids(world)["a"] == pid
    said = [e["type"] for e in world.events("a") if e["type"].startswith("alert")]
    assert said == ["alert", "alert-over"]


def test_more_than_the_most_is_ended_and_restarted_by_the_rules(world: World) -> None:
    limits = {"memory": {"max": "1MiB"}}
    quick = {"restart": {"initial": "10ms", "limit": "1 in 10m"}}
    port = world.port()
    world.run("apply", world.profile({"a": {"port": port, **quick}}))
    pid = pids(world)["a"]
    world.profile({"a": {"port": port, "limits": limits, **quick}})
    row = until_phase(world, "a", "failed")
    assert row["reason"] == "memory-limit"
    assert "at most 1MiB" in row["message"]
    assert row["restarts"] == 1
    assert pid != row["pid"]


def test_what_is_restarted_often_is_an_alert(world: World) -> None:
    limits = {"restarts": {"warn": "2 in 1h"}}
    quick = {"restart": {"initial": "10ms", "limit": "100 in 1m"}}
    world.run("apply", world.profile({"a": {"limits": limits, **quick}}))
    for _ in range(2):
        pid = pids(world)["a"]
        kill(pid)
        until_row(world, "a", lambda r, old=pid: r["phase"] == "ready" and r["pid"] != old)
    row = until_row(world, "a", lambda r: r["alerts"])
    assert row["alerts"][0] == {"alert": "restarts", "message": "was restarted 2 times within 1h"}


def test_limits_that_contradict_each_other_are_refused(world: World) -> None:
    limits = {"memory": {"warn": "8GiB", "max": "6GiB"}}
    ran = world.run("validate", world.profile({"a": {"limits": limits, **fake()}}), ok=False)
    assert ran.code == 2
    assert "warn is 8GiB, more than max, 6GiB" in ran.err
