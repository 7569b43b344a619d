"""Make before break, in the pure core: who is started beside whom, who takes over, what fails."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from orchestrator.core.admission import HOST, Budget, Room
from orchestrator.core.convergence import convergence
from orchestrator.core.event import Event, EventType
from orchestrator.core.fold import fold
from orchestrator.core.plan import Plan, Verb, make_plan
from orchestrator.core.preview import preview, renewals
from orchestrator.core.report import instance_rows
from orchestrator.core.served import table
from orchestrator.core.spec import (
    Alternate,
    Demand,
    Desired,
    InstanceSpec,
    OnFailure,
    StopPolicy,
    UpdatePolicy,
)
from orchestrator.core.status import Observed, Phase, ProcessRef, Rejected
from orchestrator.core.succession import addressed, as_seen
from orchestrator.core.successor import (
    base_of,
    beside,
    family,
    held_ports,
    is_aside,
    next_of,
    old_of,
    on_port,
    variants,
)
from tests.unit.test_plan import spec, status, verbs

LOW, HIGH = 8001, 8101


def both(
    ctx: int = 512, *, first: int = LOW, on_failure: OnFailure = "rollback", **more: object
) -> InstanceSpec:
    """An instance that is replaced by start-first, on its two ports."""
    here, there = spec(port=first, ctx=ctx), spec(port=LOW + HIGH - first, ctx=ctx)
    return replace(
        here,
        auto_port=True,
        update=UpdatePolicy(on_failure, "start-first"),
        alternate=Alternate(there.command, there.endpoint),
        **more,  # type: ignore[arg-type]
    )


def runs(want: InstanceSpec, port: int = LOW) -> InstanceSpec:
    """As it is started there."""
    return on_port(want, port)


def coming(want: InstanceSpec, port: int = HIGH) -> InstanceSpec:
    return replace(runs(want, port), name="a~next")


OLD, NEW = both(), both(ctx=1024)
NOW = 100.0


def only(desired: Desired, observed: Observed, budget: Budget | None = None) -> Plan:
    return make_plan(desired, observed, NOW, budget)


def loading(phase: Phase = Phase.STARTING, want: InstanceSpec = NEW, **more: object) -> Observed:
    """What runs goes on, and its successor is in that phase."""
    follower = status(coming(want), phase, start_id="s2", fallback=runs(OLD), **more)
    return {"a": status(runs(OLD), ready_at=50.0), "a~next": follower}


# --- names and ports ------------------------------------------------------------------------------


def test_names() -> None:
    assert (next_of("a"), old_of("a")) == ("a~next", "a~old")
    assert {base_of(name) for name in family("a~old")} == {"a"}
    assert [is_aside(name) for name in family("a")] == [False, True, True]


def test_the_variant_beside_what_runs_is_on_the_other_port() -> None:
    assert [one.endpoint.port for one in variants(NEW)] == [LOW, HIGH]
    for port, other in ((LOW, HIGH), (HIGH, LOW), (9999, LOW)):
        found = beside(NEW, port)
        assert found is not None
        assert (found.name, found.endpoint.port) == ("a~next", other)
    assert beside(spec(), 1) is None


def test_ports_change_places_with_the_processes() -> None:
    kept = {"a": 1, "a~next": 2, "b": 3}
    assert held_ports(kept, {}) == kept
    assert held_ports(kept, {"a": 2}) == {"a": 2, "a~next": 1, "b": 3}
    # The one before is on its way out, or the next one there already.
    assert held_ports(kept, {"a": 2, "a~old": 1})["a~next"] == 1
    assert held_ports(kept, {"a": 1, "a~next": 2}) == kept


# --- the plan -------------------------------------------------------------------------------------


@pytest.mark.parametrize("port", [LOW, HIGH])
def test_the_port_that_it_runs_on_is_no_drift(port: int) -> None:
    observed = {"a": status(runs(OLD, port))}
    assert verbs({"a": OLD}, observed) == []
    assert convergence({"a": OLD}, observed, only({"a": OLD}, observed)).converged
    swapped = both(first=HIGH)
    assert verbs({"a": swapped}, observed) == []


def test_a_change_starts_a_successor_beside_what_runs() -> None:
    plan = only({"a": NEW}, {"a": status(runs(OLD))})
    [action] = plan.actions
    assert (action.verb, action.instance) == (Verb.START, "a~next")
    assert action.spec is not None
    assert action.spec.endpoint.port == HIGH
    assert [str(drift) for drift in action.drift] == ["ctx-size: 512 -> 1024"]


@pytest.mark.parametrize(
    ("desired", "observed"),
    [
        # Nothing of use is lost.
        ({"a": NEW}, {"a": status(runs(OLD), Phase.STARTING)}),
        ({"a": NEW}, {"a": status(runs(OLD), condemned="hung")}),
        # Nobody can say how it was started.
        ({"a": NEW}, {"a": status(runs(OLD), guessed=True)}),
        # Its other port is another's by now.
        ({"a": NEW, "b": spec("b", port=HIGH)}, {"a": status(runs(OLD))}),
    ],
)
def test_where_it_is_replaced_in_its_place(desired: Desired, observed: Observed) -> None:
    found = {action.instance: action.verb for action in only(desired, observed).actions}
    assert found["a"] in (Verb.REPLACE, Verb.STOP)
    assert "a~next" not in found


def test_what_is_only_read_by_the_daemon_is_taken_up_meanwhile() -> None:
    want = replace(NEW, stop=StopPolicy(drain=1.0), description="x", model="other")
    found = only({"a": want}, loading(want=want))
    [action] = found.actions
    assert (action.verb, action.instance) == (Verb.UPDATE, "a")
    assert action.spec is not None
    assert (action.spec.stop.drain, action.spec.description) == (1.0, "x")
    assert (action.spec.command, action.spec.model) == (runs(OLD).command, runs(OLD).model)


def test_one_that_is_ready_takes_over_and_the_other_ends() -> None:
    observed = loading(Phase.READY)
    desired: Desired = {"a": NEW}
    [action] = only(desired, observed).actions
    assert (action.verb, action.instance) == (Verb.PROMOTE, "a")
    event = Event(EventType.PROMOTED, "a", data={"start_id": "s2"})
    after = fold(observed, event)
    assert fold(after, event) == after
    assert list(after) == ["a", "a~old"]
    assert (after["a"].start_id, after["a"].spec) == ("s2", replace(runs(NEW, HIGH), name="a"))
    assert (after["a~old"].start_id, after["a~old"].spec.endpoint.port) == ("s1", LOW)
    [stop] = only(desired, after).actions
    assert (stop.verb, stop.instance, stop.reason) == (Verb.STOP, "a~old", "replaced")
    state = convergence(desired, after, only(desired, after))
    assert not state.converged
    assert not state.settled
    assert "the one before it (pid 10) ends" in state.missing[0]
    gone = fold(after, Event(EventType.FORGOTTEN, "a~old"))
    assert convergence(desired, gone, only(desired, gone)).converged


def test_a_promotion_of_another_run_is_late() -> None:
    observed = loading(Phase.READY)
    assert fold(observed, Event(EventType.PROMOTED, "a", data={"start_id": "s3"})) == observed


def test_two_are_never_on_their_way_out() -> None:
    observed = loading(Phase.READY)
    before = replace(observed["a"], name="a~old", phase=Phase.STOPPING, start_id="s0")
    assert only({"a": NEW}, {**observed, "a~old": before}).actions == ()


def test_the_next_one_waits_for_the_port_of_the_one_before() -> None:
    newer = both(ctx=2048)
    observed = {
        "a": status(runs(NEW, HIGH), start_id="s2"),
        "a~old": status(replace(runs(OLD), name="a~old"), Phase.STOPPING),
    }
    plan = only({"a": newer}, observed)
    assert plan.actions == ()
    assert plan.pending["a"].message == f"port {LOW} is still held by the one before"
    assert "its change waits" in convergence({"a": newer}, observed, plan).missing[0]


def test_another_edit_supersedes_it_and_an_edit_back_cancels_it() -> None:
    assert verbs({"a": both(ctx=2048)}, loading()) == [("replace", "a~next")]
    assert verbs({"a": OLD}, loading()) == [("stop", "a~next")]
    ended = loading(Phase.STOPPED)
    assert only({"a": OLD}, ended).forget == ("a~next",)


@pytest.mark.parametrize("held", [True, False])
def test_who_ends_an_instance_ends_its_successor(held: bool) -> None:
    observed = loading()
    if held:
        observed["a"] = replace(observed["a"], held=True)
    desired: Desired = {"a": NEW} if held else {}
    assert sorted(verbs(desired, observed)) == [("stop", "a"), ("stop", "a~next")]


def test_who_is_killed_is_so_with_all_beside_it() -> None:
    event = Event(EventType.HELD, "a", data={"hurry": True})
    after = fold(loading(), event)
    assert after["a~next"].hurry
    assert fold(after, event) == after


def test_a_crash_meanwhile_is_seen_to_as_always() -> None:
    observed = loading()
    observed["a"] = replace(observed["a"], phase=Phase.BACKOFF, process=None, retry_at=NOW - 1)
    [action] = only({"a": NEW}, observed).actions
    assert (action.verb, action.instance) == (Verb.START, "a")
    assert action.spec is not None
    assert action.spec.command == runs(OLD).command
    # Ready before that one is, it takes over all the same.
    ready = {**loading(Phase.READY), "a": observed["a"]}
    assert verbs({"a": NEW}, ready) == [("promote", "a")]
    after = fold(ready, Event(EventType.PROMOTED, "a", data={"start_id": "s2"}))
    assert list(after) == ["a"]


def test_where_neither_runs_the_change_is_started_in_its_place() -> None:
    observed = loading(Phase.BACKOFF, retry_at=NOW + 5)
    observed["a"] = replace(observed["a"], phase=Phase.BACKOFF, process=None, retry_at=NOW + 5)
    plan = only({"a": NEW}, observed)
    assert [(a.verb, a.instance) for a in plan.actions] == [(Verb.START, "a")]
    assert plan.forget == ("a~next",)


def test_where_both_do_not_fit_one_follows_the_other() -> None:
    demand = Demand(60, declared=True)
    want, runs_so = replace(NEW, demand=demand), status(replace(runs(OLD), demand=demand))
    small = Budget({HOST: Room(100, 40)}, {"a": 60})
    [action] = only({"a": want}, {"a": runs_so}, small).actions
    assert (action.verb, action.instance, action.reason) == (Verb.REPLACE, "a", "replaced")
    large = Budget({HOST: Room(200, 140)}, {"a": 60})
    [action] = only({"a": want}, {"a": runs_so}, large).actions
    assert (action.verb, action.instance) == (Verb.START, "a~next")


def test_one_that_takes_what_a_gpu_has_left_does_not_run_beside_another() -> None:
    want = replace(NEW, demand=Demand(gpus={0: 5}, fits_itself=True))
    assert verbs({"a": want}, {"a": status(runs(OLD))}) == [("replace", "a")]


# --- restarts -------------------------------------------------------------------------------------


def test_a_restart_by_hand_is_a_successor_too() -> None:
    observed = {"a": status(runs(OLD), redo=True)}
    [action] = only({"a": OLD}, observed).actions
    assert (action.verb, action.instance) == (Verb.START, "a~next")
    event = Event(EventType.STARTING, "a~next", data={"start_id": "s2"}, spec=action.spec)
    after = fold(observed, event)
    assert fold(after, event) == after
    assert not after["a"].redo
    # What was asked for is not forgotten with the word: the successor goes on, or is begun anew.
    assert verbs({"a": OLD}, after) == []
    blameless = Event(EventType.EXITED, "a~next", data={"start_id": "s2", "blameless": True})
    assert verbs({"a": OLD}, fold(after, blameless)) == [("start", "a~next")]


# --- failures -------------------------------------------------------------------------------------


def failed(observed: Observed, **data: object) -> Observed:
    more = {"start_id": "s2", "exit_code": 1, **data}
    return fold(observed, Event(EventType.EXITED, "a~next", "bad-flag", "no", more, at=NOW))


def test_one_that_does_not_come_up_leaves_what_runs_alone() -> None:
    observed = failed(loading())
    assert list(observed) == ["a"]
    assert (observed["a"].phase, observed["a"].start_id) == (Phase.READY, "s1")
    told = observed["a"].rejected
    assert told is not None
    assert told.message == "did not come up (bad-flag): ctx-size: 512 -> 1024; no"
    desired: Desired = {"a": NEW}
    plan = only(desired, observed)
    assert plan.actions == ()
    state = convergence(desired, observed, plan)
    assert (state.converged, state.settled) == (False, True)
    assert "rolled-back" in state.missing[0]
    # Not tried again, whichever of its ports is named first; but after `apply`, or another edit.
    assert only({"a": both(ctx=1024, first=HIGH)}, observed).actions == ()
    assert renewals(desired, observed) == {"a": True}
    assert ("start", "a~next") in verbs({"a": both(ctx=2048)}, observed)
    [shown] = preview(desired, observed, NOW)
    assert (shown.verb, shown.instance) == (Verb.REPLACE, "a")
    assert shown.message.startswith("tried and undone")
    # Taken back, it is as declared.
    assert verbs({"a": OLD}, observed) == [("update", "a")]


def test_what_was_rejected_is_not_tried_when_what_runs_crashes() -> None:
    observed = failed(loading())
    crash = {"start_id": "s1", "exit_code": 1}
    observed = fold(observed, Event(EventType.EXITED, "a", "crashed", "", crash, at=NOW))
    later = make_plan({"a": NEW}, observed, NOW + 60)
    [action] = later.actions
    assert action.verb is Verb.START
    assert action.spec is not None
    assert action.spec.command == runs(OLD).command


def test_a_restart_that_does_not_come_up_is_not_repeated() -> None:
    for on_failure in ("rollback", "keep"):
        same = both(on_failure=on_failure)
        observed = failed(loading(want=same))
        assert list(observed) == ["a"]
        assert isinstance(observed["a"].rejected, Rejected)
        assert "did not come up" in observed["a"].rejected.message
        assert only({"a": same}, observed).actions == ()


def test_kept_it_is_tried_again_beside_what_runs() -> None:
    want = both(ctx=1024, on_failure="keep")
    observed = failed(loading(want=want))
    follower = observed["a~next"]
    assert (follower.phase, observed["a"].phase) == (Phase.BACKOFF, Phase.READY)
    plan = only({"a": want}, observed)
    # Told of the one that runs, and looked at again when it is due.
    assert [(a.verb, a.instance) for a in plan.actions] == [(Verb.UPDATE, "a")]
    assert plan.wake_at == follower.retry_at
    missing = convergence({"a": want}, observed, plan).missing
    assert missing == ("a: ready, its successor is backoff (no)",)
    # A word brings another try at once.
    assert renewals({"a": want}, observed) == {"a": True}
    asked = fold(observed, Event(EventType.REDO, "a"))
    assert ("start", "a~next") in verbs({"a": want}, asked)


# --- what people see ------------------------------------------------------------------------------


def test_a_plan_says_replace() -> None:
    [action] = preview({"a": NEW}, {"a": status(runs(OLD))}, NOW)
    shown = action.as_json()
    assert (shown["action"], shown["instance"]) == ("replace", "a")
    assert [one["field"] for one in shown["reasons"]] == ["ctx-size"]
    assert shown["message"].startswith("start-first, where memory allows")
    assert preview({"a": NEW}, loading(), NOW) == ()


def test_one_row_for_each_instance() -> None:
    def messages(desired: Desired, observed: Observed) -> dict[str, str]:
        plan = only(desired, observed)
        rows = instance_rows(desired, observed, plan, now=NOW, usage={}, stale={})
        return {row["name"]: row["message"] for row in rows}

    assert messages({"a": NEW}, loading()) == {"a": f"its successor is starting on port {HIGH}"}
    assert list(messages({}, loading())) == ["a"]
    alone = {"a~old": status(replace(runs(OLD), name="a~old"), Phase.STOPPING)}
    assert list(messages({}, alone)) == ["a"]


@pytest.mark.parametrize("phase", [Phase.FAILED, Phase.BACKOFF])
def test_what_is_down_starts_where_its_successor_does(phase: Phase) -> None:
    """Whoever waits for it is neither told that it has failed, nor sent to a fallback."""
    crashed = status(runs(OLD), phase, retry_at=NOW + 1, reason="crashed")
    observed = {**loading(), "a": crashed}
    plan = only({"a": NEW}, observed)
    [row] = instance_rows({"a": NEW}, observed, plan, now=NOW, usage={}, stale={})
    assert (row["phase"], row["message"]) == (
        "starting",
        f"its successor is starting on port {HIGH}",
    )
    [target] = table({"a": NEW}, observed, plan)["targets"]
    assert target["phase"] == "starting"
    alone = {"a": crashed}
    [target] = table({"a": OLD}, alone, only({"a": OLD}, alone))["targets"]
    assert target["phase"] == phase


@pytest.mark.parametrize("aside", ["a~old", "a~next"])
def test_what_is_stopped_still_stops_while_anything_beside_it_does(aside: str) -> None:
    leaving = status(replace(runs(OLD), name=aside), Phase.STOPPING)
    observed = {"a": status(runs(OLD), Phase.STOPPED, held=True), aside: leaving}
    [row] = instance_rows(
        {"a": OLD}, observed, only({"a": OLD}, observed), now=NOW, usage={}, stale={}
    )
    assert row["phase"] == "stopping"
    assert as_seen("a", {"a": observed["a"]}) is observed["a"]


# --- events of runs -------------------------------------------------------------------------------


def test_an_event_finds_its_run_whatever_that_is_called_by_now() -> None:
    observed = {
        "a": status(runs(NEW, HIGH), start_id="s2"),
        "a~old": status(replace(runs(OLD), name="a~old"), Phase.STOPPING),
    }
    ended = Event(EventType.EXITED, "a", data={"start_id": "s1"})
    assert addressed(ended, observed).instance == "a~old"
    crashed = Event(EventType.EXITED, "a~next", data={"start_id": "s2"})
    assert addressed(crashed, observed).instance == "a"
    unknown = Event(EventType.EXITED, "a~next", data={"start_id": "s9"})
    assert addressed(unknown, observed) is unknown


def test_an_adopted_successor_knows_what_goes_on_if_it_fails() -> None:
    observed = {"a": status(runs(OLD))}
    ref = ProcessRef(11, 21, "boot")
    data = {"start_id": "s2", "pid": ref.pid, "start_ticks": 21, "boot_id": "boot"}
    event = Event(EventType.ADOPTED, "a~next", data={**data, "started_at": 1.0}, spec=coming(NEW))
    after = fold(observed, event)
    assert after["a~next"].fallback == runs(OLD)
    assert list(failed(after)) == ["a"]
