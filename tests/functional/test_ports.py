"""Ports: taken ones name their holder, automatic ones stick, and ready means ours."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager

from tests.fakes import fake
from tests.look import kill_daemon, owned, rows, until_phase, until_row
from tests.world import World, alive, listening

STRANGER = """
import http.server, sys
class Well(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.send_header("Content-Length", "2"); self.end_headers()
        self.wfile.write(b"{}")
    def log_message(self, *_): pass
server = http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Well)
print("up", flush=True)
server.serve_forever()
"""


@contextmanager
def well_stranger(port: int) -> Generator[subprocess.Popen[str]]:
    """Another's server, which answers every health check with 200."""
    command = [sys.executable, "-c", STRANGER, str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as stranger:
        try:
            assert stranger.stdout is not None
            assert stranger.stdout.readline() == "up\n"
            yield stranger
        finally:
            stranger.kill()


def test_a_taken_port_names_its_holder_and_is_taken_when_free(any_world: World) -> None:
    world = any_world
    port = world.port()
    profile = world.profile({"a": {"port": port}, "b": None})
    with listening(port):
        ran = world.run("apply", profile, ok=False)
        assert ran.code == 1
        row = until_phase(world, "a", "backoff")
        assert row["reason"] == "port-taken"
        assert f"port {port} is taken by pid {os.getpid()} (" in row["message"]
        assert f"pid {os.getpid()}" in ran.err
        assert rows(world)["b"]["phase"] == "ready"
        assert "a" not in owned(world)
    # Freed: it needs nobody to say so.
    until_phase(world, "a", "ready")
    # One more look whether it is free is neither a restart, nor news.
    assert rows(world)["a"]["restarts"] == 0


def test_a_port_that_stays_taken_is_never_given_up(world: World) -> None:
    port = world.port()
    policy = {"initial": "10ms", "max": "20ms", "limit": "1 in 10m"}
    with listening(port):
        profile = world.profile({"a": {"port": port, "restart": policy}})
        assert world.run("apply", profile, ok=False).code == 1

        tries: set[str] = set()

        def tried() -> bool:
            row = rows(world)["a"]
            if row["phase"] == "backoff":
                tries.add(row["since"])
            return len(tries) > 2

        world.until(tried, "it tries again and again")
        assert rows(world)["a"]["phase"] != "failed"
    until_phase(world, "a", "ready")
    told = [event["type"] for event in world.events("a")]
    assert told.count("start-failed") == 1, "what is waited for is said once"


def test_a_port_taken_between_the_check_and_the_start(world: World) -> None:
    port, go = world.port(), world.folder / "go"
    late = fake(f"wait={go}", port=port, restart={"initial": "50ms"})
    world.run("apply", "--no-wait", world.profile({"a": late}))
    until_row(world, "a", lambda r: r["phase"] == "starting" and r["pid"])
    with listening(port):
        go.touch()
        row = until_row(world, "a", lambda r: r["reason"] == "port-taken")
        assert f"pid {os.getpid()}" in row["message"]
        exited = [e for e in world.events("a") if e["type"] == "exited"]
        assert "couldn't bind" in exited[0]["message"]
    until_phase(world, "a", "ready")


def test_an_answer_from_somebody_else_is_not_ready(world: World) -> None:
    port, go = world.port(), world.folder / "go"
    late = fake(
        f"wait={go}", port=port, readiness={"timeout": "1200ms"}, restart={"policy": "never"}
    )
    world.run("apply", "--no-wait", world.profile({"a": late}))
    until_row(world, "a", lambda r: r["phase"] == "starting" and r["pid"])
    with well_stranger(port) as stranger:
        row = until_phase(world, "a", "failed")
        assert row["reason"] == "timeout"
        assert f"answered by pid {stranger.pid}" in row["message"]
        assert not any(e["type"] == "ready" for e in world.events("a"))
        assert stranger.poll() is None
        world.run("down")
        assert stranger.poll() is None


def test_an_automatic_port_sticks(any_world: World) -> None:
    world = any_world
    a, b, c = "a", "b", "c"
    one = world.profile({a: None, b: None}, name="one.yaml")
    two = world.profile({c: None}, name="two.yaml")
    world.run("apply", one)
    before = {name: row["port"] for name, row in rows(world).items()}
    assert len(set(before.values())) == 2

    # Across an edit that replaces it, a switch and back, and daemons.
    world.profile({a: {"flags": {"ctx-size": 512}}, b: None}, name="one.yaml")
    pid = rows(world)[a]["pid"]
    until_row(world, a, lambda r: r["phase"] == "ready" and r["pid"] != pid)
    assert rows(world)[a]["port"] == before[a]
    world.run("apply", two)
    assert rows(world)[c]["port"] not in before.values()
    kill_daemon(world)
    world.run("apply", one)
    assert {name: row["port"] for name, row in rows(world).items()} == before
    world.run("down")
    world.run("apply", one)
    assert {name: row["port"] for name, row in rows(world).items()} == before


def test_an_automatic_port_is_given_up_for_another_when_a_stranger_takes_it(world: World) -> None:
    profile = world.profile({"a": None, "b": None})
    world.run("apply", profile)
    before = rows(world)
    world.run("stop", "a")
    with listening(before["a"]["port"]):
        world.run("start", "a", ok=False)
        row = until_phase(world, "a", "ready")
        assert row["port"] != before["a"]["port"]
        assert rows(world)["b"]["pid"] == before["b"]["pid"]
    world.run("daemon", "restart")
    world.run("restart", "a")
    assert rows(world)["a"]["port"] == row["port"]


def test_two_daemons_that_choose_the_same_ports_at_once_both_come_up(world: World) -> None:
    """An automatic port depends on the name alone: others may choose it in the same moment."""
    folder = world.folder / "other"
    folder.mkdir()
    other = World(folder, world.model, world.env)
    try:
        names = [f"i{at}" for at in range(6)]
        both = [each.begin("apply", each.profile(dict.fromkeys(names))) for each in (world, other)]
        for begun in both:
            out, err = begun.communicate(timeout=40)
            assert begun.returncode == 0, (out, err)
        found = [row["port"] for each in (world, other) for row in rows(each).values()]
        assert len(set(found)) == 12
    finally:
        other.end()


def test_a_new_tenant_waits_for_our_own_old_one(world: World) -> None:
    port = world.port()
    one = world.profile({"old": fake("deaf", port=port, stop={"grace": "700ms"})}, name="one.yaml")
    two = world.profile({"new": {"port": port}}, name="two.yaml")
    world.run("apply", one)
    old = rows(world)["old"]["pid"]
    applying = world.begin("apply", two)
    row = until_phase(world, "new", "pending")
    assert row["reason"] == "blocked"
    assert "old" in row["message"]
    out, err = applying.communicate(timeout=20)
    assert applying.returncode == 0, (out, err)
    assert not alive(old)
    assert not any(e["type"] == "start-failed" for e in world.events())
    assert rows(world)["new"]["port"] == port
