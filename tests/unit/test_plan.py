"""The planner: desired and observed in, actions out. A table of examples, and what always holds."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from orchestrator.core.convergence import convergence
from orchestrator.core.event import Event, EventType
from orchestrator.core.fold import fold
from orchestrator.core.plan import Verb, make_plan
from orchestrator.core.preview import preview, renewals
from orchestrator.core.spec import (
    Command,
    Desired,
    Endpoint,
    FileIdentity,
    InputFile,
    InstanceSpec,
    RestartPolicy,
)
from orchestrator.core.status import (
    AttachedTo,
    InstanceStatus,
    Observed,
    Phase,
    ProcessRef,
)


def spec(name: str = "a", *, port: int = 8001, ctx: int = 512, **more: object) -> InstanceSpec:
    argv = ("llama-server", "--port", str(port), "--ctx-size", str(ctx))
    made = InstanceSpec(
        name, "llama-server", Command(argv, {}, "/state"), Endpoint("127.0.0.1", port)
    )
    return replace(made, **more)  # type: ignore[arg-type]


def status(of: InstanceSpec, phase: Phase = Phase.READY, **more: object) -> InstanceStatus:
    alive = phase in (Phase.STARTING, Phase.READY, Phase.UNREADY, Phase.STOPPING)
    process = ProcessRef(10, 20, "boot") if alive else None
    return replace(
        InstanceStatus(of.name, phase, of, "s1", process),
        **more,  # type: ignore[arg-type]
    )


def verbs(desired: Desired, observed: Observed, now: float = 100.0) -> list[tuple[str, str]]:
    return [(a.verb.value, a.instance) for a in make_plan(desired, observed, now).actions]


A, B = spec("a"), spec("b", port=8002)


@pytest.mark.parametrize(
    ("desired", "observed", "expected"),
    [
        ({}, {}, []),
        ({"a": A}, {}, [("start", "a")]),
        ({"a": A}, {"a": status(A)}, []),
        ({"a": A}, {"a": status(A, Phase.STARTING)}, []),
        ({"a": A}, {"a": status(A, Phase.STOPPING)}, []),
        ({}, {"a": status(A)}, [("stop", "a")]),
        ({}, {"a": status(A, Phase.STOPPING)}, []),
        ({"a": spec(ctx=1024)}, {"a": status(A)}, [("replace", "a")]),
        ({"a": spec(description="x")}, {"a": status(A)}, [("update", "a")]),
        ({"a": A}, {"a": status(A, Phase.BACKOFF, retry_at=101.0)}, []),
        ({"a": A}, {"a": status(A, Phase.BACKOFF, retry_at=99.0)}, [("start", "a")]),
        ({"a": A}, {"a": status(A, Phase.FAILED)}, []),
        ({"a": spec(ctx=1)}, {"a": status(A, Phase.FAILED)}, [("start", "a")]),
        (
            {"a": spec(restart=RestartPolicy(limit=9))},
            {"a": status(A, Phase.FAILED)},
            [("start", "a")],
        ),
        ({"a": A}, {"a": status(A, Phase.FAILED, redo=True)}, [("start", "a")]),
        ({"a": A}, {"a": status(A, Phase.STOPPED, reason="exited")}, []),
        ({"a": A}, {"a": status(A, Phase.STOPPED)}, [("start", "a")]),
        ({"a": A}, {"a": status(A, held=True)}, [("stop", "a")]),
        ({"a": A}, {"a": status(A, Phase.STOPPED, held=True, reason="held")}, []),
        ({"a": spec(ctx=1)}, {"a": status(A, Phase.STOPPED, held=True)}, []),
        ({"a": A}, {"a": status(A, Phase.UNREADY, condemned="hung")}, [("stop", "a")]),
        ({"a": A}, {"a": status(A, Phase.STOPPING, hurry=True)}, [("kill", "a")]),
        ({"a": A}, {"a": status(A, redo=True)}, [("replace", "a")]),
    ],
)
def test_one_instance(
    desired: Desired, observed: Observed, expected: list[tuple[str, str]]
) -> None:
    assert verbs(desired, observed) == expected


def test_a_replacement_says_which_field_changed() -> None:
    (action,) = make_plan({"a": spec(ctx=1024)}, {"a": status(A)}, 0.0).actions
    assert action.as_json() == {
        "action": "replace",
        "instance": "a",
        "reasons": [{"field": "ctx-size", "have": "512", "want": "1024", "class": "restart"}],
        "message": "ctx-size: 512 -> 1024",
    }


def test_needs_are_waited_for_and_said() -> None:
    desired = {"a": spec(needs=("b",)), "b": B}
    plan = make_plan(desired, {"b": status(B, Phase.STARTING)}, 0.0)
    assert plan.actions == ()
    assert plan.pending["a"].reason == "blocked"
    assert "needs b, which is starting" in plan.pending["a"].message
    assert verbs(desired, {"b": status(B)}) == [("start", "a")]


def test_a_port_of_our_own_that_is_being_freed_is_waited_for() -> None:
    old = status(spec("old"), Phase.STOPPING)
    plan = make_plan({"a": A}, {"old": old}, 0.0)
    assert plan.pending["a"].message == "port 8001 is still held by old"
    assert verbs({"a": A}, {}) == [("start", "a")]


def test_what_waits_wakes_the_loop_at_the_right_time() -> None:
    observed = {
        "a": status(A, Phase.BACKOFF, retry_at=130.0),
        "b": status(B, Phase.BACKOFF, retry_at=120.0),
    }
    assert make_plan({"a": A, "b": B}, observed, 100.0).wake_at == 120.0


def test_a_model_file_that_changed_is_taken_up_by_apply_only() -> None:
    old = spec(inputs=(InputFile("model", "/m.gguf", FileIdentity(1, 1, 1)),))
    new = spec(inputs=(InputFile("model", "/m.gguf", FileIdentity(2, 2, 1)),))
    observed = {"a": status(old)}
    assert verbs({"a": new}, observed) == []
    assert renewals({"a": new}, observed) == {"a": True}
    assert [a.verb for a in preview({"a": new}, observed, 0.0)] == [Verb.REPLACE]


def test_apply_releases_what_is_held_and_retries_what_failed() -> None:
    observed = {
        "a": status(A, Phase.STOPPED, held=True, reason="held"),
        "b": status(B, Phase.FAILED),
    }
    desired = {"a": A, "b": B}
    assert {a.instance: a.verb for a in preview(desired, observed, 0.0)} == {
        "a": Verb.START,
        "b": Verb.START,
    }


def test_preview_shows_starts_that_must_wait() -> None:
    desired = {"a": spec(needs=("b",)), "b": B}
    shown = [(a.verb.value, a.instance) for a in preview(desired, {}, 0.0)]
    assert shown == [("start", "a"), ("start", "b")]


# --- What always holds, whatever is desired and observed -----------------------------------------

names = st.sampled_from(["a", "b", "c", "d"])
ports = {"a": 8001, "b": 8002, "c": 8003, "d": 8004}


@st.composite
def specs(draw: st.DrawFn) -> Desired:
    chosen = draw(st.sets(names))
    made: Desired = {}
    for name in sorted(chosen):
        earlier = [other for other in made]
        needs = draw(st.sets(st.sampled_from(earlier))) if earlier else set[str]()
        made[name] = spec(
            name,
            port=ports[name],
            ctx=draw(st.sampled_from([1, 2])),
            needs=tuple(sorted(needs)),
            description=draw(st.sampled_from(["", "x"])),
        )
    return made


@st.composite
def observations(draw: st.DrawFn) -> Observed:
    made: Observed = {}
    for name, one in draw(specs()).items():
        phase = draw(st.sampled_from(list(Phase)))
        held = draw(st.booleans()) if phase is not Phase.STARTING else False
        made[name] = status(
            one,
            phase,
            retry_at=draw(st.sampled_from([50.0, 150.0])) if phase is Phase.BACKOFF else None,
            held=held,
            reason="held" if held and phase is Phase.STOPPED else "",
            redo=draw(st.booleans()),
        )
    return made


def carried_out(desired: Desired, observed: Observed, now: float) -> Observed:
    """One pass in a world where everything works: each action is submitted, then succeeds."""
    plan = make_plan(desired, observed, now)
    for name in plan.forget:
        observed = fold(observed, Event(EventType.FORGOTTEN, name))
    for number, action in enumerate(plan.actions):
        start_id = f"{now}-{number}"
        name, at = action.instance, now
        if action.verb is Verb.START:
            for event in (
                Event(EventType.STARTING, name, data={"start_id": start_id}, spec=action.spec),
                Event(EventType.READY, name, data={"start_id": start_id}, at=at),
            ):
                observed = fold(observed, replace(event, at=at))
        elif action.verb in (Verb.STOP, Verb.REPLACE):
            observed = fold(observed, Event(EventType.STOPPING, name, reason=action.reason))
            observed = fold(observed, Event(EventType.EXITED, name, data={"exit_code": 0}, at=at))
        elif action.verb is Verb.UPDATE:
            observed = fold(observed, Event(EventType.UPDATED, name, spec=action.spec))
    # What was under way before comes to its end too.
    for name, one in observed.items():
        if one.phase is Phase.STARTING:
            observed = fold(observed, Event(EventType.READY, name, at=now))
        elif one.phase is Phase.STOPPING:
            observed = fold(observed, Event(EventType.EXITED, name, at=now))
    return observed


def is_at_rest(desired: Desired, observed: Observed) -> bool:
    """Held and failed instances, and those that need them, are where they shall stay."""
    return all(
        name in observed
        and (
            observed[name].phase in (Phase.READY, Phase.UNREADY, Phase.FAILED)
            or observed[name].held
        )
        for name in desired
        if not any(
            need not in observed or observed[need].phase is not Phase.READY
            for need in desired[name].needs
        )
    )


@given(specs(), observations())
@settings(max_examples=400, deadline=None)
def test_it_converges_and_then_has_nothing_to_do(desired: Desired, observed: Observed) -> None:
    now = 200.0
    for _ in range(12):
        observed = carried_out(desired, observed, now)
        now += 100.0
    plan = make_plan(desired, observed, now)
    assert plan.actions == ()
    assert plan.forget == ()
    assert set(observed) <= set(desired)
    assert is_at_rest(desired, observed)


@given(specs(), observations())
@settings(max_examples=400, deadline=None)
def test_what_is_unchanged_is_never_touched(desired: Desired, observed: Observed) -> None:
    for action in make_plan(desired, observed, 100.0).actions:
        now_is = observed.get(action.instance)
        if now_is is None or action.verb not in (Verb.STOP, Verb.REPLACE, Verb.KILL):
            continue
        wanted = desired.get(action.instance)
        asked_for = now_is.held or now_is.redo or bool(now_is.condemned)
        assert wanted is None or asked_for or wanted.command != now_is.spec.command


@given(specs(), observations())
@settings(max_examples=300, deadline=None)
def test_one_action_for_each_instance_and_none_while_one_is_in_flight(
    desired: Desired, observed: Observed
) -> None:
    actions = make_plan(desired, observed, 100.0).actions
    touched = [action.instance for action in actions]
    assert len(touched) == len(set(touched))
    for action in actions:
        if action.instance in observed:
            assert observed[action.instance].phase is not Phase.STOPPING


@given(specs(), observations(), st.randoms())
@settings(max_examples=200, deadline=None)
def test_the_order_of_the_file_does_not_matter(
    desired: Desired, observed: Observed, random: object
) -> None:
    turned = dict(reversed(desired.items()))
    one, other = make_plan(desired, observed, 100.0), make_plan(turned, observed, 100.0)
    assert sorted(a.instance for a in one.actions) == sorted(a.instance for a in other.actions)
    assert one.pending == other.pending
    assert one.wake_at == other.wake_at


@given(specs(), observations())
@settings(max_examples=200, deadline=None)
def test_converged_means_ready_and_nothing_else(desired: Desired, observed: Observed) -> None:
    plan = make_plan(desired, observed, 100.0)
    found = convergence(desired, observed, plan)
    everything_ready = set(observed) == set(desired) and all(
        one.phase is Phase.READY for one in observed.values()
    )
    acts = any(a.verb is not Verb.UPDATE for a in plan.actions)
    assert found.converged == (everything_ready and not acts)
    assert not found.converged or found.settled


# --- servers that somebody else runs --------------------------------------------------------------

C = spec("a", attach="auto")


def attached(of: InstanceSpec = C, phase: Phase = Phase.READY, **more: object) -> InstanceStatus:
    return status(of, phase, process=None, attached=AttachedTo(77, "alice", "1.0"), **more)


@pytest.mark.parametrize(
    ("want", "have", "expected"),
    [
        (C, attached(), None),
        (C, attached(phase=Phase.UNREADY, reason="gone"), None),
        (replace(C, description="x"), attached(), Verb.UPDATE),
        (spec("a", ctx=1, attach="auto"), attached(), Verb.UPDATE),
        (replace(C, attach="only"), attached(), Verb.UPDATE),
        (replace(C, attach="never"), attached(), Verb.REPLACE),
        (spec("a", port=9, attach="auto"), attached(), Verb.REPLACE),
        (C, attached(redo=True), Verb.REPLACE),
        (C, attached(held=True), Verb.STOP),
        (None, attached(), Verb.STOP),
        # And ours, where another's is to be used.
        (replace(C, attach="only"), status(C), Verb.REPLACE),
        (replace(C, attach="only"), status(replace(C, attach="only"), Phase.STARTING), None),
        (replace(C, attach="never"), status(C), Verb.UPDATE),
    ],
)
def test_what_is_done_about_somebodys_server(
    want: InstanceSpec | None, have: InstanceStatus, expected: Verb | None
) -> None:
    desired = {"a": want} if want is not None else {}
    actions = make_plan(desired, {"a": have}, 100.0).actions
    assert [action.verb for action in actions] == ([expected] if expected else [])
    if expected is Verb.UPDATE and want is not None:
        assert make_plan(desired, {"a": replace(have, spec=want)}, 100.0).actions == ()


def test_what_waits_for_somebodys_server_waits_for_its_time() -> None:
    only = replace(C, attach="only")
    waits = status(only, Phase.BACKOFF, reason="nothing-to-attach", retry_at=101.0)
    assert verbs({"a": only}, {"a": waits}, now=100.0) == []
    assert verbs({"a": only}, {"a": waits}, now=101.0) == [("start", "a")]


def test_apply_does_not_begin_somebodys_server_anew_for_our_binary() -> None:
    old, new = FileIdentity(1, 1, 1), FileIdentity(1, 2, 1)
    have = replace(C, inputs=(InputFile("binary", "/ollama", old),))
    want = replace(C, inputs=(InputFile("binary", "/ollama", new),))
    assert renewals({"a": want}, {"a": attached(have)}) == {}
    assert renewals({"a": want}, {"a": status(have)}) == {"a": True}


# --- a change that could not be started -----------------------------------------------------------


def test_what_runs_goes_on_while_its_successor_could_not_be_started() -> None:
    wants = spec(ctx=1024, needs=("b",))
    observed = {"a": status(A), "b": status(B, Phase.FAILED)}
    plan = make_plan({"a": wants, "b": B}, observed, 0.0)
    assert plan.actions == ()
    assert plan.pending["a"].message == "needs b, which is failed"
    state = convergence({"a": wants, "b": B}, observed, plan)
    assert (state.converged, state.settled) == (False, True)
    assert state.missing[0] == "a: ready, its change waits (needs b, which is failed)"
    assert verbs({"a": wants, "b": B}, {"a": status(A), "b": status(B)}) == [("replace", "a")]


def test_two_that_change_their_ports_do_not_wait_for_each_other() -> None:
    desired = {"a": spec("a", port=8002), "b": spec("b", port=8001)}
    observed = {"a": status(A), "b": status(B)}
    assert verbs(desired, observed) == [("replace", "a"), ("replace", "b")]
