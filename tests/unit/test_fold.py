"""The fold: one event after another, and where an instance is then."""

from __future__ import annotations

import itertools

import pytest
from msgspec.structs import replace

from orchestrator.core.event import Event, EventType
from orchestrator.core.failure import STABLE_AFTER
from orchestrator.core.fold import fold
from orchestrator.core.spec import ModelSet, ModelSpec, RestartPolicy
from orchestrator.core.status import (
    AttachedTo,
    InstanceStatus,
    ModelStatus,
    Observed,
    Phase,
)
from tests.unit.test_plan import A, spec

PROCESS: dict[str, object] = {"pid": 7, "start_ticks": 8, "boot_id": "b"}


def story(*events: Event, of: Observed | None = None) -> InstanceStatus:
    observed = of or {}
    for event in events:
        observed = fold(observed, event)
    return observed["a"]


def event(kind: EventType, at: float = 0.0, /, **data: object) -> Event:
    made = Event(kind, "a", data={"start_id": "s1", **data}, at=at, time=1e9 + at)
    return replace(made, spec=A) if kind is EventType.STARTING else made


STARTING = event(EventType.STARTING)
SPAWNED = event(EventType.SPAWNED, **PROCESS)
READY = event(EventType.READY, 1.0, ready_after_s=1.0)
BEGUN = (STARTING, SPAWNED, READY)


def crashed(at: float, code: int | None = 1, /, **data: object) -> Event:
    made = event(EventType.EXITED, at, exit_code=code, **data)
    return replace(made, reason="crashed", message="exited with code 1")


def test_a_start_that_works() -> None:
    after = story(*BEGUN)
    assert (after.phase, after.ready_after_s) == (Phase.READY, 1.0)
    assert after.process is not None
    assert after.process.pid == 7


def test_the_first_restart_after_stable_running_is_immediate() -> None:
    died_at = 1.0 + STABLE_AFTER
    after = story(*BEGUN, crashed(died_at))
    assert (after.phase, after.retry_at) == (Phase.BACKOFF, died_at)


def test_a_start_that_dies_at_once_is_retried_later_and_later_then_given_up() -> None:
    delays: list[float] = []
    observed: Observed = {}
    now = 0.0
    for attempt in range(6):
        begun = replace(STARTING, at=now, data={"start_id": f"s{attempt}"})
        observed = fold(observed, begun)
        observed = fold(observed, replace(crashed(now), data={"start_id": f"s{attempt}"}))
        one = observed["a"]
        if one.phase is Phase.FAILED:
            break
        assert one.retry_at is not None
        delays.append(one.retry_at - now)
        now = one.retry_at
    assert observed["a"].phase is Phase.FAILED
    assert "gave up after 6 failures" in observed["a"].message
    assert len(delays) == 5
    assert all(later > earlier for earlier, later in itertools.pairwise(delays))
    assert 0.75 <= delays[0] <= 1.0


def test_a_stable_run_forgets_the_streak() -> None:
    unstable = story(*BEGUN, crashed(2.0))
    again = replace(READY, at=10.0, data={"start_id": "s2"})
    begun = replace(STARTING, at=9.0, data={"start_id": "s2"})
    end = replace(crashed(10.0 + STABLE_AFTER), data={"start_id": "s2", "exit_code": 1})
    after = story(begun, again, end, of={"a": unstable})
    assert after.retry_at == 10.0 + STABLE_AFTER


@pytest.mark.parametrize(
    ("policy", "code", "phase", "reason"),
    [
        ("on-failure", 0, Phase.STOPPED, "exited"),
        ("on-failure", 1, Phase.BACKOFF, "crashed"),
        ("on-failure", None, Phase.BACKOFF, "crashed"),
        ("always", 0, Phase.BACKOFF, "crashed"),
        ("never", 1, Phase.FAILED, "crashed"),
        ("never", 0, Phase.STOPPED, "exited"),
    ],
)
def test_an_end_that_nobody_asked_for(
    policy: str, code: int | None, phase: Phase, reason: str
) -> None:
    wanted = spec(restart=RestartPolicy(policy=policy))  # type: ignore[arg-type]
    begun = replace(STARTING, spec=wanted)
    after = story(begun, SPAWNED, READY, crashed(20.0, code))
    assert (after.phase, after.reason) == (phase, reason)


def test_a_clean_exit_before_it_was_ever_ready_is_a_failure() -> None:
    assert story(STARTING, SPAWNED, crashed(1.0, 0)).phase is Phase.BACKOFF


def test_a_requested_stop_is_no_failure_whatever_the_code() -> None:
    after = story(*BEGUN, event(EventType.STOPPING), crashed(3.0, 137))
    assert (after.phase, after.failures) == (Phase.STOPPED, ())


def test_a_hold_stays_a_hold_until_it_is_released() -> None:
    held = Event(EventType.HELD, "a")
    after = story(*BEGUN, held, event(EventType.STOPPING), crashed(3.0))
    assert (after.phase, after.reason, after.held) == (Phase.STOPPED, "held", True)
    released = story(Event(EventType.RELEASED, "a"), of={"a": after})
    assert (released.reason, released.held) == ("", False)


def test_what_was_condemned_counts_as_failed() -> None:
    condemned = replace(event(EventType.CONDEMNED), reason="hung", message="no answer")
    stopping = replace(event(EventType.STOPPING), reason="hung", message="no answer")
    after = story(*BEGUN, condemned, stopping, crashed(20.0, None))
    assert (after.phase, after.reason, after.condemned) == (Phase.BACKOFF, "hung", "")


def test_a_taken_port_is_waited_for_and_never_given_up() -> None:
    observed: Observed = {}
    for attempt in range(20):
        data = {"start_id": f"s{attempt}"}
        observed = fold(observed, replace(STARTING, data=data, at=float(attempt)))
        failed = Event(
            EventType.START_FAILED,
            "a",
            reason="port-taken",
            data={**data, "waits": True},
            at=float(attempt),
        )
        observed = fold(observed, failed)
    after = observed["a"]
    assert after.phase is Phase.BACKOFF
    assert after.retry_at is not None
    assert after.retry_at - 19.0 <= 2.0


def test_a_permanent_failure_is_not_retried() -> None:
    failed = Event(
        EventType.START_FAILED,
        "a",
        reason="binary-missing",
        data={"start_id": "s1", "permanent": True},
    )
    assert story(STARTING, failed).phase is Phase.FAILED


def test_late_events_of_an_earlier_run_change_nothing() -> None:
    second = replace(STARTING, data={"start_id": "s2"}, at=5.0)
    before = story(*BEGUN, crashed(4.0), second)
    for late in (SPAWNED, READY, crashed(6.0)):
        assert story(late, of={"a": before}) is before


def test_doubled_events_change_nothing() -> None:
    once = story(*BEGUN, crashed(4.0))
    assert story(crashed(4.5), of={"a": once}) == once


def test_the_end_of_the_machine_is_no_failure() -> None:
    after = story(*BEGUN, crashed(3.0, None, blameless=True))
    assert (after.phase, after.reason) == (Phase.STOPPED, "")


def test_a_live_update_keeps_what_the_process_has_read() -> None:
    changed = Event(EventType.UPDATED, "a", spec=spec(description="new"))
    after = story(*BEGUN, changed)
    assert after.spec.description == "new"
    assert after.spec.inputs == A.inputs


def test_a_taken_port_is_waited_for_under_every_policy() -> None:
    """Nothing has run, so there is nothing that `never` could refuse to run again."""
    begun = replace(STARTING, spec=spec(restart=RestartPolicy("never")))
    taken = event(EventType.START_FAILED, waits=True, permanent=False)
    assert story(begun, replace(taken, reason="port-taken")).phase is Phase.BACKOFF


@pytest.mark.parametrize(("reason", "kept"), [("restart", 2), ("asked", 1), ("changed", 1)])
def test_a_new_beginning_forgets_earlier_failures(reason: str, kept: int) -> None:
    again = replace(STARTING, reason=reason, at=3.0, data={"start_id": "s2"})
    end = replace(crashed(4.0), data={"start_id": "s2", "exit_code": 1})
    after = story(*BEGUN, crashed(2.0), again, end)
    assert (len(after.failures), after.streak) == (kept, kept)


def test_a_restart_that_was_asked_for_outlives_the_crash_that_came_first() -> None:
    assert story(*BEGUN, event(EventType.REDO), crashed(2.0)).redo


def test_how_long_it_took_is_told_of_its_first_readiness_alone() -> None:
    ill, well = event(EventType.UNREADY, 2.0), event(EventType.READY, 60.0, ready_after_s=60.0)
    assert story(*BEGUN, ill, well).ready_after_s == 1.0


def test_until_the_server_was_looked_at_nobody_knows_which_models_there_are() -> None:
    look, looked = Event(EventType.LOOK, "a", reason="apply"), event(EventType.LOOKED)
    holding = replace(A, holds=ModelSet((ModelSpec("m:latest"),)))
    begun = replace(story(*BEGUN), spec=holding)
    asked = story(look, of={"a": begun})
    assert (begun.doubted, asked.doubted) == (False, True)
    assert story(replace(looked, data={"start_id": "s0"}), of={"a": asked}) is asked
    assert not story(looked, of={"a": asked}).doubted
    # Where there are no models, or no server, nobody would ever look.
    assert not story(look, of={"a": replace(begun, spec=A)}).doubted
    assert not story(look, of={"a": replace(begun, phase=Phase.STOPPED)}).doubted


# --- servers that somebody else runs --------------------------------------------------------------

THEIRS: dict[str, object] = {"pid": 77, "owner": "alice", "version": "1.0"}
ATTACHED = replace(event(EventType.ATTACHED, 1.0, ready_after_s=0.1, **THEIRS), message="attached")
GONE = replace(event(EventType.UNREADY, 2.0), reason="gone", message="not there")
DETACHED = replace(event(EventType.DETACHED, 3.0), message="detached: it goes on")


def test_a_start_that_finds_somebodys_server_is_ready_without_a_process() -> None:
    after = story(STARTING, ATTACHED)
    assert (after.phase, after.message, after.managed) == (Phase.READY, "attached", False)
    assert (after.process, after.attached) == (None, AttachedTo(77, "alice", "1.0"))
    assert (after.ready_at, after.ready_after_s) == (1.0, 0.1)


def test_what_goes_away_has_no_pid_until_it_is_back() -> None:
    gone = story(STARTING, ATTACHED, GONE)
    assert (gone.phase, gone.reason) == (Phase.UNREADY, "gone")
    assert gone.attached == AttachedTo(None, "alice", "1.0")

    other = {"pid": 78, "owner": "alice", "version": "2.0"}
    back = story(event(EventType.ATTACHED, 4.0, **other), of={"a": gone})
    assert (back.phase, back.reason) == (Phase.READY, "")
    assert back.attached == AttachedTo(78, "alice", "2.0")
    assert (back.ready_at, back.ready_after_s, back.restarts) == (1.0, 0.1, 0)


def test_what_does_not_answer_may_go_away_as_well() -> None:
    unwell = replace(GONE, reason="unhealthy", message="hangs")
    after = story(STARTING, ATTACHED, unwell)
    assert after.attached == AttachedTo(77, "alice", "1.0"), "it is there"
    assert story(unwell, of={"a": after}) is after
    assert story(GONE, of={"a": after}).reason == "gone"
    # For a process of ours, the first word on it stands until it is well again.
    ours = story(*BEGUN, unwell)
    assert story(GONE, of={"a": ours}) is ours


@pytest.mark.parametrize("held", [False, True])
def test_letting_go_of_it_is_a_stop_and_no_failure(held: bool) -> None:
    stops = (event(EventType.HELD), event(EventType.STOPPING)) if held else ()
    models = (ModelStatus("m:latest", loaded=True),)
    before = replace(story(STARTING, ATTACHED, *stops), models=models)
    after = story(DETACHED, of={"a": before})
    assert (after.phase, after.reason) == (Phase.STOPPED, "held" if held else "")
    assert (after.message, after.managed) == ("detached: it goes on", True)
    assert (after.attached, after.models, after.started_at) == (None, (), None)
    assert (after.failures, after.restarts, after.retry_at) == ((), 0, None)


def test_words_about_somebodys_server_that_come_late_change_nothing() -> None:
    dead = story(STARTING, SPAWNED, crashed(1.0))
    ours = story(*BEGUN)
    for late in (ATTACHED, DETACHED):
        assert story(late, of={"a": dead}) is dead
    assert story(DETACHED, of={"a": ours}) is ours
    again = story(replace(STARTING, data={"start_id": "s2"}))
    assert story(ATTACHED, of={"a": again}) is again
    stopping = story(STARTING, ATTACHED, event(EventType.STOPPING))
    assert story(ATTACHED, of={"a": stopping}) is stopping


def test_a_stop_in_the_moment_of_attaching_ends_in_stopped() -> None:
    """What was attached to was never seen to be: it is let go of all the same."""
    stopping = event(EventType.STOPPING, 1.0)
    detached = replace(event(EventType.DETACHED, 2.0), message="detached: pid 7 goes on")
    after = story(STARTING, stopping, event(EventType.ATTACHED, 1.5, pid=7), detached)
    assert (after.phase, after.managed) == (Phase.STOPPED, True)
    assert after.message == "detached: pid 7 goes on"


HANGS_ON = {"files": {"/m.gguf": "ENOENT"}, "memory": 0, "groups": []}
LACKS = replace(
    crashed(2.0, permanent=True, hangs_on=HANGS_ON), reason="model-missing", message="no model"
)


def test_what_no_retry_can_mend_waits_for_what_it_hangs_on() -> None:
    after = story(STARTING, SPAWNED, LACKS)
    assert (after.phase, after.reason, after.message) == (Phase.FAILED, "model-missing", "no model")
    assert after.retry_at is None
    assert after.mending is not None
    assert [(seen.path, seen.mark) for seen in after.mending.files] == [("/m.gguf", "ENOENT")]


def test_what_is_mended_begins_anew() -> None:
    failed = {"a": story(STARTING, SPAWNED, LACKS)}
    after = story(event(EventType.MENDED, 9.0), of=failed)
    assert (after.phase, after.reason, after.mending) == (Phase.STOPPED, "", None)
    assert (after.failures, after.streak) == ((), 0)
    # It is about that run alone, and about nothing that runs.
    assert story(event(EventType.MENDED, 9.0, start_id="s0"), of=failed) is failed["a"]
    running = {"a": story(*BEGUN)}
    assert story(event(EventType.MENDED, 9.0), of=running) is running["a"]


def test_memory_that_is_back_brings_a_try_that_counts() -> None:
    hangs_on = {"files": {}, "memory": 5, "groups": []}
    short = replace(crashed(2.0, permanent=True, hangs_on=hangs_on), reason="out-of-memory")
    failed = story(STARTING, SPAWNED, short)
    mended = event(EventType.MENDED, 9.0, memory=True)
    after = story(mended, of={"a": failed})
    assert (after.phase, after.reason, after.mending) == (Phase.BACKOFF, "out-of-memory", None)
    assert (after.failures, after.streak) == (failed.failures, 1)
    assert after.retry_at is not None
    assert after.retry_at > 9.0
    assert story(mended, of={"a": after}) is after
    # After more of the same it takes its time.
    later = story(mended, of={"a": replace(failed, streak=5)})
    assert later.retry_at is not None
    assert later.retry_at - 9.0 > 5 * (after.retry_at - 9.0)


def test_what_is_never_to_be_tried_again_is_not_mended() -> None:
    failed = story(STARTING, SPAWNED, LACKS)
    never = replace(failed, spec=replace(failed.spec, restart=RestartPolicy("never")))
    assert story(event(EventType.MENDED, 9.0), of={"a": never}) is never


def test_what_was_held_meanwhile_stays_down() -> None:
    held = {"a": story(STARTING, SPAWNED, LACKS, event(EventType.HELD, 3.0))}
    after = story(event(EventType.MENDED, 9.0), of=held)
    assert (after.phase, after.held) == (Phase.STOPPED, True)
