"""`orchestrate profiles` and `schema`."""

from __future__ import annotations

import json
import os

from tests.world import World


def rows(world: World) -> dict[str, dict[str, object]]:
    return {one["name"]: one for one in world.run("profiles", "--json").json["profiles"]}


def test_every_profile_with_its_verdict(world: World) -> None:
    world.profile({"a": None, "b": None}, name="profiles/good.yaml", description="Two of them")
    world.write("profiles/bad.yaml", "instances:\n  a: {modle: x}\n  b: {model: nowhere}\n")
    world.write("profiles/lost.yaml", "instances:\n  a: {model: nowhere}\n")
    world.write("profiles/.hidden.yaml", "instances: {}\n")
    world.write("profiles/notes.txt", "no profile")

    found = rows(world)
    text = world.run("profiles").out

    assert set(found) == {"good", "bad", "lost"}
    assert found["good"]["ok"]
    assert found["good"]["description"] == "Two of them"
    assert found["good"]["instances"] == ["a", "b"]
    assert found["good"]["file"] == str(world.folder / "profiles" / "good.yaml")
    assert not found["bad"]["ok"]
    assert "modle" in json.dumps(found["bad"]["errors"])
    assert not found["lost"]["ok"]
    assert "unknown model 'nowhere'" in json.dumps(found["lost"]["errors"])
    assert not any(one["active"] for one in found.values())
    line = next(line for line in text.splitlines() if line.startswith("lost"))
    assert "no: 1 error" in line
    assert "line 2: unknown model 'nowhere'" in line
    assert "Two of them" in text


def test_a_gateway_is_no_instance_and_is_said(world: World) -> None:
    world.profile({"a": None, "b": None}, "profiles/both.yaml", gateway={"port": 8080})

    text = world.run("profiles").out
    line = next(line for line in text.splitlines() if line.startswith("both"))
    assert line.split()[2:5] == ["2", "+", "gateway"]
    assert (rows(world)["both"]["instances"], rows(world)["both"]["gateway"]) == (["a", "b"], True)
    assert world.run("validate", "both").out.endswith(": ok, 2 instances and a gateway\n")


def test_what_is_applied_is_active_wherever_it_lies(world: World) -> None:
    world.profile({"a": None}, name="profiles/here.yaml")
    elsewhere = world.profile({"b": None}, name="far/there.yaml")
    world.write("profiles/idle.yaml", "instances: {}\n")
    world.run("apply", "here", elsewhere)

    found = rows(world)
    assert {name for name, one in found.items() if one["active"]} == {"here", "there"}
    assert found["there"]["file"] == str(elsewhere)

    world.run("daemon", "stop")
    elsewhere.unlink()
    found = rows(world)
    assert {name for name, one in found.items() if one["active"]} == {"here", "there"}
    assert "does not exist" in json.dumps(found["there"]["errors"])


def test_an_applied_profile_is_judged_with_the_shell_that_applied_it(world: World) -> None:
    world.write("profiles/p.yaml", "instances: {a: {model: '${env:CHOSEN}'}}\n")
    world.run("apply", "p", CHOSEN=str(world.model))

    assert rows(world)["p"]["ok"]


def test_a_pipe_is_no_profile_and_is_not_waited_for(world: World) -> None:
    (world.folder / "folder").mkdir()
    os.mkfifo(world.folder / "folder" / "pipe.yaml")

    for word in ("folder/pipe.yaml", "folder"):
        ran = world.run("validate", word, ok=False)
        assert ran.code == 2
        assert "pipe.yaml:1:1: the file cannot be read: it is no regular file" in ran.err


def test_without_profiles_it_says_what_to_do(world: World) -> None:
    ran = world.run("profiles")

    assert ran.out == ""
    assert "orchestrate init" in ran.err
    assert world.run("profiles", "--json").json == {"profiles": []}


def test_the_schema_is_one_document(world: World) -> None:
    schema = world.run("schema").json

    assert schema["$schema"].startswith("http://json-schema.org/")
    assert "instances" in schema["required"]


def test_the_schema_goes_into_a_file(world: World) -> None:
    world.run("schema", "--out", "made/profile.schema.json")

    written = (world.folder / "made" / "profile.schema.json").read_text()
    assert written == world.run("schema").out


def test_a_file_that_cannot_be_written_is_wrong_input(world: World) -> None:
    world.write("file", "")

    ran = world.run("schema", "--out", "file/schema.json", ok=False)

    assert ran.code == 2
    assert ran.err.startswith("error: file/schema.json cannot be written")
