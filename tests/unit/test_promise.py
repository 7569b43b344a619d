"""A llama-server whose model an Ollama instance of the same set is still to bring."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from orchestrator.core.check import check
from orchestrator.core.convergence import convergence
from orchestrator.core.plan import Verb, make_plan
from orchestrator.core.preview import preview
from orchestrator.core.promise import Promises, kept_promises
from orchestrator.core.spec import Awaited, ModelSet, ModelSpec
from orchestrator.core.status import ModelState, ModelStatus, Observed, Phase
from tests.unit.test_plan import spec, status

WAITS = spec("chat", port=8002, awaits=Awaited("one", "tiny:latest"))
BRINGS = spec("one", engine="ollama", holds=ModelSet((ModelSpec("tiny:latest"),), store="/s"))
DESIRED = {"one": BRINGS, "chat": WAITS}


def brought(state: ModelState = ModelState.PRESENT) -> Observed:
    return {"one": replace(status(BRINGS), models=(ModelStatus("tiny:latest", state),))}


@pytest.mark.parametrize(
    ("observed", "message"),
    [
        ({}, "waits for model tiny:latest, which is missing on one"),
        (brought(ModelState.PULLING), "waits for model tiny:latest, which is pulling on one"),
        (brought(ModelState.FAILED), "waits for model tiny:latest, which is failed on one"),
    ],
)
def test_it_waits_and_says_for_what(observed: Observed, message: str) -> None:
    plan = make_plan(DESIRED, observed, 0.0)
    assert (plan.pending["chat"].reason, plan.pending["chat"].message) == ("blocked", message)
    assert all(action.instance != "chat" for action in plan.actions)
    shown = {action.instance: action.message for action in preview(DESIRED, observed, 0.0)}
    assert shown["chat"] == message


@pytest.mark.parametrize(
    ("state", "settled"),
    [
        (ModelState.PULLING, False),
        # It is there, and about to be found: nobody is to give up in that moment.
        (ModelState.PRESENT, False),
        (ModelState.FAILED, True),
    ],
)
def test_who_waits_for_all_gives_up_only_once_nothing_comes(
    state: ModelState, settled: bool
) -> None:
    observed = brought(state)
    found = convergence(DESIRED, observed, make_plan(DESIRED, observed, 0.0))
    assert (found.converged, found.settled) == (False, settled)


def test_a_model_in_a_store_that_cannot_be_read_is_not_waited_for_forever() -> None:
    desired = {"one": BRINGS, "chat": replace(WAITS, awaits=Awaited("one", "tiny:latest", True))}
    plan = make_plan(desired, brought(), 0.0)
    assert "in no store that can be read from here" in plan.pending["chat"].message
    assert convergence(desired, brought(), plan).settled


def test_what_runs_goes_on_when_its_model_was_removed() -> None:
    runs = replace(WAITS, awaits=None, description="as it was")
    observed = {**brought(ModelState.MISSING), "chat": status(runs)}
    assert make_plan(DESIRED, observed, 0.0).actions == ()
    assert observed["chat"].phase is Phase.READY


@pytest.mark.parametrize("word", [{"held": True}, {"condemned": "hung"}])
def test_what_is_to_end_is_ended_though_its_model_was_removed(word: dict[str, Any]) -> None:
    runs = replace(WAITS, awaits=None)
    observed = {**brought(ModelState.MISSING), "chat": replace(status(runs), **word)}
    plan = make_plan(DESIRED, observed, 0.0)
    assert [(one.verb, one.instance) for one in plan.actions] == [(Verb.STOP, "chat")]


def test_promises_are_those_of_all_profiles_and_instances() -> None:
    blocks: dict[str, Any] = {
        "defaults": {"ollama": {"settings": {"models": "./store"}}},
        "instances": {
            "a": {"engine": "ollama", "models": ["x", {"pull": "h:1/n/y:2"}, {"gguf": "z"}]},
            "b": {"engine": "ollama", "settings": {"models": "/other"}, "models": ["w"]},
            "c": {"model": "x"},
            "d": {"engine": "ollama", "settings": {"models": "~/own"}},
        },
    }
    profile, issues = check(blocks)
    assert profile is not None
    assert issues == []
    found = Promises().and_of(profile, "/p", "/home/me").and_of_specs([BRINGS, spec("plain")])
    assert found.models == {
        "x:latest": "a",
        "h:1/n/y:2": "a",
        "w:latest": "b",
        "tiny:latest": "one",
    }
    assert found.stores == ("/p/store", "/other", "/home/me/own", "/s")


def test_a_promise_is_kept_once_the_model_is_present() -> None:
    assert kept_promises(brought()) == {"tiny:latest"}
    assert kept_promises(brought(ModelState.BUILDING)) == frozenset()
