"""What goes wrong with Ollama and its models: it is said, in Ollama's own words, and mended."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.look import kill_daemon, owned, rows, until_phase, until_row
from tests.ollama_world import (
    OllamaWorld,
    ask,
    generate,
    ps,
    remove,
    tags,
    unload,
)
from tests.registry import Registry, padded
from tests.world import alive, kill

BIG = 2_000_000
"""Bytes of a model whose pull lasts, at a rate that a test sets."""


@pytest.fixture
def big(ollama_world: OllamaWorld, registry: Registry) -> str:
    """A model in the registry that takes about a second to be pulled; what it is called."""
    registry.rate = 2_000_000
    return registry.push("lib/big", padded(ollama_world.folder / "b.gguf", ollama_world.model, BIG))


def weights_served(registry: Registry) -> int:
    """Bytes that were given out of the largest blob."""
    return max(registry.served.values(), default=0)


def of_registry(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "insecure": True, **more}


def test_the_registry_dies_in_the_middle_of_a_pull_and_returns(
    ollama_world: OllamaWorld, registry: Registry, big: str
) -> None:
    world = ollama_world
    applying = world.begin("apply", world.ollamas({"o": [of_registry(big, preload=True)]}))
    seen = world.until_model("o", big, state="pulling", bytes_total=BIG)
    world.until(lambda: weights_served(registry) > BIG / 3, "some of it came")

    registry.stop()
    registry.start()

    said, problems = applying.communicate(timeout=60)
    assert applying.returncode == 0, said + problems
    assert seen["bytes_done"] <= BIG
    assert list(ps(world.port_of("o"))) == [big]
    # What had come was not fetched again.
    assert weights_served(registry) < 1.5 * BIG


def test_a_registry_that_is_away_is_named_and_waited_for(
    ollama_world: OllamaWorld, registry: Registry
) -> None:
    world = ollama_world
    name = registry.push("lib/tiny", world.model)
    registry.stop()
    applying = world.begin("apply", world.ollamas({"o": [of_registry(name)]}))

    def refused() -> bool:
        return "refused" in world.models("o").get(name, {}).get("message", "")

    until_phase(world, "o", "ready")
    world.until(refused, "the registry's own error")
    registry.start()

    said, problems = applying.communicate(timeout=60)
    assert applying.returncode == 0, said + problems
    assert set(tags(world.port_of("o"))) == {name}


def test_a_model_that_does_not_exist_fails_alone_and_until_it_does(
    ollama_world: OllamaWorld, registry: Registry
) -> None:
    world = ollama_world
    name = f"{registry.host}/lib/none:latest"
    profile = world.ollamas({"o": [of_registry(name), {"name": "m", "gguf": str(world.model)}]})

    done = world.run("apply", profile, ok=False)

    assert done.code == 1
    assert "does not exist" in done.out + done.err
    assert name in done.out + done.err
    row = rows(world)["o"]
    assert (row["phase"], row["restarts"]) == ("ready", 0)
    assert {m["name"]: m["state"] for m in row["models"]} == {name: "failed", "m:latest": "present"}
    assert generate(row["port"], "m")
    assert world.run("wait", "--timeout", "1s", ok=False).code in (1, 4)

    registry.push("lib/none", world.model)
    world.run("apply", profile)
    assert set(tags(row["port"])) == {name, "m:latest"}
    assert rows(world)["o"]["pid"] == row["pid"]


@contextmanager
def small_disk(folder: Path, size: str) -> Generator[None]:
    """A file system that is soon full."""
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=755", "tmpfs", folder]
    done = subprocess.run(mount, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"NO SMALL DISK IS TO BE HAD HERE (root only): {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_for_models_is_said_and_mended_by_room(
    ollama_world: OllamaWorld, registry: Registry, big: str
) -> None:
    world = ollama_world
    registry.rate = None
    tiny = {"name": "m", "gguf": str(world.model)}
    with small_disk(world.store, "1500k"):
        world.run("apply", world.ollamas({"o": [tiny]}))
        row = rows(world)["o"]
        profile = world.ollamas({"o": [tiny, of_registry(big)]})
        done = world.run("apply", profile, ok=False)

        assert done.code == 1
        assert "no space left on device" in done.out + done.err
        assert rows(world)["o"]["phase"] == "ready"
        assert world.models("o")["m:latest"]["state"] == "present"
        assert world.models("o")[big]["state"] == "failed"

        remount = ["mount", "-o", "remount,size=20m", world.store]
        subprocess.run(remount, check=True)
        world.run("apply", profile)
        assert set(tags(row["port"])) == {"m:latest", big}
        assert rows(world)["o"]["pid"] == row["pid"]
        world.run("down")


def test_an_error_in_a_modelfile_is_shown_in_ollamas_words(ollama_world: OllamaWorld) -> None:
    world = ollama_world
    world.write("m.Modelfile", f"FROM {world.model}\nSYSTEM First.\n")
    profile = world.ollamas({"o": [{"name": "m", "modelfile": "m.Modelfile", "preload": True}]})
    world.run("apply", profile)
    before = rows(world)["o"]

    # One that Ollama alone can find: a template is only parsed where it is used.
    world.write("m.Modelfile", f'FROM {world.model}\nTEMPLATE "{{{{ if }}}}"\n')
    broken = world.until_model("o", "m:latest", state="failed")
    assert "template" in broken["message"].lower(), broken
    # What it was before goes on to serve.
    after = rows(world)["o"]
    assert (after["pid"], after["phase"]) == (before["pid"], "ready")
    assert generate(before["port"], "m")

    # One that can be read nowhere: found in the file, by its line.
    world.write("m.Modelfile", f"FROM {world.model}\nPARAMETER nonsense\n")
    found = world.run("validate", profile, ok=False)
    assert found.code == 2
    assert "m.Modelfile" in found.out + found.err

    world.write("m.Modelfile", f"FROM {world.model}\nSYSTEM Second.\n")
    world.until_converged()
    assert ask(before["port"], "/api/show", {"model": "m"})["system"] == "Second."
    assert rows(world)["o"]["pid"] == before["pid"]


def test_models_that_are_removed_or_unloaded_behind_our_back_come_back(
    ollama_world: OllamaWorld, registry: Registry
) -> None:
    world = ollama_world
    name = registry.push("lib/tiny", world.model)
    world.write("b.Modelfile", f"FROM {world.model}\nSYSTEM Built.\n")
    models = [
        of_registry(name),
        {"name": "made", "gguf": str(world.model), "preload": True},
        {"name": "built", "modelfile": "b.Modelfile"},
    ]
    world.run("apply", world.ollamas({"o": models}))
    row = rows(world)["o"]
    port = row["port"]

    unload(port, "made")
    assert not ps(port)
    world.until(lambda: ps(port), "it is loaded again")

    for model in (name, "made", "built"):
        remove(port, model)
    # Seen when models are looked for the next time: an edit is a reason to.
    world.ollamas({"o": [*models, {"name": "new", "alias": "built"}]})
    world.until(lambda: len(tags(port)) == 4 and ps(port), "all is back")
    world.until_converged()
    assert rows(world)["o"]["pid"] == row["pid"]
    vanished = {e["message"] for e in world.events("o") if e["reason"] == "vanished"}
    assert len(vanished) == 3


def test_the_daemon_is_killed_during_a_pull(
    ollama_world: OllamaWorld, registry: Registry, big: str
) -> None:
    world = ollama_world
    applying = world.begin("apply", world.ollamas({"o": [of_registry(big, preload=True)]}))
    world.until_model("o", big, state="pulling")
    world.until(lambda: weights_served(registry) > BIG / 3, "some of it came")
    pid = rows(world)["o"]["pid"]

    kill_daemon(world)
    applying.communicate(timeout=30)
    world.run("daemon", "start")

    world.run("wait")
    world.until_converged()
    assert rows(world)["o"]["pid"] == pid
    assert list(ps(world.port_of("o"))) == [big]
    assert weights_served(registry) < 1.5 * BIG


def test_the_daemon_is_killed_during_a_create(ollama_world: OllamaWorld) -> None:
    world = ollama_world
    world.run("apply", world.ollamas({"o": []}))
    pid = rows(world)["o"]["pid"]
    # A server that stands still is amidst whatever it was asked for.
    os.kill(pid, signal.SIGSTOP)
    world.write("m.Modelfile", f"FROM {world.model}\nSYSTEM Made.\n")
    world.ollamas({"o": [{"name": "m", "modelfile": "m.Modelfile", "preload": True}]})
    until_row(world, "o", lambda r: r["models"], "it is declared")
    kill_daemon(world)
    os.kill(pid, signal.SIGCONT)

    world.run("daemon", "start")

    world.until_converged()
    assert rows(world)["o"]["pid"] == pid
    assert list(ps(world.port_of("o"))) == ["m:latest"]


def test_a_dead_runner_is_replaced(ollama_world: OllamaWorld) -> None:
    world = ollama_world
    profile = world.ollamas({"o": [{"name": "m", "gguf": str(world.model), "preload": True}]})
    world.run("apply", profile)
    row = rows(world)["o"]
    (runner,) = world.runners("o")

    kill(runner)

    world.until(lambda: [pid for pid in world.runners("o") if pid != runner], "another runner")
    assert generate(row["port"], "m")
    world.until_converged()
    # An edit is a reason to look again: the one that took its place lives.
    models = [{"name": "m", "gguf": str(world.model), "preload": True}]
    world.ollamas({"o": [*models, {"name": "new", "alias": "m"}]})
    world.until_model("o", "new:latest", state="present")
    world.until_converged()
    assert [event["reason"] for event in world.events("o")].count("killed") == 1
    assert rows(world)["o"]["pid"] == row["pid"]


def test_a_server_that_dies_leaves_no_runner_and_loads_again(ollama_world: OllamaWorld) -> None:
    world = ollama_world
    profile = world.ollamas({"o": [{"name": "m", "gguf": str(world.model), "preload": True}]})
    world.run("apply", profile)
    had = owned(world)["o"]
    assert len(had) == 2

    # Nobody minds it when it dies: the next daemon finds the runner alone.
    pid = rows(world)["o"]["pid"]
    kill_daemon(world)
    kill(pid)
    world.until(lambda: not alive(pid), "it is dead")
    world.run("daemon", "start")

    world.until_converged()
    assert not [one for one in had if alive(one)]
    row = rows(world)["o"]
    assert list(ps(row["port"])) == ["m:latest"]
    assert len(owned(world)["o"]) == 2


def test_a_pull_that_nobody_wants_any_more_ends(
    ollama_world: OllamaWorld, registry: Registry, big: str
) -> None:
    world = ollama_world
    registry.rate = BIG / 20
    pulling = world.ollamas({"o": [of_registry(big)]})
    world.run("apply", "--no-wait", pulling)
    world.until_model("o", big, state="pulling", bytes_total=BIG)
    row = rows(world)["o"]

    world.ollamas({"o": []})
    until_row(world, "o", lambda r: r["models"] == [], "it is not declared")
    world.until_converged()
    assert rows(world)["o"]["pid"] == row["pid"]
    world.until(lambda: not connected(row["pid"], registry), "the server lets go of it")

    # Neither does it hold up the end of all.
    world.ollamas({"o": [of_registry(big)]})
    world.until(lambda: connected(row["pid"], registry), "it is pulled again")
    began = time.monotonic()
    world.run("down")
    assert time.monotonic() - began < 5
    assert not alive(row["pid"])


def connected(pid: int, registry: Registry) -> bool:
    """Whether a process is being given a file by the registry."""
    ports = {one.raddr.port for one in psutil.Process(pid).net_connections() if one.raddr}
    return registry.files_port in ports
