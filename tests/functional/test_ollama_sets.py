"""What the models of several Ollama instances, or of one over time, are to each other: those that
contradict each other, those that leave, and those that do not fit into memory together."""

from __future__ import annotations

from typing import Any

import pytest

from models.make_tiny import write_tiny
from tests.look import pids, rows, status, until_row
from tests.ollama_world import OllamaWorld, ps, running_ollama, tags

pytestmark = pytest.mark.ollama


def test_one_model_that_two_instances_would_make_in_two_ways_is_refused(
    ollama_world: OllamaWorld,
) -> None:
    """They would make it anew in turns, for ever."""
    world = ollama_world
    made = {"name": "m", "gguf": str(world.model)}
    world.write("m.Modelfile", f"FROM {world.model}\nSYSTEM x\n")
    built = {"name": "M:latest", "modelfile": "./m.Modelfile"}

    both = world.ollamas({"a": [made], "b": [{"name": "other", "alias": "m"}, built]})
    refused = world.run("validate", both, ok=False)
    assert refused.code == 2
    assert "model 'M:latest' of 'b' is made otherwise than that of 'a'" in refused.err
    line = both.read_text().splitlines().index("    - name: M:latest") + 1
    assert f"{both}:{line}:" in refused.err
    assert world.run("apply", both, ok=False).code == 2
    assert status(world)["instances"] == []

    one = world.ollamas({"a": [made]}, "one.yaml")
    two = world.ollamas({"b": [built]}, "two.yaml")
    world.run("validate", one)
    world.run("validate", two)
    refused = world.run("validate", one, two, ok=False)
    assert (refused.code, "declare it as in" in refused.err) == (2, True)

    # An edit that contradicts what is applied changes nothing.
    world.run("apply", one, world.ollamas({"b": {"models": [{**made, "preload": True}]}}, two.name))
    before = pids(world)
    world.ollamas({"b": [built]}, two.name)
    world.until(
        lambda: [p["ok"] for p in status(world)["profiles"] if p["file"] == str(two)] == [False],
        "the edit is refused",
    )
    assert pids(world) == before
    # In a folder of its own it is another model.
    world.ollamas({"b": {"models": [built], "settings": {"models": "./own"}}}, two.name)
    world.until(lambda: all(profile["ok"] for profile in status(world)["profiles"]), "it is right")
    world.until_converged()


def test_what_leaves_with_an_edit_that_restarts_the_server_is_deleted_too(
    ollama_world: OllamaWorld,
) -> None:
    world = ollama_world
    names = ("kept", "leaves", "shared")
    models = [{"name": name, "gguf": str(world.model)} for name in names]
    other = {"b": {"models": models[2:]}}

    def edited(file: str = "p.yaml", **more: Any) -> Any:
        whole = {"prune": True, "models": models[:1], "settings": {"context_length": 256}}
        return world.ollamas({"a": {**whole, **more}, **other}, file)

    world.run("apply", edited(models=models, settings={"context_length": 512}))
    before = pids(world)
    port = rows(world)["a"]["port"]
    assert set(tags(port)) == {"kept:latest", "leaves:latest", "shared:latest"}

    said = world.run("plan", edited("aside/p.yaml")).out
    assert "context_length: 512 -> 256" in said
    deleted, kept = (
        next(line for line in said.splitlines() if f"models.{name}:latest" in line)
        for name in names[1:]
    )
    assert "-> deleted" in deleted
    assert "-> unloaded, kept: b has it too" in kept

    edited()
    until_row(world, "a", lambda r: r["pid"] != before["a"] and r["phase"] == "ready")
    world.until(lambda: "leaves:latest" not in tags(port), "what left is deleted")
    until_row(world, "a", lambda r: [m["name"] for m in r["models"]] == ["kept:latest"])
    assert set(tags(port)) == {"kept:latest", "shared:latest"}
    assert pids(world)["b"] == before["b"]


def test_apply_ends_when_not_all_that_is_preloaded_fits(ollama_world: OllamaWorld) -> None:
    """How many the server keeps is its own business, where no setting of ours says."""
    world = ollama_world
    models = [
        {"name": f"m{seed}", "gguf": str(write_tiny(world.folder / f"{seed}.gguf", seed=seed))}
        for seed in (3, 4)
    ]
    models = [{**model, "preload": True} for model in models]
    with running_ollama(
        world.folder / "theirs", world.port(), binary=world.ollama, OLLAMA_MAX_LOADED_MODELS="1"
    ) as theirs:
        profile = world.ollamas({"o": {"port": theirs.port, "models": models}})
        ended = world.run("apply", profile, ok=False)
        assert ended.code == 1, ended.out + ended.err
        assert "evicted" in ended.out + ended.err
        [row] = [m for m in world.models("o").values() if m["reason"] == "evicted"]
        assert "when there is room" in row["message"]
        assert len(ps(theirs.port)) == 1
        assert not status(world)["converged"]
        world.run("down")
