"""`orchestrate init`: from the models on this machine to a profile that applies."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from orchestrator.cli.first_profile import FEW, OllamaPick, Pick, chosen, named, render
from orchestrator.core.catalog import Catalog, Metadata, Model, Purpose
from orchestrator.core.spec import FileIdentity
from tests.generated_models import write_small
from tests.ollama_world import OllamaWorld, cli, running_ollama
from tests.stand_ins import stand_in
from tests.world import World, alive, listening

GIB = 1 << 30


@pytest.fixture
def machine(tmp_path: Path, model: Path) -> Iterator[World]:
    """A machine with a chat model and an embedder in ./models, the embedded engine, no Ollama."""
    from models.make_tiny import write_tiny_embedding

    made = World(tmp_path, model, {**os.environ, "PATH": "/usr/bin:/bin"})
    made.env["OLLAMA_HOST"] = f"127.0.0.1:{made.port()}"
    (tmp_path / "models").mkdir()
    shutil.copy(model, tmp_path / "models" / "tiny.gguf")
    write_tiny_embedding(tmp_path / "models" / "tiny-embed.gguf")
    yield made
    made.end()


def test_what_it_writes_applies(machine: World) -> None:
    ran = machine.run("init")

    assert "wrote profiles/first.yaml: chat (tiny), embed (tiny-embed), and a gateway" in ran.out
    assert "next: orchestrate apply first" in ran.out
    machine.run("validate", "first")
    # From anywhere: it names the folder that its models are in.
    machine.run("validate", machine.folder / "profiles" / "first.yaml", HOME="/nonexistent")
    machine.run("apply", "first")
    assert {row["name"] for row in machine.status()["instances"]} == {"chat", "embed"}
    assert machine.status()["gateway"]["phase"] == "ready"


def test_several_get_one_address_and_one_alone_needs_none(machine: World) -> None:
    document = yaml.safe_load(machine.run("init", "-").out)
    alone = yaml.safe_load(machine.run("init", "-", "--model", "tiny").out)

    ports = [one["port"] for one in document["instances"].values()]
    assert document["gateway"]["port"] not in ports
    assert "gateway" not in alone
    with listening(document["gateway"]["port"]):
        again = yaml.safe_load(machine.run("init", "-").out)
    assert again["gateway"]["port"] != document["gateway"]["port"]


def test_its_first_line_names_a_schema_that_is_there(machine: World) -> None:
    machine.run("init")

    first = (machine.folder / "profiles" / "first.yaml").read_text().splitlines()[0]
    assert first == "# yaml-language-server: $schema=./profile.schema.json"
    schema = machine.folder / "profiles" / "profile.schema.json"
    assert schema.read_text() == machine.run("schema").out


def test_it_never_overwrites_unasked(machine: World) -> None:
    target = machine.write("profiles/first.yaml", "# mine\n")

    ran = machine.run("init", ok=False)

    assert ran.code == 2
    assert "--force" in ran.err
    assert target.read_text() == "# mine\n"
    machine.run("init", "--force")
    assert "instances:" in target.read_text()


def test_a_dash_is_stdout(machine: World) -> None:
    ran = machine.run("init", "-")

    assert set(yaml.safe_load(ran.out)["instances"]) == {"chat", "embed"}
    assert not (machine.folder / "profiles").exists()


def test_named_models_are_taken(machine: World) -> None:
    write_small(machine.folder / "models" / "Second Model #2.gguf")

    machine.run("init", "some.yaml", "--model", "tiny", "--model", "Second Model #2")

    document = yaml.safe_load((machine.folder / "some.yaml").read_text())
    assert {name: one["model"] for name, one in document["instances"].items()} == {
        "chat": "tiny",
        "second-model-2": "Second Model #2",
    }
    machine.run("validate", "some.yaml")


def test_an_unknown_model_is_wrong_input(machine: World) -> None:
    ran = machine.run("init", "--model", "tinny", ok=False)

    assert ran.code == 2
    assert "did you mean 'tiny'" in ran.err
    assert not (machine.folder / "profiles").exists()


def test_without_models_it_says_what_to_do(machine: World) -> None:
    shutil.rmtree(machine.folder / "models")

    ran = machine.run("init", ok=False)

    assert ran.code == 1
    assert "no models found" in ran.err
    assert "./models" in ran.err


def test_without_an_engine_nothing_is_written(machine: World) -> None:
    ran = machine.run("init", ok=False, ORCHESTRATE_LLAMA_SERVER="/nowhere")

    assert ran.code == 2
    assert "/nowhere" in ran.err
    assert not (machine.folder / "profiles").exists()


def test_a_name_that_two_models_have_is_written_as_a_path(machine: World) -> None:
    write_small(machine.folder / "models" / "deeper" / "tiny.gguf")
    path = machine.folder / "models" / "tiny.gguf"

    ran = machine.run("init", "-", "--model", path)

    assert yaml.safe_load(ran.out)["instances"]["chat"]["model"] == str(path)


@pytest.mark.parametrize("stem", ["true", "12", "a: b", "- x", "it's", "über", "${env:HOME}"])
def test_odd_names_stay_names(machine: World, stem: str) -> None:
    write_small(machine.folder / "models" / f"{stem}.gguf")

    machine.run("init", "p.yaml", "--model", stem)

    machine.run("validate", "p.yaml")


def test_ports_that_are_taken_are_left_out(machine: World) -> None:
    taken = yaml.safe_load(machine.run("init", "-").out)["instances"]["chat"]["port"]
    with listening(taken):
        again = yaml.safe_load(machine.run("init", "-").out)

    assert taken not in [one["port"] for one in again["instances"].values()]


# --- Ollama ------------------------------------------------------------------------------------


@pytest.fixture
def with_ollama(ollama_world: OllamaWorld) -> OllamaWorld:
    """A machine with an Ollama whose store has two models; nobody runs it."""
    store = ollama_world.folder / ".ollama/models"
    for ref in ("llama3.1:8b", "nomic-embed-text:latest"):
        stand_in(ref, home=ollama_world.folder, folder=store, tiny=ollama_world.model)
    ollama_world.env["OLLAMA_MODELS"] = str(store)
    ollama_world.env["OLLAMA_HOST"] = f"127.0.0.1:{ollama_world.port()}"
    return ollama_world


@pytest.mark.ollama
def test_an_ollama_that_is_here_becomes_an_instance_with_its_models(
    with_ollama: OllamaWorld,
) -> None:
    ran = with_ollama.run("init")

    assert "wrote profiles/first.yaml: ollama (2 models)" in ran.out
    document = yaml.safe_load((with_ollama.folder / "profiles" / "first.yaml").read_text())
    [instance] = document["instances"].values()
    assert sorted(instance.pop("models")) == ["llama3.1:8b", "nomic-embed-text:latest"]
    port = int(with_ollama.env["OLLAMA_HOST"].rpartition(":")[2])
    assert instance == {"engine": "ollama", "port": port, "attach": "auto"}
    assert with_ollama.run("validate", "first").err == ""


@pytest.mark.ollama
def test_what_ollama_does_not_serve_goes_beside_it(with_ollama: OllamaWorld) -> None:
    (with_ollama.folder / "models").mkdir()
    shutil.copy(with_ollama.model, with_ollama.folder / "models" / "tiny.gguf")

    document = yaml.safe_load(with_ollama.run("init", "-").out)

    models = {name: one.get("model") for name, one in document["instances"].items()}
    assert models == {"chat": "tiny", "ollama": None}


@pytest.mark.ollama
def test_a_server_that_runs_is_asked_for_its_models_and_attached_to(
    ollama_world: OllamaWorld, ollama: str
) -> None:
    world, port = ollama_world, ollama_world.port()
    # Neither the program nor the store of that server is this user's.
    world.env.update(ORCHESTRATE_OLLAMA="", PATH="/usr/bin:/bin", OLLAMA_HOST=f"127.0.0.1:{port}")
    recipe = world.write("Modelfile", f"FROM {world.model}\n")
    with running_ollama(world.folder / "theirs", port, binary=ollama) as server:
        cli(ollama, port, "create", "mine", "-f", recipe, home=world.folder)

        world.run("init")
        document = yaml.safe_load((world.folder / "profiles" / "first.yaml").read_text())
        assert document["instances"]["ollama"]["models"] == ["mine:latest"]

        world.run("apply", "first")
        row = world.instance("ollama")
        assert (row["managed"], row["pid"]) == (False, server.pid)
        world.run("down")
        assert alive(server.pid)


@pytest.mark.ollama
def test_an_ollama_without_models_is_a_beginning_too(with_ollama: OllamaWorld) -> None:
    with_ollama.run("init", OLLAMA_MODELS=str(with_ollama.folder / "none"), HOME="/nonexistent")

    with_ollama.run("validate", "first")


@pytest.mark.ollama
def test_a_port_of_its_that_is_taken_is_left_to_whoever_has_it(with_ollama: OllamaWorld) -> None:
    port = int(with_ollama.env["OLLAMA_HOST"].rpartition(":")[2])
    with listening(port):
        document = yaml.safe_load(with_ollama.run("init", "-").out)

    assert document["instances"]["ollama"]["port"] > port


@pytest.mark.ollama
def test_named_models_are_taken_without_it(with_ollama: OllamaWorld) -> None:
    document = yaml.safe_load(with_ollama.run("init", "-", "--model", "llama3.1:8b").out)

    assert {one["model"] for one in document["instances"].values()} == {"llama3.1:8b"}


def test_an_ollama_that_was_named_and_is_not_there_is_an_error(machine: World) -> None:
    ran = machine.run("init", ok=False, ORCHESTRATE_OLLAMA="/nowhere/ollama")

    assert ran.code == 2
    assert "/nowhere/ollama" in ran.err
    assert not (machine.folder / "profiles").exists()


def test_only_some_of_many_models_are_named() -> None:
    many = tuple(f"m{number}:latest" for number in range(FEW + 3))

    text = render([], [], Catalog(), "/p", ollama=OllamaPick(11434, many))

    assert yaml.safe_load(text)["instances"]["ollama"]["models"] == list(many[:FEW])
    assert "# and 3 more: see `orchestrate models`" in text


# --- choosing ----------------------------------------------------------------------------------


def made(ref: str, size: int, purpose: Purpose = "generative", *, template: bool = True) -> Model:
    """A model of `size` GiB with as many billions of parameters."""
    metadata = Metadata(
        architecture="llama",
        parameters=size * 10**9,
        context_length=16384,
        purpose=purpose,
        chat_template=template,
    )
    identity = FileIdentity(size * GIB, 0, 0)
    path = f"/m/{ref}.gguf"
    return Model(ref, "folder", path, size * GIB, (path,), identity, metadata)


def refs(picks: list[Pick]) -> dict[str, str]:
    return {pick.name: pick.model.ref for pick in picks}


def test_the_largest_that_fits_beside_the_smallest_embedder() -> None:
    models = [
        *(made("small", 2), made("middle", 7), made("huge", 70)),
        *(made("e-large", 2, "embedding"), made("e-small", 1, "embedding")),
        made("judge", 1, "reranker"),
    ]

    assert refs(chosen(models, 12 * GIB)) == {"chat": "middle", "embed": "e-small"}


def test_the_smallest_when_none_fits() -> None:
    assert refs(chosen([made("big", 30), made("bigger", 70)], 8 * GIB)) == {"chat": "big"}


def test_a_chat_template_goes_before_size() -> None:
    models = [made("base", 7, template=False), made("chat", 3)]

    assert refs(chosen(models, 32 * GIB)) == {"chat": "chat"}
    assert refs(chosen(models[:1], 32 * GIB)) == {"chat": "base"}


def test_a_context_is_one_that_the_model_has() -> None:
    [pick] = chosen([made("m", 2)], 32 * GIB)

    assert pick.context == 16384


def test_names_are_told_apart() -> None:
    models = [made("A Chat", 1), made("A chat!", 2), made("a-chat", 3), made("e", 1, "embedding")]

    assert list(refs(named(models, 32 * GIB))) == ["chat", "a-chat", "a-chat-2", "embed"]


def test_nothing_is_picked_from_nothing() -> None:
    assert chosen([], 8 * GIB) == []
    assert chosen([made("a\x1bb", 1)], 8 * GIB) == []
