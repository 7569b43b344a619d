"""Models of an instance: how what is seen of them is folded, planned for, and waited for."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest

from orchestrator.core.drift import describe, live_drift
from orchestrator.core.event import Event, EventType
from orchestrator.core.fold import fold
from orchestrator.core.plan import Verb, convergence, make_plan, preview, renewals
from orchestrator.core.provision import lacking
from orchestrator.core.spec import (
    Built,
    Copied,
    FileIdentity,
    Imported,
    InputFile,
    InstanceSpec,
    ModelSet,
    ModelSpec,
    Pulled,
)
from orchestrator.core.status import (
    InstanceStatus,
    ModelState,
    ModelStatus,
    Phase,
)
from tests.unit.test_plan import spec, status

TINY, BIG = ModelSpec("tiny:latest"), ModelSpec("big:7b", preload=True, keep_alive=-1.0)


def holding(*models: ModelSpec, **more: object) -> InstanceSpec:
    holds = replace(ModelSet(models, store="/store"), **more)  # type: ignore[arg-type]
    return spec(engine="ollama", holds=holds)


def having(of: InstanceSpec, *models: ModelStatus, **more: object) -> InstanceStatus:
    return replace(status(of), models=models, **more)  # type: ignore[arg-type]


def there(name: str, **more: object) -> ModelStatus:
    return replace(ModelStatus(name, ModelState.PRESENT), **more)  # type: ignore[arg-type]


def seen(model: ModelStatus, reason: str = "", start_id: str = "s1") -> Event:
    data = {"start_id": start_id, "model": {**asdict(model), "state": model.state.value}}
    return Event(EventType.MODEL, "a", reason=reason, data=data)


def test_a_model_is_folded_by_its_name() -> None:
    before = having(holding(TINY, BIG), there("tiny:latest"))
    pulling = ModelStatus("big:7b", ModelState.PULLING, bytes_done=5, bytes_total=9)
    after = fold({"a": before}, seen(pulling))["a"]
    assert after.models == (there("tiny:latest"), pulling)
    done = there("big:7b", loaded=True)
    after = fold({"a": after}, seen(done))["a"]
    assert after.models == (there("tiny:latest"), done)
    assert fold({"a": after}, seen(done, "gone"))["a"].models == (there("tiny:latest"),)


def test_what_an_earlier_run_had_says_nothing_of_this_one() -> None:
    before = {"a": having(holding(TINY), there("tiny:latest"))}
    assert fold(before, seen(ModelStatus("tiny:latest"), start_id="s0")) == before


def test_a_new_run_knows_of_no_model_yet() -> None:
    old = having(holding(TINY), there("tiny:latest"))
    begun = Event(EventType.STARTING, "a", data={"start_id": "s2"}, spec=holding(TINY))
    assert fold({"a": old}, begun)["a"].models == ()


@pytest.mark.parametrize(
    ("models", "said", "moving"),
    [
        ((), ["missing: tiny:latest", "missing: big:7b"], True),
        ((there("tiny:latest"), there("big:7b")), ["loading big:7b"], True),
        ((there("tiny:latest"), there("big:7b", loaded=True)), [], False),
        ((there("tiny:latest"), there("big:7b", rested=True)), [], False),
        (
            (there("tiny:latest"), there("big:7b", reason="evicted")),
            ["evicted big:7b"],
            False,
        ),
        (
            (
                ModelStatus("tiny:latest", ModelState.FAILED, message="no such model"),
                there("big:7b", loaded=True),
            ),
            ["failed (no such model): tiny:latest"],
            False,
        ),
        (
            (
                ModelStatus("tiny:latest", ModelState.PULLING, message="1 of 2 MB"),
                there("big:7b", loaded=True),
            ),
            ["pulling (1 of 2 MB): tiny:latest"],
            True,
        ),
    ],
)
def test_what_lacks_keeps_it_from_having_converged(
    models: tuple[ModelStatus, ...], said: list[str], moving: bool
) -> None:
    wanted = holding(TINY, BIG)
    observed = {"a": having(wanted, *models)}
    assert [str(lack) for lack in lacking(wanted.holds, models)] == said
    plan = make_plan({"a": wanted}, observed, 0.0)
    state = convergence({"a": wanted}, observed, plan)
    assert state.converged == (not said)
    assert state.settled == (not moving)
    assert list(state.missing) == [f"a: {one}" for one in said]


def test_an_engine_without_models_of_its_own_lacks_none() -> None:
    assert lacking(None, ()) == []


@pytest.mark.parametrize(
    ("have", "want", "field"),
    [
        ((), (TINY,), "models.tiny:latest"),
        ((TINY,), (), "models.tiny:latest"),
        ((TINY,), (replace(TINY, preload=True),), "models.tiny:latest"),
        (
            (replace(TINY, origin=Built("/m", "FROM x")),),
            (replace(TINY, origin=Built("/m", "FROM y")),),
            "models.tiny:latest",
        ),
    ],
)
def test_models_change_in_place(
    have: tuple[ModelSpec, ...], want: tuple[ModelSpec, ...], field: str
) -> None:
    runs, wanted = holding(*have), holding(*want)
    (action,) = make_plan({"a": wanted}, {"a": having(runs)}, 0.0).actions
    assert (action.verb, [d.field for d in action.drift]) == (Verb.PROVISION, [field])
    done = fold({"a": having(runs)}, Event(EventType.UPDATED, "a", spec=wanted))
    assert make_plan({"a": wanted}, done, 0.0).actions == ()
    assert done["a"].process == having(runs).process


def test_how_models_are_held_changes_in_place() -> None:
    wanted = holding(TINY, prune=True, verify=60.0)
    (action,) = make_plan({"a": wanted}, {"a": having(holding(TINY))}, 0.0).actions
    assert (action.verb, action.message) == (
        Verb.UPDATE,
        "prune: False -> True; verify: 60.0 (new)",
    )


def test_the_plan_says_what_becomes_of_a_model_that_is_dropped() -> None:
    for prune, end in ((False, "unloaded"), (True, "deleted")):
        (drift,) = live_drift(holding(TINY), holding(prune=prune))[:1]
        assert (drift.have, drift.want) == ("pulled", end)


def test_another_origin_puts_in_question_what_was_there() -> None:
    wanted = holding(replace(TINY, origin=Built("/m", "FROM x")), BIG)
    before = having(holding(TINY, BIG), there("tiny:latest", loaded=True), there("big:7b"))
    after = fold({"a": before}, Event(EventType.UPDATED, "a", spec=wanted))["a"]
    assert after.models == (ModelStatus("tiny:latest", loaded=True), there("big:7b"))


def test_apply_tries_failed_models_again_without_a_new_process() -> None:
    wanted = holding(TINY, BIG)
    failed = ModelStatus("tiny:latest", ModelState.FAILED, reason="not-found", message="no")
    observed = {"a": having(wanted, failed, there("big:7b", loaded=True))}
    assert make_plan({"a": wanted}, observed, 0.0).actions == ()
    assert renewals({"a": wanted}, observed) == {"a": False}
    (shown,) = preview({"a": wanted}, observed, 0.0)
    observed = fold(observed, Event(EventType.RELEASED, "a"))
    (action,) = make_plan({"a": wanted}, observed, 0.0).actions
    assert action == shown
    assert action.verb is Verb.PROVISION
    observed = fold(observed, Event(EventType.UPDATED, "a", spec=wanted))
    assert observed["a"].models[0] == ModelStatus("tiny:latest")
    assert observed["a"].phase is Phase.READY
    assert make_plan({"a": wanted}, observed, 0.0).actions == ()


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (TINY, "pulled"),
        (replace(TINY, origin=Pulled(insecure=True)), "pulled without TLS"),
        (replace(TINY, origin=Built("/x.Modelfile", "FROM a")), "built by /x.Modelfile"),
        (
            replace(TINY, origin=Imported((InputFile("model", "/m", FileIdentity(1, 2, 3)),))),
            "made from /m",
        ),
        (replace(TINY, origin=Copied("b:latest")), "a copy of b:latest"),
        (BIG, "pulled, preload, keep_alive -1"),
        (replace(TINY, keep_alive=3600.0), "pulled, keep_alive 1h"),
    ],
)
def test_a_model_in_words(model: ModelSpec, words: str) -> None:
    assert describe(model) == words
