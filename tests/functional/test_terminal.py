"""What moves while a person looks: the live block of `apply`, the table of `status --watch`."""

from __future__ import annotations

import re

import pytest

from tests.fakes import fake
from tests.ollama_world import OllamaWorld
from tests.registry import Registry, padded
from tests.world import World

UP = re.compile(r"\x1b\[\d+A")
OTHER_SCREEN, BACK = "\x1b[?1049h", "\x1b[?1049l"


def plain(said: str) -> str:
    rows = re.sub(r"\x1b\[\d+;1H", "\n", said)
    return re.sub(r"\x1b\[[0-9;?$]*[A-Za-z]", "", rows)


def test_apply_draws_one_block_over_itself(world: World) -> None:
    port = world.port()
    # Slow enough to be looked at, however busy the machine is.
    profile = world.profile({"a": fake("load=3", port=port), "b": {"needs": ["a"]}})

    said = world.on_a_terminal("apply", profile)

    assert UP.search(said), "it is drawn again where it was"
    assert f"http://127.0.0.1:{port}  ready after" in said
    assert "blocked: needs a" in said
    assert plain(said).rstrip().endswith("converged: 2 of 2 ready")


def test_nothing_is_wider_than_the_terminal(world: World) -> None:
    world.run("apply", world.profile({"an-instance-with-quite-a-long-name": None}))

    said = world.on_a_terminal("status", columns=50)

    assert max(len(line) for line in plain(said).splitlines()) <= 50


def test_long_messages_are_cut_and_told_in_full_of_what_is_named(world: World) -> None:
    said = "error: " + " ".join(f"word{n}" for n in range(30))
    script = world.write(
        "broken", f'#!/bin/sh\ncase "$*" in *--port*)\necho "{said}"; exit 3\nesac\n'
    )
    script.chmod(0o755)
    broken = {"binary": str(script), "restart": {"policy": "never"}}
    world.run("apply", world.profile({"a": broken, "b": broken}), ok=False)

    short = plain(world.on_a_terminal("status")).splitlines()
    full = plain(world.on_a_terminal("status", "b")).splitlines()
    piped = world.run("status").out

    assert max(map(len, short)) <= 80
    assert short[-1] == "not converged: a: failed; b: failed"
    assert "word29" not in "".join(short)
    assert max(map(len, full)) <= 80
    assert "word29" in " ".join(full)
    assert "word29" in piped


def test_a_watch_gives_the_screen_back(world: World) -> None:
    world.run("apply", world.profile({"a": None}))

    said = world.on_a_terminal("status", "--watch", until="converged")

    assert said.startswith(OTHER_SCREEN)
    assert BACK in said
    assert said.index(BACK) > said.index("converged")
    assert "Traceback" not in said


def test_a_watch_shows_what_happens(world: World) -> None:
    world.run("apply", world.profile({"a": None}))
    stop = world.begin("stop", "a")

    said = world.on_a_terminal("status", "--watch", until="stopped", columns=120)

    stop.communicate()
    assert "held" in plain(said)


# --- Ollama ------------------------------------------------------------------------------------


@pytest.fixture
def slow(ollama_world: OllamaWorld, registry: Registry) -> str:
    """The name of a model that takes two seconds to come."""
    size = 4 << 20
    whole = padded(ollama_world.folder / "large.gguf", ollama_world.model, size)
    registry.push("lib/slow", whole)
    registry.rate = size / 2
    return f"{registry.host}/lib/slow"


@pytest.mark.ollama
def test_a_pull_is_drawn_with_its_bytes_and_never_times_out_while_they_come(
    ollama_world: OllamaWorld, slow: str
) -> None:
    tiny = {"name": "tiny", "gguf": str(ollama_world.model), "preload": True}
    pulled = {"pull": slow, "insecure": True}
    profile = ollama_world.ollamas({"one": [pulled, tiny]})

    said = ollama_world.on_a_terminal("apply", "--timeout", "1.5s", profile, columns=100)

    lines = plain(said).splitlines()
    moving = [line for line in lines if f"{slow}:latest" in line and "pulling" in line]
    assert any(re.search(r"█+░+ +\d+ % \S+ of 4.2 MB", line) for line in moving)
    assert any("MB/s" in line for line in moving)
    assert max(map(len, moving)) < 100
    assert lines[-1] == "converged: 1 of 1 ready"
    # What is told in the end is no more than what is not as it should be.
    assert f"models.{slow}:latest: pulled without TLS (new)" in plain(said)


@pytest.mark.ollama
def test_scripts_get_each_step_as_an_event(ollama_world: OllamaWorld, slow: str) -> None:
    import json

    profile = ollama_world.ollamas({"one": [{"pull": slow, "insecure": True}]})

    *events, status = map(json.loads, ollama_world.run("apply", "--json", profile).out.splitlines())

    rows = [one["data"]["model"] for one in events if one["type"] == "model-progress"]
    moved = [row["bytes_done"] for row in rows if row["bytes_total"]]
    assert len(set(moved)) > 2
    assert [one["reason"] for one in events if one["type"] == "model"] == ["pulled"]
    [model] = status["instances"][0]["models"]
    assert (model["name"], model["state"]) == (f"{slow}:latest", "present")


@pytest.mark.ollama
def test_one_instance_is_shown_with_its_models(ollama_world: OllamaWorld) -> None:
    tiny = {"name": "tiny", "gguf": str(ollama_world.model), "preload": True}
    ollama_world.run("apply", ollama_world.ollamas({"one": [tiny, {"name": "b", "alias": "tiny"}]}))

    shown = plain(ollama_world.on_a_terminal("status", "one", columns=90))
    live = plain(ollama_world.on_a_terminal("status", "-w", until="converged", columns=90))

    for said in (shown, live):
        assert "2 models, 2 loaded" in said
        assert re.search(r"tiny:latest +present +yes", said)
        assert max(map(len, said.splitlines())) <= 90


@pytest.mark.ollama
def test_what_does_not_come_is_named_and_ends_the_apply(
    ollama_world: OllamaWorld, registry: Registry
) -> None:
    missing = {"pull": f"{registry.host}/lib/nothing", "insecure": True}
    tiny = {"name": "tiny", "gguf": str(ollama_world.model)}
    profile = ollama_world.ollamas({"one": [missing, tiny]})

    ran = ollama_world.run("apply", profile, ok=False)

    assert ran.code == 1
    name = f"{registry.host}/lib/nothing:latest"
    assert re.search(rf"^one: model {name}: failed, not-found: ", ran.err, re.MULTILINE)
    assert "hint: orchestrate logs one; another `orchestrate apply` tries again" in ran.err
    assert "not converged: one: failed" in ran.out
    waited = ollama_world.run("wait", "one", ok=False)
    assert (waited.code, name in waited.err) == (1, True)
    assert ollama_world.instance("one")["phase"] == "ready"
