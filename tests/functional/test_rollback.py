"""A change that does not come up is undone: what was ready before runs, and everybody says so."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

from tests.fakes import fake
from tests.look import kill_daemon, rows, status, until_phase, until_row
from tests.world import World, alive, kill

BROKEN = ["--cache-type-k", "nonsense"]
"""Nothing that the flag table can know of: `args` are passed on as they are."""


def declared(world: World, port: int, **more: Any) -> Path:
    return world.profile({"a": {"port": port, **more}, "b": None})


def until_rolled_back(world: World) -> dict[str, Any]:
    return until_row(world, "a", lambda r: r["phase"] == "ready" and r["reason"] == "rolled-back")


def test_an_edit_that_does_not_come_up(any_world: World) -> None:
    world = any_world
    port = world.port()
    profile = declared(world, port, flags={"ctx-size": 256})
    world.run("apply", profile)
    before = rows(world)
    text = declared(world, port, flags={"ctx-size": 512}, args=BROKEN).read_text()
    row = until_rolled_back(world)
    # What was ready before answers; the file is as it was left; the other was not touched.
    assert world.answers(port) == 200
    assert row["command"] == before["a"]["command"]
    assert rows(world)["b"]["pid"] == before["b"]["pid"]
    assert profile.read_text() == text
    assert "ctx-size: 256 -> 512" in row["message"]
    assert "nonsense" in row["message"]
    document = status(world)
    assert not document["converged"]
    assert document["settled"]
    assert "rolled-back" in document["missing"][0]
    said = [e for e in world.events("a") if e["reason"] == "rolled-back"]
    assert [e["type"] for e in said] == ["starting"]

    # Not tried again, whatever else happens to it: a kill, another daemon, a touch.
    kill(row["pid"])
    again = until_row(world, "a", lambda r: r["phase"] == "ready" and r["pid"] != row["pid"])
    assert again["reason"] == "rolled-back"
    world.run("daemon", "restart")
    profile.write_text(text)
    assert until_rolled_back(world)["pid"] == again["pid"]

    # Somebody's word is another try, with the same end; and says why.
    ran = world.run("apply", profile, ok=False)
    assert ran.code == 1
    assert "nonsense" in ran.out + ran.err
    assert until_rolled_back(world)["pid"] != again["pid"]
    ran = world.run("restart", "a", ok=False)
    assert ran.code == 1
    assert "nonsense" in ran.out + ran.err
    until_rolled_back(world)

    # Mended, it is a change like any other.
    declared(world, port, flags={"ctx-size": 512})
    world.until_converged()
    row = rows(world)["a"]
    assert (row["reason"], row["message"]) == ("", "")
    assert "512" in row["command"]


def test_an_edit_that_is_taken_back(world: World) -> None:
    port = world.port()
    world.run("apply", declared(world, port))
    declared(world, port, args=BROKEN)
    row = until_rolled_back(world)
    declared(world, port)
    world.until_converged()
    assert rows(world)["a"]["pid"] == row["pid"]
    # The same slip again is another edit.
    declared(world, port, args=BROKEN)
    assert until_rolled_back(world)["pid"] != row["pid"]


def test_a_port_that_a_stranger_has(world: World) -> None:
    port = world.port()
    world.run("apply", declared(world, port))
    with socket.create_server(("127.0.0.1", world.port())) as stranger:
        taken = stranger.getsockname()[1]
        declared(world, taken)
        row = until_rolled_back(world)
        assert row["port"] == port
        assert f"port {taken} is taken by" in row["message"]
        assert world.answers(port) == 200


def test_keep_leaves_it_as_the_file_says(world: World) -> None:
    port = world.port()
    quick = {"restart": {"initial": "50ms", "limit": "2 in 1m"}, "update": {"on_failure": "keep"}}
    world.run("apply", declared(world, port, **quick))
    declared(world, port, args=BROKEN, **quick)
    assert "nonsense" in until_phase(world, "a", "failed")["message"]
    assert world.answers(port) is None


def test_the_daemon_dies_while_the_change_is_under_way(world: World) -> None:
    """The next one finds what was tried dead or dying, and knows what to go back to."""
    port = world.port()
    world.run("apply", declared(world, port))
    declared(world, port, **fake("hang"), readiness={"timeout": "1s"})
    tried = until_row(world, "a", lambda r: r["phase"] == "starting" and r["pid"])
    kill_daemon(world)
    assert rows(world)["a"]["pid"] == tried["pid"]
    world.run("daemon", "start")
    row = until_rolled_back(world)
    assert "no progress for 1 s" in row["message"]
    assert world.answers(port) == 200
    assert not alive(tried["pid"])
