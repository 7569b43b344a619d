"""What differs between two specs, named as a profile names it, and never a secret."""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec.structs import replace

from orchestrator.core.drift import (
    Drift,
    as_observed,
    input_drift,
    live_drift,
    own_settings,
    process_drift,
    restart_drift,
)
from orchestrator.core.plan import Action, Verb
from orchestrator.core.spec import (
    Command,
    Endpoint,
    FileIdentity,
    Inference,
    InputFile,
    InstanceSpec,
    Liveness,
    Readiness,
    RestartPolicy,
    StopPolicy,
)
from tests.unit.test_plan import A, spec, status


def command(*argv: str, cwd: str = "/state", **env: str) -> InstanceSpec:
    return replace(A, command=Command(("llama-server", *argv), env, cwd))


def drift(have: InstanceSpec, want: InstanceSpec) -> list[tuple[str, Any, Any]]:
    return [(d.field, d.have, d.want) for d in restart_drift(have, want)]


@pytest.mark.parametrize(
    ("have", "want", "expected"),
    [
        (command("--ctx-size", "1"), command("--ctx-size", "1"), []),
        (command("--ctx-size", "1"), command("--ctx-size", "2"), [("ctx-size", "1", "2")]),
        (command(), command("--mlock"), [("mlock", None, "on")]),
        (command("--mlock"), command(), [("mlock", "on", None)]),
        (command("--temp", "-1"), command("--temp", "-.5"), [("temp", "-1", "-.5")]),
        (command("--a", "-1"), command("--a", "-2"), [("a", "-1", "-2")]),
        (command("--lora", "a", "1"), command("--lora", "a", "2"), [("lora", "a 1", "a 2")]),
        (command(A="1"), command(A="2", B="3"), [("env.A", "1", "2"), ("env.B", None, "3")]),
        (command(cwd="/a"), command(cwd="/b"), [("cwd", "/a", "/b")]),
        (
            command(),
            replace(A, command=Command(("/other", "-m", "x"), {}, "/state")),
            [("binary", "llama-server", "/other -m x")],
        ),
        (
            command("--a", "1", "--b", "2"),
            command("--b", "2", "--a", "1"),
            [("command", "as it runs", "as declared")],
        ),
    ],
)
def test_what_needs_a_new_process(
    have: InstanceSpec, want: InstanceSpec, expected: list[tuple[str, Any, Any]]
) -> None:
    assert drift(have, want) == expected


def test_another_engine() -> None:
    assert drift(A, replace(A, engine="other")) == [("engine", "llama-server", "other")]


def test_a_changed_secret_is_a_difference_that_shows_nothing() -> None:
    for have, want in (
        (command(LLAMA_API_KEY="old"), command(LLAMA_API_KEY="new")),
        (command("--api-key", "old"), command("--api-key", "new")),
    ):
        found = restart_drift(have, want)
        assert found
        assert "old" not in repr(found)
        assert "new" not in repr(found)


def test_a_secret_that_comes_is_named_and_masked() -> None:
    assert drift(command(), command(HF_TOKEN="x")) == [("env.HF_TOKEN", None, "***")]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"description": "x"}, ["description:  -> x"]),
        ({"needs": ("b",)}, ["needs: none -> b"]),
        ({"profiles": ("p",)}, ["profiles: none -> p"]),
        ({"readiness": Readiness(timeout=1.0)}, ["readiness.timeout: 120.0 -> 1.0"]),
        (
            {"liveness": Liveness(interval=1.0, failures=9)},
            ["liveness.interval: 10.0 -> 1.0", "liveness.failures: 3 -> 9"],
        ),
        ({"restart": RestartPolicy("never")}, ["restart.policy: on-failure -> never"]),
        ({"stop": StopPolicy(1.0)}, ["stop.grace: 10.0 -> 1.0"]),
    ],
)
def test_what_changes_in_place(change: dict[str, Any], expected: list[str]) -> None:
    changed = replace(A, **change)
    assert [str(d) for d in live_drift(A, changed)] == expected
    assert restart_drift(A, changed) == ()
    assert live_drift(changed, changed) == ()


def test_files_that_changed_on_disk() -> None:
    def reading(identity: FileIdentity | None, path: str = "/m") -> InstanceSpec:
        return replace(A, inputs=(InputFile("model", path, identity),))

    old, new = FileIdentity(1, 1, 1), FileIdentity(1, 2, 1)
    assert input_drift(reading(old), reading(old)) == ()
    (found,) = input_drift(reading(old), reading(new))
    assert str(found) == "model: /m -> /m (changed on disk)"
    assert input_drift(reading(None), reading(new)) == (), "not known, so not changed"
    assert input_drift(reading(old, "/n"), reading(new)) == (), "another path is in the command"
    assert len(input_drift(reading(old), reading(None))) == 1


def test_how_a_difference_reads() -> None:
    assert str(Drift("ctx-size", "1", "2")) == "ctx-size: 1 -> 2"
    assert str(Drift("mlock", None, "on")) == "mlock: on (new)"
    assert str(Drift("mlock", "on", None)) == "mlock: on (gone)"


def test_the_port_is_part_of_the_command() -> None:
    moved = replace(spec(port=9), endpoint=Endpoint("127.0.0.1", 9))
    assert drift(spec(port=8), moved) == [("port", "8", "9")]


def test_what_was_adopted_by_its_mark_alone_differs_in_words_that_everybody_can_show() -> None:
    # Such a guess has nothing of what never reaches a process.
    want = replace(A, inference=Inference("/completion", "{}"))
    assert [(d.field, d.have, d.want) for d in live_drift(A, want)] == [
        ("inference.path", None, "/completion"),
        ("inference.body", None, "{}"),
    ]
    assert [str(d) for d in live_drift(want, A)] == [
        "inference.path: /completion (gone)",
        "inference.body: {} (gone)",
    ]
    action = Action(Verb.REPLACE, "a", want, live_drift(A, want))
    assert json.loads(json.dumps(action.as_json())) == action.as_json()


def test_of_somebodys_server_only_the_address_and_the_right_to_use_it_count() -> None:
    have = spec(attach="auto")

    def found(want: InstanceSpec) -> list[str]:
        return [str(one) for one in process_drift(have, want, managed=False)]

    assert found(have) == []
    assert found(replace(spec(ctx=1, attach="auto"), inputs=())) == []
    assert found(replace(have, attach="only")) == []
    assert found(replace(have, attach="never")) == ["attach: auto -> never"]
    assert found(replace(have, engine="other")) == ["engine: llama-server -> other"]
    moved = spec(port=9, attach="auto")
    assert found(moved) == ["address: 127.0.0.1:8001 -> 127.0.0.1:9"]


def test_ours_gives_way_where_somebodys_server_is_to_be_used() -> None:
    have = spec(attach="auto")
    (found,) = process_drift(have, replace(have, attach="only"))
    assert str(found) == "attach: auto -> only"
    assert process_drift(have, replace(have, attach="never")) == ()
    assert process_drift(replace(have, attach="only"), replace(have, attach="only")) == ()


def test_the_settings_that_a_profile_declares_are_told_by_its_words() -> None:
    env = {"OLLAMA_HOST": "h", "OLLAMA_MODELS": "/m", "OLLAMA_NUM_PARALLEL": "2", "X_KEY": "v"}
    ollama = replace(A, engine="ollama", command=Command(("ollama", "serve"), env, "/"))
    assert own_settings(ollama) == ["num_parallel", "env.X_KEY"]


def test_what_runs_as_declared_is_one_object_with_it() -> None:
    same, other = replace(A), spec("b", ctx=9)
    observed = {"a": status(A), "b": status(spec("b"))}
    desired = as_observed({"a": same, "b": other, "c": same}, observed)
    assert list(desired) == ["a", "b", "c"]
    assert desired["a"] is A
    assert desired["b"] is other
    assert desired["c"] is same
