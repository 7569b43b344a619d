"""`orchestrate models`: what is found, in words and in JSON, and what a model would take."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.cli.models import compact
from tests.generated_models import write_small
from tests.world import World

PROMISED = {
    *("ref", "source", "path", "engine_hint", "architecture", "parameters", "quantization"),
    *("context_length", "size_bytes"),
}


@pytest.fixture
def machine(tmp_path: Path, model: Path) -> Iterator[World]:
    """A machine with one model in ./models, and no llama-server but the embedded one."""
    made = World(tmp_path, model, {**os.environ, "PATH": "/usr/bin:/bin"})
    (tmp_path / "models").mkdir()
    shutil.copy(model, tmp_path / "models" / "tiny.gguf")
    yield made
    made.end()


def test_the_table_names_every_model(machine: World) -> None:
    write_small(machine.folder / "models" / "other-Q4_K_M.gguf")

    ran = machine.run("models")

    head, *rows = ran.out.splitlines()
    assert head.split()[0] == "REF"
    assert [row.split()[0] for row in rows] == ["other-Q4_K_M", "tiny"]
    assert rows[1].split()[1:] == ["folder", "llama", "115K", "F32", "4096", "458", "KiB"]
    assert ran.err == ""


def test_json_has_the_promised_shape(machine: World) -> None:
    document = machine.run("models", "--json").json

    assert set(document) == {"models", "errors"}
    [one] = document["models"]
    assert set(one) >= PROMISED
    assert one["ref"] == "tiny"
    assert one["path"] == str(machine.folder / "models" / "tiny.gguf")
    assert one["size_bytes"] == machine.model.stat().st_size
    assert one["parameters"] == 115_008
    assert one["engine_hint"] == "llama-server"


def test_what_cannot_be_read_is_named_and_stops_nothing(machine: World) -> None:
    (machine.folder / "models" / "cut.gguf").write_bytes(b"GGUF\x03\x00")

    ran = machine.run("models")
    document = machine.run("models", "--json").json

    assert "tiny" in ran.out
    assert "cut.gguf" in ran.err
    assert "cut.gguf" not in ran.out
    assert len(document["models"]) == 1
    [error] = document["errors"]
    assert set(error) == {"path", "message", "hint"}
    assert error["path"].endswith("cut.gguf")


def test_folders_of_the_environment_and_of_profiles_count(machine: World) -> None:
    write_small(machine.folder / "elsewhere" / "one.gguf")
    write_small(machine.folder / "beside" / "two.gguf")
    machine.write("profiles/p.yaml", "catalog: {dirs: [../beside]}\ninstances: {}\n")
    machine.write("profiles/broken.yaml", "catalog: {dirs: [\n")

    ran = machine.run("models", "--json", ORCHESTRATE_MODELS=str(machine.folder / "elsewhere"))

    assert {one["ref"] for one in ran.json["models"]} == {"one", "two", "tiny"}


def test_without_any_model_it_says_what_to_do(machine: World) -> None:
    (machine.folder / "models" / "tiny.gguf").unlink()

    ran = machine.run("models")

    assert ran.out == ""
    assert "no models found" in ran.err
    assert "ORCHESTRATE_MODELS" in ran.err
    assert str(machine.folder / "models") in ran.err
    assert machine.run("models", "--json").json == {"models": [], "errors": []}


def test_show_tells_all_and_estimates(machine: World) -> None:
    text = machine.run("models", "show", "tiny").out
    small = machine.run("models", "show", "tiny", "--ctx-size", 512, "--json").json
    wide = machine.run("models", "show", "tiny", "--ctx-size", 2048, "--json").json
    narrow = machine.run(
        *("models", "show", "tiny", "--json", "--ctx-size", 2048),
        *("--cache-type-k", "q8_0", "--cache-type-v", "q8_0"),
    ).json

    assert "tiny-random" in text
    assert "memory for 4096 tokens, 1 slot, f16/f16" in text
    assert "total" in text
    assert set(small) >= PROMISED | {"memory", "layers", "chat_template"}
    memory = small["memory"]
    assert memory["context"] == 512
    parts = ("weights", "repacked", "kv_cache", "compute", "program")
    assert memory["total"] == sum(memory[part] for part in parts)
    assert wide["memory"]["kv_cache"] == 4 * memory["kv_cache"]
    assert narrow["memory"]["kv_cache"] < wide["memory"]["kv_cache"]


def test_show_counts_slots(machine: World) -> None:
    one = machine.run("models", "show", "tiny", "--ctx-size", 300, "--json").json["memory"]
    four = machine.run("models", "show", "tiny", "--ctx-size", 300, "--parallel", 4, "--json").json[
        "memory"
    ]

    assert four["parallel"] == 4
    assert four["kv_cache"] == 2 * one["kv_cache"]  # 4 x 256 cells against 512


def test_show_knows_every_way_to_name_a_model(machine: World) -> None:
    write_small(machine.folder / "far" / "away.gguf")

    for ref in ("tiny.gguf", "TINY", "tiny:F32", "./models/tiny", machine.folder / "models/tiny"):
        assert machine.run("models", "show", ref, "--json").json["ref"] == "tiny"
    assert machine.run("models", "show", "far/away.gguf", "--json").json["ref"] == "away"


def test_an_unknown_model_is_wrong_input_with_the_nearest(machine: World) -> None:
    ran = machine.run("models", "show", "tinny", ok=False)

    assert ran.code == 2
    assert ran.err.splitlines()[0] == "error: unknown model 'tinny'"
    assert "did you mean 'tiny'" in ran.err
    assert ran.out == ""


def test_an_ambiguous_model_lists_the_candidates(machine: World) -> None:
    paths = [machine.folder / "models" / folder / "twin.gguf" for folder in ("a", "b")]
    for path in paths:
        write_small(path)

    ran = machine.run("models", "show", "twin", ok=False)

    assert ran.code == 2
    assert "ambiguous" in ran.err
    assert all(str(path) in ran.err for path in paths)


def test_names_cannot_steer_the_terminal(machine: World) -> None:
    write_small(machine.folder / "models" / "evil\x1b[31m.gguf", name="x\x07y")

    assert "\x1b" not in machine.run("models").out
    assert "\x07" not in machine.run("models", "show", "x\x07y").out


def test_json_belongs_to_the_subcommand(machine: World) -> None:
    ran = machine.run("models", "--json", "show", "tiny", ok=False)

    assert ran.code == 2
    assert "--json" in ran.err


@pytest.mark.parametrize(
    ("count", "said"),
    [(None, "-"), (12, "12"), (1500, "1.5K"), (494_032_768, "494M"), (7_615_616_512, "7.6B")],
)
def test_counts_as_people_say_them(count: int | None, said: str) -> None:
    assert compact(count) == said
