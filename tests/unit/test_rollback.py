"""A change that does not come up is undone: fold and plan, step by step."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from orchestrator.core.convergence import convergence
from orchestrator.core.event import Event, EventType
from orchestrator.core.fold import fold
from orchestrator.core.plan import Action, Verb, make_plan
from orchestrator.core.preview import preview, renewals
from orchestrator.core.spec import Command, Demand, Endpoint, InstanceSpec, UpdatePolicy
from orchestrator.core.status import InstanceStatus, Observed, Phase, ProcessRef


def spec(ctx: int, **more: object) -> InstanceSpec:
    argv = ("llama-server", "--port", "8001", "--ctx-size", str(ctx))
    made = InstanceSpec(
        "a", "llama-server", Command(argv, {}, "/"), Endpoint("127.0.0.1", 8001), ("p",)
    )
    return replace(made, **more)  # type: ignore[arg-type]


GOOD, BAD, OTHER = spec(512), spec(99999), spec(1024)
KEEPS = spec(99999, update=UpdatePolicy("keep"))


class Loop:
    """The reconciler's loop in small: what is planned is recorded, and comes to pass as told."""

    def __init__(self, want: InstanceSpec) -> None:
        self.want, self.now, self.runs = want, 100.0, 0
        ready = InstanceStatus("a", Phase.READY, GOOD, "s0", ProcessRef(9, 9, "b"), ready_at=1.0)
        self.observed: Observed = {"a": ready}

    @property
    def status(self) -> InstanceStatus:
        return self.observed["a"]

    def tell(self, kind: EventType, reason: str = "", message: str = "", **data: object) -> None:
        self.now += 1.0
        data = {"start_id": self.status.start_id, **data}
        self.observed = fold(
            self.observed, Event(kind, "a", reason, message, data, at=self.now, time=self.now)
        )

    def turn(self) -> list[Action]:
        """One pass; the actions are submitted, as the reconciler does."""
        actions = list(make_plan({"a": self.want}, self.observed, self.now).actions)
        submits = {Verb.START: EventType.STARTING, Verb.UPDATE: EventType.UPDATED}
        for action in actions:
            kind = submits.get(action.verb, EventType.STOPPING)
            self.runs += kind is EventType.STARTING
            data = {"start_id": f"s{self.runs}"} if kind is EventType.STARTING else {}
            event = Event(kind, "a", action.reason, action.message, data, action.spec)
            self.observed = fold(self.observed, replace(event, at=self.now, time=self.now))
        return actions

    def verbs(self) -> list[str]:
        return [action.verb.value for action in self.turn()]

    def replace_by(self, want: InstanceSpec) -> None:
        """Edited; what ran is stopped, what is wanted is started."""
        self.want = want
        assert self.verbs() == ["replace"]
        self.tell(EventType.EXITED, exit_code=0)
        assert self.verbs() == ["start"]
        assert self.status.spec == want

    def fails(self) -> None:
        self.tell(EventType.EXITED, "crashed", "exit code 1: error: too much", exit_code=1)

    def comes_up(self) -> None:
        self.tell(EventType.READY, ready_after_s=0.1)


def rolled_back() -> Loop:
    """The change to 99999 has failed, and what was ready before is ready again."""
    loop = Loop(GOOD)
    loop.replace_by(BAD)
    loop.fails()
    (action,) = loop.turn()
    assert (action.verb, action.reason, action.spec) == (Verb.START, "rolled-back", GOOD)
    loop.comes_up()
    return loop


def test_what_fails_before_it_is_ready_gives_way_to_what_was() -> None:
    loop = rolled_back()
    assert loop.status.spec == GOOD
    assert loop.status.rejected is not None
    assert loop.status.rejected.cause == "crashed"
    assert "ctx-size: 512 -> 99999" in loop.status.rejected.message
    assert "error: too much" in loop.status.rejected.message
    assert loop.status.restarts == 0
    assert loop.turn() == []


def test_rolled_back_is_settled_and_not_converged() -> None:
    loop = rolled_back()
    plan = make_plan({"a": BAD}, loop.observed, loop.now)
    state = convergence({"a": BAD}, loop.observed, plan)
    assert (state.converged, state.settled) == (False, True)
    assert state.missing[0].startswith("a: rolled-back")


def test_who_says_keep_keeps_trying() -> None:
    loop = Loop(GOOD)
    loop.replace_by(KEEPS)
    loop.fails()
    assert loop.status.phase is Phase.BACKOFF
    assert loop.status.rejected is None
    assert loop.status.spec == KEEPS


def test_another_edit_is_a_new_try_and_goes_back_as_far() -> None:
    loop = rolled_back()
    loop.replace_by(OTHER)
    assert loop.status.rejected is None
    loop.fails()
    assert loop.turn()[0].spec == GOOD


def test_a_change_on_the_way_that_is_edited_still_goes_back_to_what_was_ready() -> None:
    loop = Loop(GOOD)
    loop.replace_by(OTHER)
    loop.replace_by(BAD)
    loop.fails()
    assert loop.turn()[0].spec == GOOD


def test_edited_back_it_is_as_declared_and_the_same_slip_is_tried_again() -> None:
    loop = rolled_back()
    loop.want = GOOD
    assert loop.verbs() == ["update"]
    assert loop.status.rejected is None
    assert loop.turn() == []
    loop.replace_by(BAD)


def test_somebodys_word_is_a_new_try() -> None:
    loop = rolled_back()
    assert renewals({"a": BAD}, loop.observed) == {"a": True}
    assert [a.verb for a in preview({"a": BAD}, loop.observed, loop.now)] == [Verb.REPLACE]
    loop.tell(EventType.REDO)
    loop.replace_by(BAD)
    loop.comes_up()
    assert (loop.status.fallback, loop.status.rejected) == (None, None)


def test_the_plan_says_what_was_tried_already() -> None:
    loop = rolled_back()
    (action,) = preview({"a": BAD}, loop.observed, loop.now)
    assert action.message.startswith("tried and undone: did not come up (crashed): ctx-size: 512")
    assert [d.field for d in action.drift] == ["ctx-size"]
    assert all("tried" not in a.message for a in preview({"a": GOOD}, loop.observed, loop.now))


def test_applying_what_runs_again_does_not_restart_it() -> None:
    loop = rolled_back()
    assert renewals({"a": GOOD}, loop.observed) == {}


def test_what_was_ready_before_restarts_like_anything_else() -> None:
    loop = rolled_back()
    loop.now += 100
    loop.tell(EventType.EXITED, "crashed", "signal 9", exit_code=-9)
    (again,) = loop.turn()
    assert (again.spec, again.reason) == (GOOD, "restart")
    loop.comes_up()
    assert loop.status.rejected is not None
    assert loop.turn() == []


def test_when_neither_comes_up_what_was_ready_is_tried_by_the_rules() -> None:
    loop = Loop(GOOD)
    loop.replace_by(BAD)
    loop.fails()
    loop.turn()
    loop.fails()
    assert loop.status.phase is Phase.BACKOFF
    assert loop.turn() == []
    loop.now += 60
    (again,) = loop.turn()
    assert (again.spec, again.reason) == (GOOD, "restart")


@pytest.mark.parametrize(("auto", "back"), [(False, True), (True, False)])
def test_a_port_that_is_taken(auto: bool, back: bool) -> None:
    """A fixed one is part of the change; for `port: auto`, another is chosen."""
    loop = Loop(GOOD)
    loop.replace_by(replace(OTHER, auto_port=auto))
    loop.tell(EventType.START_FAILED, "port-taken", "port 8001 is taken", waits=True)
    assert (loop.status.reason == "rolled-back") is back


def test_a_first_start_has_nothing_to_go_back_to() -> None:
    loop = Loop(GOOD)
    loop.observed = {}
    loop.want = BAD
    assert loop.verbs() == ["start"]
    loop.fails()
    assert (loop.status.phase, loop.status.reason) == (Phase.BACKOFF, "crashed")


def test_a_hang_while_loading_is_undone_too() -> None:
    loop = Loop(GOOD)
    loop.replace_by(BAD)
    loop.tell(EventType.CONDEMNED, "timeout", "no progress")
    assert loop.verbs() == ["stop"]
    loop.tell(EventType.EXITED, exit_code=-9)
    (action,) = loop.turn()
    assert (action.reason, action.spec) == ("rolled-back", GOOD)


def test_a_fallback_whose_automatic_port_is_a_strangers_is_given_up() -> None:
    """It cannot be gone back to: what is declared is tried, on another port, by the rules."""
    loop = rolled_back()
    for name in ("spec", "fallback"):
        changed = replace(getattr(loop.status, name), auto_port=True)
        loop.observed["a"] = replace(loop.status, **{name: changed})
    loop.now += 60
    loop.tell(EventType.EXITED, "crashed", "signal 9", exit_code=-9)
    loop.turn()
    loop.tell(EventType.START_FAILED, "port-taken", "port 8001 is taken", waits=True)
    assert (loop.status.fallback, loop.status.rejected) == (None, None)


def test_edited_back_nothing_is_left_of_the_change() -> None:
    loop = rolled_back()
    loop.want = GOOD
    loop.turn()
    assert (loop.status.fallback, loop.status.rejected) == (None, None)


def test_another_estimate_is_no_other_change() -> None:
    loop = rolled_back()
    loop.want = replace(BAD, demand=Demand(host=12345))
    assert loop.turn() == []
