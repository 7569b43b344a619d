"""Ollama servers and their models, declared in a profile: it is so, and stays so."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from models.make_tiny import write_tiny
from tests.look import owned, pids, rows, status, until_row
from tests.ollama_world import (
    OllamaWorld,
    ask,
    cli,
    expires_in,
    generate,
    ps,
    running_ollama,
    tags,
    unload,
)
from tests.registry import Registry, padded
from tests.world import alive, kill


def test_all_kinds_of_models_from_nothing_through_a_kill_of_each_to_nothing(
    ollama_world: OllamaWorld, registry: Registry
) -> None:
    world = ollama_world
    pulled = registry.push("lib/tiny", world.model)
    other = write_tiny(world.folder / "other.gguf", seed=7)
    world.write("loud.Modelfile", f"FROM {pulled}\nPARAMETER temperature 0\nSYSTEM Be loud.\n")
    profile = world.ollamas(
        {
            "one": [
                {"name": pulled, "insecure": True},
                {"name": "loud", "modelfile": "loud.Modelfile", "preload": True},
                {"name": "short", "alias": pulled},
            ],
            "two": [{"name": "made", "gguf": str(other), "preload": True}],
            # Neither is on disk yet: each is what one of the others is to bring.
            "blob": {"model": pulled},
            "also": {"model": "made"},
        }
    )

    done = world.run("apply", profile)

    before = rows(world)
    assert status(world)["converged"], done.out
    assert {r["phase"] for r in before.values()} == {"ready"}
    port = {name: row["port"] for name, row in before.items()}
    assert {"loud:latest", "short:latest", pulled} <= set(tags(port["one"]))
    assert "made:latest" in tags(port["two"])
    assert list(ps(port["one"])) == ["loud:latest"]
    assert list(ps(port["two"])) == ["made:latest"]
    # No second copy of the weights: it is the user's file that is served.
    blob = world.store / "blobs" / weights(world, "made")
    assert blob.samefile(other)
    assert before["also"]["command"][2] == str(blob)
    on_disk = everything_in(world.store)

    processes = owned(world)
    for row in before.values():
        kill(row["pid"])
    for name, row in before.items():
        old = row["pid"]
        until_row(world, name, lambda r, old=old: r["phase"] == "ready" and r["pid"] != old)
    world.run("wait")
    assert status(world)["converged"]
    assert not [pid for group in processes.values() for pid in group if alive(pid)]
    assert {name: row["port"] for name, row in rows(world).items()} == port
    assert list(ps(port["one"])) == ["loud:latest"]
    assert list(ps(port["two"])) == ["made:latest"]
    for name, model in (("one", pulled), ("one", "loud"), ("one", "short"), ("two", "made")):
        assert generate(port[name], model)
    assert world.complete(port["blob"])
    assert world.complete(port["also"])

    processes = owned(world)
    world.run("down")
    assert not [pid for group in processes.values() for pid in group if alive(pid)]
    assert owned(world) == {}
    assert everything_in(world.store) == on_disk


def test_saved_edits_of_the_models_leave_the_server_as_it_is(ollama_world: OllamaWorld) -> None:
    world = ollama_world
    other = write_tiny(world.folder / "other.gguf", seed=7)
    first = {"name": "first", "gguf": str(world.model), "preload": True}
    second = {"name": "second", "gguf": str(other), "preload": True}
    world.run("apply", world.ollamas({"o": [first]}))
    before = rows(world)["o"]
    port = before["port"]

    world.ollamas({"o": [first, second, {"name": "third", "alias": "second"}]})
    world.until(lambda: set(ps(port)) == {"first:latest", "second:latest"}, "it is loaded")
    world.run("wait")
    assert set(tags(port)) == {"first:latest", "second:latest", "third:latest"}
    assert generate(port, "third")

    # What is dropped leaves memory, and stays on disk.
    world.ollamas({"o": [first]})
    world.until(lambda: set(ps(port)) == {"first:latest"}, "it is unloaded")
    until_row(world, "o", lambda r: [m["name"] for m in r["models"]] == ["first:latest"])
    assert set(tags(port)) == {"first:latest", "second:latest", "third:latest"}

    # It comes back without anything to be made, under another origin.
    world.ollamas({"o": [first, {**second, "gguf": str(world.model)}]})
    world.until(lambda: weights(world, "second") == weights(world, "first"), "made anew")
    world.until_converged()
    after = rows(world)["o"]
    assert (after["pid"], after["restarts"]) == (before["pid"], 0)


def test_an_edited_modelfile_is_built_again_and_so_is_what_stands_on_it(
    ollama_world: OllamaWorld,
) -> None:
    world = ollama_world
    world.write("base.Modelfile", f"FROM {world.model}\nSYSTEM First.\n")
    world.write("upon.Modelfile", "FROM base\nPARAMETER temperature 0\n")
    profile = world.ollamas(
        {
            "o": [
                {"name": "upon", "modelfile": "upon.Modelfile"},
                {"name": "base", "modelfile": "base.Modelfile", "preload": True},
            ]
        }
    )
    world.run("apply", profile)
    before = rows(world)["o"]
    port = before["port"]
    assert [system_of(port, name) for name in ("base", "upon")] == ["First.", "First."]
    had = tags(port)

    # Saved as it was, it is the same model.
    world.run("apply", profile)
    assert tags(port) == had

    world.write("base.Modelfile", f"FROM {world.model}\nSYSTEM Second.\n")
    world.until(lambda: system_of(port, "base") == "Second.", "built again")
    world.until(lambda: system_of(port, "upon") == "Second.", "so is what stands on it")
    world.until_converged()
    world.until(lambda: list(ps(port)) == ["base:latest"], "still in memory")
    assert rows(world)["o"]["pid"] == before["pid"]


def test_prune_deletes_what_leaves_and_says_so_in_the_plan(ollama_world: OllamaWorld) -> None:
    world = ollama_world
    had_before(world, "precious", world.model)
    models = [{"name": name, "gguf": str(world.model)} for name in ("kept", "leaves")]
    world.run("apply", world.ollamas({"o": {"prune": True, "models": models}}))
    before = rows(world)["o"]
    assert set(tags(before["port"])) == {"kept:latest", "leaves:latest", "precious:latest"}

    edited = world.ollamas({"o": {"prune": True, "models": models[:1]}}, "aside/p.yaml")
    assert "leaves:latest" in world.run("plan", edited).out
    assert "delete" in world.run("plan", edited).out
    assert set(tags(before["port"])) == {"kept:latest", "leaves:latest", "precious:latest"}

    world.ollamas({"o": {"prune": True, "models": models[:1]}})
    world.until(
        lambda: set(tags(before["port"])) == {"kept:latest", "precious:latest"},
        "what left is deleted, and nothing else",
    )
    until_row(world, "o", lambda r: [m["name"] for m in r["models"]] == ["kept:latest"])
    assert rows(world)["o"]["pid"] == before["pid"]
    assert generate(before["port"], "kept")


def test_the_time_in_memory_is_held_against_requests_that_shorten_it(
    ollama_world: OllamaWorld,
) -> None:
    world = ollama_world
    other = write_tiny(world.folder / "other.gguf", seed=7)
    models = [
        {"name": "ever", "gguf": str(world.model), "preload": True},
        {"name": "hour", "gguf": str(other), "preload": True, "keep_alive": "1h"},
    ]
    world.run("apply", world.ollamas({"o": models}))
    port = world.port_of("o")
    assert expires_in(port, "ever:latest") > 1e6
    assert 3500 < expires_in(port, "hour:latest") <= 3600
    runners = set(world.runners("o"))

    generate(port, "hour", keep_alive="30s")
    # A long answer is not disturbed by what is done about the memory of its model meanwhile.
    # (Ollama gives up on a text that repeats itself.)
    options = {"presence_penalty": 2.0, "frequency_penalty": 2.0, "num_predict": 2000}
    body = {"model": "ever", "prompt": "hot", "keep_alive": "30s", "stream": False}
    with ThreadPoolExecutor(1) as pool:
        long = pool.submit(ask, port, "/api/generate", {**body, "options": options})
        world.ollamas({"o": [*models, {"name": "new", "alias": "ever"}]})
        world.until(lambda: "new:latest" in tags(port), "the edit is in force")
        assert long.result()["done_reason"] in ("length", "stop")

    for name in ("ever", "hour"):
        world.until(lambda name=name: expires_in(port, f"{name}:latest") > 3500, f"held: {name}")
    assert "kept" in [event["reason"] for event in world.events("o")]
    assert set(world.runners("o")) == runners
    assert status(world)["converged"]


def test_a_shared_store_is_filled_once(ollama_world: OllamaWorld, registry: Registry) -> None:
    world = ollama_world
    name = registry.push("lib/big", padded(world.folder / "big.gguf", world.model, 2_000_000))
    registry.rate = 4_000_000
    models = [{"name": name, "insecure": True, "preload": True}]

    world.run("apply", world.ollamas({"a": models, "b": models}))

    blob = weights(world, name).removeprefix("sha256-")
    assert (registry.downloads[blob], registry.served[blob]) == (1, 2_000_000)
    for row in rows(world).values():
        assert list(ps(row["port"])) == [name]


def test_an_edit_of_settings_replaces_that_instance_alone(ollama_world: OllamaWorld) -> None:
    world = ollama_world
    models = [{"name": "m", "gguf": str(world.model), "preload": True}]

    def write(context: int) -> Path:
        settings = {"context_length": context}
        return world.ollamas(
            {"a": {"models": models, "settings": settings}, "b": {"models": models}}
        )

    world.run("apply", write(512))
    before, ports = pids(world), {name: row["port"] for name, row in rows(world).items()}
    runners = world.runners("a")
    assert ps(ports["a"])["m:latest"]["context_length"] == 512

    write(256)
    until_row(world, "a", lambda r: r["pid"] != before["a"] and r["phase"] == "ready")
    world.until_converged()
    assert ps(ports["a"])["m:latest"]["context_length"] == 256
    assert pids(world)["b"] == before["b"]
    assert not [pid for pid in [before["a"], *runners] if alive(pid)]


def test_an_eviction_by_somebodys_request_is_told_and_not_fought(
    ollama_world: OllamaWorld,
) -> None:
    world = ollama_world
    other = write_tiny(world.folder / "other.gguf", seed=7)
    ours = {"name": "ours", "gguf": str(world.model), "preload": True}
    theirs = {"name": "theirs", "gguf": str(other)}
    settings = {"max_loaded_models": 1}
    crowded = world.ollamas(
        {"o": {"models": [ours, {**theirs, "preload": True}], "settings": settings}}
    )
    refused = world.run("validate", crowded, ok=False)
    assert refused.code == 2
    assert "max_loaded_models" in refused.out + refused.err

    world.run("apply", world.ollamas({"o": {"models": [ours, theirs], "settings": settings}}))
    port = world.port_of("o")
    generate(port, "theirs")

    world.until_model("o", "ours:latest", loaded=False, reason="evicted")
    assert not status(world)["converged"]
    assert list(ps(port)) == ["theirs:latest"]
    assert "evicted" in [event["reason"] for event in world.events("o")]
    # Once there is room it comes back; an edit of the models is a reason to look at once.
    unload(port, "theirs")
    world.ollamas({"o": {"models": [ours], "settings": settings}})
    world.until(lambda: list(ps(port)) == ["ours:latest"], "it is back")
    world.until_converged()


def test_runners_count_in_what_an_instance_takes(ollama_world: OllamaWorld) -> None:
    world = ollama_world
    models = [{"name": "m", "gguf": str(world.model)}]
    world.run("apply", world.ollamas({"o": models}))
    alone = rows(world)["o"]["memory_bytes"]

    generate(world.port_of("o"), "m")

    runner = world.runners("o")[0]
    taken = int(Path(f"/proc/{runner}/statm").read_text().split()[1]) * 4096
    until_row(world, "o", lambda r: r["memory_bytes"] > alone + taken / 2, "with its runner")


# --- what these stories share ------------------------------------------------------------------


def had_before(world: OllamaWorld, name: str, gguf: Path) -> None:
    """Somebody made a model in this store, long ago."""
    modelfile = world.write("had.Modelfile", f"FROM {gguf}\n")
    home, port = world.folder / "earlier", world.port()
    with running_ollama(home, port, binary=world.ollama, store=world.store):
        cli(world.ollama, port, "create", name, "-f", modelfile, home=home)


def weights(world: OllamaWorld, name: str) -> str:
    """The file in the store that has the weights of a model."""
    import json

    host, _, rest = name.rpartition("/lib/")
    model, _, tag = rest.partition(":")
    below = Path(host, "lib") if host else Path("registry.ollama.ai/library")
    manifest = world.store / "manifests" / below / model / (tag or "latest")
    layers: Sequence[Any] = json.loads(manifest.read_text())["layers"]
    digest = next(one["digest"] for one in layers if one["mediaType"].endswith("image.model"))
    return digest.replace(":", "-")


def everything_in(store: Path) -> set[str]:
    """All models and blobs, by their paths."""
    folders = (store / "manifests", store / "blobs")
    return {str(path) for folder in folders for path in folder.rglob("*") if path.is_file()}


def system_of(port: int, model: str) -> str:
    """The system prompt that a model was built with."""
    return ask(port, "/api/show", {"model": model}).get("system", "")
