"""Why an instance failed: each cause provoked on real engines, and what brings it back."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import broken_models, broken_programs
from tests.look import kill_daemon, owned, pids, rows, until_phase, until_row
from tests.world import World, kill, listening

AT_ONCE = {"restart": {"initial": "10ms", "max": "50ms"}}


def _starts(world: World, name: str = "a") -> int:
    return sum(event["type"] == "starting" for event in world.events(name))


def _stays_failed(world: World, reason: str, *says: str) -> dict[str, Any]:
    """It is failed for that, was tried once, and is not tried again."""
    row = until_phase(world, "a", "failed")
    assert row["reason"] == reason, row["message"]
    for words in says:
        assert words in row["message"]
    assert "gave up" not in row["message"]
    assert row["pid"] is None
    return row


def _own_copy(world: World) -> Path:
    """The tiny model under a name that may be spoiled."""
    return Path(shutil.copy(world.model, world.folder / "own.gguf"))


def _replace(path: Path, data: bytes) -> None:
    aside = path.with_name(f".{path.name}.new")
    aside.write_bytes(data)
    aside.chmod(path.stat().st_mode)
    aside.replace(path)


# --- its command ----------------------------------------------------------------------------------


def test_a_flag_that_the_engine_does_not_take_is_not_tried_twice(any_world: World) -> None:
    world = any_world
    world.run("apply", world.profile({"a": {"args": ["--no-such-flag"]}}), ok=False)
    _stays_failed(world, "bad-flag", "invalid argument: --no-such-flag", "`args:`")
    assert _starts(world) == 1

    # The edit is what it hangs on.
    world.profile({"a": None})
    until_phase(world, "a", "ready")
    assert _starts(world) == 2


# --- its model ------------------------------------------------------------------------------------


def test_a_model_that_is_deleted_while_it_runs_is_missed_and_found_again(any_world: World) -> None:
    world = any_world
    own = _own_copy(world)
    world.run("apply", world.profile({"a": {"model": str(own), **AT_ONCE}}))
    own.unlink()
    kill(pids(world)["a"])

    row = _stays_failed(world, "model-missing", str(own), "No such file")
    exited = [event for event in world.events("a") if event["type"] == "exited"]
    assert "SIGKILL" in exited[0]["message"]
    assert exited[0]["reason"] == "crashed"
    assert row["restarts"] == 1

    shutil.copy(world.model, own)
    until_phase(world, "a", "ready")
    [mended] = [event for event in world.events("a") if event["type"] == "mended"]
    assert str(own) in mended["message"]
    assert isinstance(world.complete(rows(world)["a"]["port"]), str)


def test_it_is_found_again_by_the_next_daemon_too(world: World) -> None:
    own = _own_copy(world)
    world.run("apply", world.profile({"a": {"model": str(own), **AT_ONCE}}))
    own.unlink()
    kill(pids(world)["a"])
    _stays_failed(world, "model-missing")
    starts = _starts(world)

    kill_daemon(world)
    world.run("daemon", "start")
    assert rows(world)["a"]["phase"] == "failed"
    assert rows(world)["a"]["reason"] == "model-missing"
    assert _starts(world) == starts
    kill_daemon(world)
    shutil.copy(world.model, own)
    world.run("daemon", "start")
    until_phase(world, "a", "ready")


def test_a_model_that_is_cut_short_waits_for_the_rest(any_world: World) -> None:
    world = any_world
    own = _own_copy(world)
    whole = own.read_bytes()
    world.run("apply", world.profile({"a": {"model": str(own), **AT_ONCE}}))
    _replace(own, whole[: len(whole) // 2])
    kill(pids(world)["a"])
    _stays_failed(world, "model-unreadable", "is not within the file bounds", "incomplete")

    _replace(own, whole)
    until_phase(world, "a", "ready")


def test_a_folder_in_the_place_of_the_model_is_called_one(any_world: World) -> None:
    world = any_world
    own = _own_copy(world)
    world.run("apply", world.profile({"a": {"model": str(own), **AT_ONCE}}))
    own.unlink()
    own.mkdir()
    kill(pids(world)["a"])
    _stays_failed(world, "model-unreadable", f"{own} is a folder")


def test_an_architecture_that_nobody_knows(any_world: World) -> None:
    world = any_world
    own = _own_copy(world)
    world.run("apply", world.profile({"a": {"model": str(own), **AT_ONCE}}))
    alien = broken_models.write_alien(world.folder / "alien")
    alien.replace(own)
    kill(pids(world)["a"])
    _stays_failed(world, "unsupported-model", "unknown model architecture: 'martian'")


# --- its program ----------------------------------------------------------------------------------


def _wrapper(world: World, llama_server: str, first: str = "") -> Path:
    path = world.folder / "engine"
    path.write_text(f'#!/bin/sh\n{first}\nexec {llama_server} "$@"\n')
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("kind", "reason", "says"),
    [
        ("interpreter", "binary-incompatible", "names an interpreter"),
        ("plain", "binary-incompatible", "Exec format error"),
        ("alien", "binary-incompatible", "Exec format error"),
        ("env", "binary-missing", "no-such-program"),
        ("exec", "binary-missing", "not found"),
        ("library", "binary-incompatible", "error while loading shared libraries"),
        ("glibc", "binary-incompatible", "version `GLIBC_9.34' not found"),
        ("instruction", "binary-incompatible", "SIGILL"),
    ],
)
def test_a_program_that_became_another(
    world: World, llama_server: str, kind: str, reason: str, says: str
) -> None:
    engine = _wrapper(world, llama_server)
    good = engine.read_bytes()
    broken = broken_programs.write_all(world.folder / "broken", llama_server)[kind]
    if kind == "glibc" and b"GLIBC_9.34" not in broken.read_bytes():
        broken.write_text('#!/bin/sh\necho "x: version \\`GLIBC_9.34\' not found" >&2\nexit 1\n')
    world.run("apply", world.profile({"a": {"binary": str(engine), **AT_ONCE}}))
    _replace(engine, broken.read_bytes())
    kill(pids(world)["a"])
    _stays_failed(world, reason, says)

    _replace(engine, good)
    until_phase(world, "a", "ready")


def test_a_program_that_is_gone_or_may_not_be_run(world: World, llama_server: str) -> None:
    engine = _wrapper(world, llama_server)
    good = engine.read_bytes()
    world.run("apply", world.profile({"a": {"binary": str(engine), **AT_ONCE}}))
    engine.unlink()
    kill(pids(world)["a"])
    _stays_failed(world, "binary-missing", f"{engine} does not exist", "`binary:`")

    # It is there again, but may not be run: that is another cause, and another wait.
    engine.write_bytes(good)
    engine.chmod(0o644)
    until_row(world, "a", lambda row: row["reason"] == "permission")
    _stays_failed(world, "permission", f"chmod +x {engine}")
    engine.chmod(0o755)
    until_phase(world, "a", "ready")


# --- its port -------------------------------------------------------------------------------------


def test_a_port_that_is_freed_is_taken_at_once(any_world: World) -> None:
    world = any_world
    port = world.port()
    with listening(port):
        world.run("apply", world.profile({"a": {"port": port}}), ok=False)
        row = until_row(world, "a", lambda r: r["reason"] == "port-taken")
        assert f"pid {os.getpid()}" in row["message"]
    until_phase(world, "a", "ready")


def test_who_takes_the_port_while_it_starts_is_named(world: World, llama_server: str) -> None:
    port = world.port()
    program = (
        "import socket, sys, time; s = socket.socket();"
        "s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1);"
        "s.bind(('127.0.0.1', int(sys.argv[1])));"
        "s.listen(); print('here', flush=True); time.sleep(60)"
    )
    thief = world.folder / "thief"
    thief.write_text(program)
    there = world.folder / "there"
    # Only once it was looked whether the port is free, and before the engine binds it.
    wait = f'touch {there}; while [ -e {there} ] && [ "$1" != --help ]; do sleep 0.01; done'
    engine = _wrapper(world, llama_server, wait)
    world.run("apply", "--no-wait", world.profile({"a": {"port": port, "binary": str(engine)}}))
    until_row(world, "a", lambda row: row["pid"] is not None)
    with subprocess.Popen([sys.executable, thief, str(port)], stdout=subprocess.PIPE) as stranger:
        assert stranger.stdout is not None
        try:
            assert stranger.stdout.readline() == b"here\n"
            world.until(there.exists, "the engine is about to start")
            there.unlink()
            row = until_row(world, "a", lambda row: row["reason"] == "port-taken")
            assert f"pid {stranger.pid}" in row["message"]
        finally:
            stranger.kill()
    # From now on nothing keeps it waiting.
    _wrapper(world, llama_server)
    until_phase(world, "a", "ready")


# --- memory ---------------------------------------------------------------------------------------


def test_a_limit_that_is_too_low_is_named_and_a_higher_one_is_used(
    world: World, llama_server: str
) -> None:
    with broken_programs.small_group(48 << 20) as group:
        if group is None:
            # The evidence of such an end is recorded: tests/data/causes.
            return
        engine = _wrapper(world, llama_server, f"echo $$ > {group}/cgroup.procs")
        big = {"flags": {"ctx-size": 500_000, "parallel": 1}, "restart": {"initial": "10ms"}}
        profile = world.profile({"a": {"binary": str(engine), **big}})
        assert world.run("apply", profile, ok=False).code == 1
        row = _stays_failed(world, "out-of-memory", "control group was out of memory", "SIGKILL")
        assert "are needed" in row["message"]
        starts = _starts(world)

        limit = next(
            path
            for name in ("memory.max", "memory.limit_in_bytes")
            if (path := group / name).exists()
        )
        limit.write_text(str(4 << 30))
        until_phase(world, "a", "ready")
        assert _starts(world) == starts + 1
        world.run("down")


def test_memory_that_is_refused_is_no_crash(world: World, llama_server: str) -> None:
    engine = _wrapper(world, llama_server, "ulimit -v 1200000")
    big = {"flags": {"ctx-size": 2_000_000, "parallel": 1}, "restart": {"policy": "never"}}
    profile = world.profile({"a": {"binary": str(engine), **big}})
    assert world.run("apply", profile, ok=False).code == 1
    _stays_failed(world, "out-of-memory", "insufficient memory", "ctx-size")


# --- signals --------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL, signal.SIGABRT])
def test_a_signal_is_called_by_its_name(any_world: World, number: signal.Signals) -> None:
    world = any_world
    world.run("apply", world.profile({"a": {"restart": {"policy": "never"}}}))
    kill(pids(world)["a"], number)
    row = until_phase(world, "a", "failed")
    assert row["reason"] == "crashed"
    assert f"killed by {number.name}" in row["message"]


# --- a change that does not come up ---------------------------------------------------------------


def test_what_was_undone_says_what_was_wrong_with_it(world: World) -> None:
    world.run("apply", world.profile({"a": None}))
    world.profile({"a": {"args": ["--no-such-flag"]}})
    row = until_row(world, "a", lambda r: "bad-flag" in r["message"] + r["reason"])
    assert "invalid argument: --no-such-flag" in row["message"]


def test_nothing_is_looked_at_while_nothing_has_failed(world: World) -> None:
    own = _own_copy(world)
    world.run("apply", world.profile({"a": {"model": str(own)}}))
    pid = pids(world)["a"]
    os.utime(own)
    own.unlink()
    shutil.copy(world.model, own)
    assert world.run("status", "--check", ok=False).code == 0
    assert pids(world)["a"] == pid
    assert owned(world).keys() == {"a"}
