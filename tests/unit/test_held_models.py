"""Models of an instance: how what is seen of them is folded, planned for, and waited for."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import to_builtins
from msgspec.structs import replace

from orchestrator.core.convergence import convergence
from orchestrator.core.drift import describe, live_drift
from orchestrator.core.event import Event, EventType
from orchestrator.core.fold import fold
from orchestrator.core.plan import Verb, make_plan
from orchestrator.core.preview import preview, renewals
from orchestrator.core.provision import kept_by, lacking
from orchestrator.core.shared_store import in_use
from orchestrator.core.spec import (
    Built,
    Command,
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
    AttachedTo,
    InstanceStatus,
    ModelState,
    ModelStatus,
    Phase,
    Rejected,
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


def named(name: str, **more: object) -> InstanceSpec:
    """Another instance that has the small one, under other letters."""
    return replace(holding(replace(TINY, name="TINY:latest"), **more), name=name)


def seen(model: ModelStatus, reason: str = "", start_id: str = "s1") -> Event:
    data = {"start_id": start_id, "model": to_builtins(model)}
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


def begun(of: InstanceStatus, want: InstanceSpec) -> InstanceStatus:
    """As another run of it begins."""
    start = Event(EventType.STARTING, "a", data={"start_id": f"{of.start_id}+"}, spec=want)
    return fold({"a": of}, start)["a"]


def test_a_new_run_knows_of_no_model_how_it_is() -> None:
    old = having(holding(TINY), there("tiny:latest", loaded=True, message="x"))
    assert begun(old, holding(TINY)).models == (ModelStatus("tiny:latest"),)
    assert begun(having(holding(TINY)), holding(TINY)).models == ()


def test_what_leaves_with_a_restart_is_still_to_be_deleted() -> None:
    """The provisioner of the new run has nothing but the rows to know it by."""
    old = having(holding(TINY, BIG), there("tiny:latest"), there("big:7b"))
    pruning = holding(BIG, prune=True)
    left = (ModelStatus("tiny:latest"), ModelStatus("big:7b"))
    once = begun(old, pruning)
    assert once.models == left
    assert begun(replace(once, phase=Phase.STOPPED), pruning).models == left, "and by the next try"
    # Another server with the same folder has nothing in memory that had to leave it.
    assert begun(old, holding(BIG)).models == left[1:]
    assert begun(once, holding(BIG)).models == left[1:]


@pytest.mark.parametrize("store", ["/elsewhere", ""])
def test_what_another_folder_has_is_not_what_left_this_one(store: str) -> None:
    old = having(holding(TINY), there("tiny:latest"))
    assert begun(old, holding(prune=True, store=store)).models == ()
    nowhere = having(holding(TINY, store=""), there("tiny:latest"))
    assert begun(nowhere, holding(prune=True, store=store)).models == ()
    assert begun(old, spec()).models == ()


def test_of_somebodys_server_nothing_is_to_be_deleted() -> None:
    old = having(holding(TINY), there("tiny:latest"))
    attached = Event(EventType.ATTACHED, "a", data={"start_id": "s1+"})
    found = fold({"a": begun(old, holding(BIG, prune=True))}, attached)["a"]
    assert (found.phase, found.models) == (Phase.READY, ())
    back = replace(found, phase=Phase.UNREADY, models=(there("big:7b"),))
    assert fold({"a": back}, attached)["a"].models == (there("big:7b"),)


def test_a_model_that_is_written_otherwise_is_the_same() -> None:
    before = having(holding(TINY), there("tiny:latest", loaded=True))
    wanted = holding(replace(TINY, name="Tiny:latest"))
    after = fold({"a": before}, Event(EventType.UPDATED, "a", spec=wanted))["a"]
    assert after.models == (there("Tiny:latest", loaded=True),)
    assert begun(before, wanted).models == (ModelStatus("Tiny:latest"),)


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
        "prune: false -> true; verify: 60.0 (new)",
    )


@pytest.mark.parametrize(
    ("want", "more", "end"),
    [
        (holding(), {}, "unloaded"),
        (holding(prune=True), {}, "deleted"),
        # A server that was attached to keeps what it has.
        (holding(prune=True), {"managed": False}, "unloaded"),
        (holding(prune=True), {"beside": (holding(BIG),)}, "deleted"),
        (holding(prune=True), {"beside": (named("b"),)}, "unloaded, kept: b has it too"),
        (holding(), {"beside": (named("b"),)}, "unloaded"),
        (holding(prune=True), {"beside": (named("b", store="/other"),)}, "deleted"),
        # The folder that it is in is left as it is.
        (holding(prune=True, store="/new"), {}, "kept in /store"),
    ],
)
def test_the_plan_says_what_becomes_of_a_model_that_is_dropped(
    want: InstanceSpec, more: dict[str, Any], end: str
) -> None:
    (drift,) = live_drift(holding(TINY), want, **more)[:1]
    assert (drift.have, drift.want) == ("pulled", end)


def test_the_plan_looks_at_all_that_is_desired() -> None:
    runs = {"a": having(holding(TINY, BIG))}
    wanted = {"a": holding(BIG, prune=True), "b": named("b")}
    action = make_plan(wanted, runs, 0.0).actions[0]
    assert "models.tiny:latest: pulled -> unloaded, kept: b has it too" in action.message
    del wanted["b"]
    action = make_plan(wanted, runs, 0.0).actions[0]
    assert "models.tiny:latest: pulled -> deleted" in action.message
    attached = {"a": replace(runs["a"], attached=AttachedTo(1), process=None)}
    action = make_plan(wanted, attached, 0.0).actions[0]
    assert "models.tiny:latest: pulled -> unloaded" in action.message


def test_what_another_was_brought_back_to_keeps_its_models() -> None:
    declared = replace(named("b"), holds=None)
    back = having(named("b"), name="b", fallback=named("b"), rejected=Rejected(declared, "x", "x"))
    runs = {"a": having(holding(TINY, BIG)), "b": back}
    wanted = {"a": holding(BIG, prune=True), "b": declared}
    action = make_plan(wanted, runs, 0.0).actions[0]
    assert "models.tiny:latest: pulled -> unloaded, kept: b has it too" in action.message
    assert kept_by("tiny:latest", "/store", in_use(wanted, runs)) == "b"

    # What tries a change would return, too; what only runs until then does not say what becomes.
    starts = replace(back, phase=Phase.STARTING, spec=declared, rejected=None)
    assert kept_by("tiny:latest", "/store", in_use(wanted, {"b": starts})) == "b"
    waits = having(named("b"), name="b")
    assert kept_by("tiny:latest", "/store", in_use(wanted, {"b": waits})) == "b"
    leaves = replace(waits, phase=Phase.STOPPING)
    assert kept_by("tiny:latest", "/store", in_use(wanted, {"b": leaves})) is None
    assert kept_by("tiny:latest", "/store", in_use({}, {"b": waits})) is None


@pytest.mark.parametrize(
    ("phase", "verb"),
    [
        (Phase.READY, Verb.REPLACE),
        (Phase.STOPPED, Verb.START),
        (Phase.BACKOFF, Verb.START),
    ],
)
def test_a_plan_to_restart_says_what_is_deleted_as_well(phase: Phase, verb: Verb) -> None:
    restarted = replace(holding(BIG, prune=True), command=Command(("x",), {}, "/state"))
    for wanted in (restarted, holding(BIG, prune=True)):
        observed = {"a": status(holding(TINY, BIG), phase)}
        (action,) = make_plan({"a": wanted}, observed, 0.0).actions
        gone = [str(d) for d in action.drift if d.field == "models.tiny:latest"]
        assert gone == ["models.tiny:latest: pulled -> deleted"]
        assert action.verb is verb or (wanted is not restarted and phase is Phase.READY)
    (action,) = make_plan({"a": restarted}, {"a": status(holding(BIG), phase)}, 0.0).actions
    assert not [d for d in action.drift if d.field.startswith("models.")]


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
