"""The examples in `profiles/`: each is valid, and means what its comments say."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.core.schema import profile_schema
from tests.conftest import OLLAMA
from tests.stand_ins import models_on_disk, stand_in
from tests.world import World

ROOT = Path(__file__).parent.parent.parent
PROFILES = sorted((ROOT / "profiles").glob("*.yaml"))
NAMED = pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)


@pytest.fixture(params=["real", "embedded"])
def checkout(tmp_path: Path, model: Path, request: pytest.FixtureRequest) -> Iterator[World]:
    """The examples in a folder of their own, beside stand-ins for the models that they name."""
    env = {**os.environ, "PATH": "/usr/bin:/bin"}
    if request.param == "real":
        env["ORCHESTRATE_LLAMA_SERVER"] = request.getfixturevalue("llama_server")
    if OLLAMA is not None:
        env["ORCHESTRATE_OLLAMA"] = OLLAMA
    made = World(tmp_path, model, env)
    shutil.copytree(ROOT / "profiles", tmp_path / "profiles")
    for path in PROFILES:
        for ref in models_on_disk(yaml.safe_load(path.read_text())):
            stand_in(ref, home=tmp_path, folder=tmp_path / "models", tiny=model)
    yield made
    made.end()


def test_there_are_examples() -> None:
    assert {path.stem for path in PROFILES} >= {"coding", "embeddings", "demo", "ollama"}


@NAMED
def test_it_is_valid_here(checkout: World, path: Path, request: pytest.FixtureRequest) -> None:
    if "engine: ollama" in path.read_text():
        request.getfixturevalue("ollama")

    ran = checkout.run("validate", f"profiles/{path.name}")

    assert ran.err == ""
    assert f"{path.name}: ok" in ran.out


@NAMED
def test_it_says_what_it_is_for(path: Path) -> None:
    text = path.read_text()

    assert text.startswith("# yaml-language-server: $schema=./profile.schema.json\n#\n# ")
    assert f"orchestrate apply profiles/{path.name}" in text
    document = yaml.safe_load(text)
    assert document["name"] == path.stem
    assert document["description"]
    assert max(len(line) for line in text.splitlines()) <= 100
    # A person's own paths and addresses are no example.
    assert not re.search(r"/home/|/root/|/Users/", text)


def test_the_schema_beside_them_is_that_of_the_code() -> None:
    written = json.loads((ROOT / "profiles" / "profile.schema.json").read_text())

    assert written == profile_schema(), "run: orchestrate schema --out profiles/profile.schema.json"


def test_those_that_share_a_server_go_together(checkout: World) -> None:
    ran = checkout.run("validate", "profiles/coding.yaml", "profiles/embeddings.yaml")

    assert ran.err == ""


def test_a_switch_keeps_what_two_declare_alike(checkout: World) -> None:
    plans: list[Any] = [
        checkout.run("plan", f"profiles/{name}.yaml", "--json").json["actions"]
        for name in ("coding", "embeddings")
    ]

    assert [{one["instance"] for one in plan} for plan in plans] == [
        {"coder", "embed"},
        {"embed", "rerank"},
    ]
    documents = [
        yaml.safe_load((ROOT / "profiles" / f"{name}.yaml").read_text())
        for name in ("coding", "embeddings")
    ]
    assert documents[0]["defaults"] == documents[1]["defaults"]
    assert documents[0]["instances"]["embed"] == documents[1]["instances"]["embed"]


def test_the_demo_comes_up(checkout: World) -> None:
    demo = checkout.folder / "profiles" / "demo.yaml"
    demo.write_text(demo.read_text().replace("18181", str(checkout.port())))

    checkout.run("apply", demo)

    rows = {row["name"]: row for row in checkout.status()["instances"]}
    assert set(rows) == {"chat", "draft", "embed"}
    assert all(row["phase"] == "ready" for row in rows.values())
    assert checkout.complete(rows["chat"]["port"])


def test_the_demo_is_as_the_script_expects_it() -> None:
    document = yaml.safe_load((ROOT / "profiles" / "demo.yaml").read_text())

    instances = document["instances"]
    assert list(instances) == ["chat", "draft", "embed"]
    assert {one["model"] for one in instances.values()} == {"tiny"}
    assert [one["port"] for one in instances.values()] == [18181, "auto", "auto"]
    assert document["catalog"]["dirs"] == ["../models"]


@pytest.mark.ollama
@pytest.mark.usefixtures("ollama")
def test_the_ollama_says_how_it_comes_by_its_models(checkout: World) -> None:
    plan = checkout.run("plan", "profiles/ollama.yaml", "--json").json["actions"]

    start = next(one for one in plan if one["instance"] == "ollama")
    ways = {one["field"]: one["want"] for one in start["reasons"]}
    modelfile = checkout.folder / "profiles" / "reviewer.Modelfile"
    gguf = checkout.folder / "models" / "tiny.gguf"
    assert ways == {
        "models.llama3.1:8b": "pulled",
        "models.nomic-embed-text:latest": "pulled",
        "models.reviewer:latest": f"built by {modelfile}, preload, keep_alive -1",
        "models.tiny:latest": f"made from {gguf}, keep_alive 5m",
        "models.assistant:latest": "a copy of llama3.1:8b",
    }


def test_its_embedder_is_that_of_the_others() -> None:
    documents = [
        yaml.safe_load((ROOT / "profiles" / f"{name}.yaml").read_text())
        for name in ("coding", "ollama")
    ]
    assert documents[0]["defaults"] == documents[1]["defaults"]
    assert documents[0]["instances"]["embed"] == documents[1]["instances"]["embed"]
