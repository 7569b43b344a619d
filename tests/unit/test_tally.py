"""What is counted: passes, events, restarts by what ended the run before, and how long starts
took."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from orchestrator.control.tally import PASS_BOUNDS, START_BOUNDS, UNKNOWN, Spread, Tally
from orchestrator.core.event import AGAIN, Event, EventType
from orchestrator.core.fold import fold
from orchestrator.core.status import Observed
from tests.unit.test_plan import A, status

SECONDS = st.floats(0, 1e6, allow_nan=False)


@given(st.lists(SECONDS))
def test_a_spread_counts_what_took_at_most_as_long_as_each_bound(took: list[float]) -> None:
    spread = Spread(START_BOUNDS)
    for seconds in took:
        spread.add(seconds)
    assert spread.count == len(took)
    assert spread.total == sum(took)
    expected = [(bound, sum(one <= bound for one in took)) for bound in START_BOUNDS]
    assert list(spread.steps()) == [*expected, (float("inf"), len(took))]


def test_bounds_rise() -> None:
    for bounds in (PASS_BOUNDS, START_BOUNDS):
        assert list(bounds) == sorted(set(bounds))


class Story:
    """Events as the reconciler folds them."""

    def __init__(self, observed: Observed | None = None) -> None:
        self.tally = Tally()
        self.observed = observed or {}

    def happens(
        self,
        kind: EventType,
        reason: str = "",
        name: str = "a",
        /,
        *,
        at: float = 0.0,
        **data: object,
    ) -> None:
        event = Event(kind, name, reason, spec=replace(A, name=name), data=data, at=at)
        before = self.observed.get(name)
        self.observed = fold(self.observed, event)
        self.tally.fold(event, before, self.observed.get(name))

    def crash_and_come_back(self, reason: str, run: int) -> None:
        self.happens(EventType.EXITED, reason, start_id=str(run))
        self.happens(EventType.STARTING, "restart", start_id=str(run + 1))

    @property
    def restarts(self) -> dict[str, int]:
        return dict(self.tally.instances["a"].restarts)


def started() -> Story:
    story = Story()
    story.happens(EventType.STARTING, start_id="1")
    story.happens(EventType.READY, start_id="1", ready_after_s=0.25)
    return story


def test_restarts_are_counted_by_what_had_ended_it() -> None:
    story = started()
    story.crash_and_come_back("crashed", 1)
    story.crash_and_come_back("out-of-memory", 2)
    story.crash_and_come_back("crashed", 3)
    assert story.restarts == {"crashed": 2, "out-of-memory": 1}


def test_a_restart_without_a_reason_has_a_cause_too() -> None:
    story = started()
    story.crash_and_come_back("", 1)
    assert story.restarts == {UNKNOWN: 1}


def test_one_more_try_of_what_waits_is_no_restart() -> None:
    story = started()
    story.happens(EventType.EXITED, "port-taken", start_id="1")
    story.happens(EventType.STARTING, "restart", start_id="2", **{AGAIN: True})
    assert not story.tally.instances["a"].restarts


def test_a_start_by_hand_is_no_restart() -> None:
    story = started()
    story.happens(EventType.EXITED, "crashed", start_id="1")
    story.happens(EventType.STARTING, "asked", start_id="2")
    assert not story.tally.instances["a"].restarts


def test_each_start_counts_once_it_is_ready() -> None:
    story = started()
    story.happens(EventType.UNREADY, "unhealthy", start_id="1")
    story.happens(EventType.READY, start_id="1")
    starts = story.tally.instances["a"].starts
    assert (starts.count, starts.total) == (1, 0.25)
    story.crash_and_come_back("crashed", 1)
    story.happens(EventType.READY, start_id="2", ready_after_s=0.5)
    assert (starts.count, starts.total) == (2, 0.75)


def test_what_an_earlier_daemon_started_is_no_start() -> None:
    ready = status(A, ready_at=5.0, ready_after_s=0.5)
    story = Story({"a": replace(ready, start_id="1")})
    story.happens(
        EventType.ADOPTED, start_id="1", pid=7, start_ticks=1, boot_id="b", started_at=1.0
    )
    story.happens(EventType.UNREADY, start_id="1")
    story.happens(EventType.READY, start_id="1", ready_after_s=0.5)
    assert "a" not in story.tally.instances


def test_what_a_successor_did_counts_once() -> None:
    story = started()
    story.happens(EventType.EXITED, "crashed", start_id="1")
    for run in ("2", "3"):
        story.happens(EventType.STARTING, "restart", "a~next", start_id=run)
        story.happens(EventType.READY, "", "a~next", start_id=run, ready_after_s=0.5)
        if run == "2":
            story.happens(EventType.EXITED, "crashed", "a~next", start_id=run)
    counted, starts = story.restarts, story.tally.instances["a"].starts.count
    story.happens(EventType.PROMOTED, start_id="3")
    assert story.observed["a"].start_id == "3"
    assert (story.restarts, story.tally.instances["a"].starts.count) == (counted, starts)


def test_what_is_forgotten_counts_no_more() -> None:
    story = started()
    assert "a" in story.tally.instances
    story.happens(EventType.FORGOTTEN)
    assert "a" not in story.tally.instances


def test_every_event_counts_by_its_type() -> None:
    tally = Tally()
    assert set(tally.events) == set(EventType)
    assert not any(tally.events.values())
    for _ in range(3):
        tally.fold(Event(EventType.BUG), None, None)
    assert tally.events[EventType.BUG] == 3


def test_convergence_takes_from_the_first_pass_that_was_apart() -> None:
    tally = Tally()
    for now in (10.0, 11.0, 12.0):
        tally.passed(0.001, apart_since=now)
    tally.fold(Event(EventType.CONVERGED, at=12.5), None, None)
    tally.passed(0.001, apart_since=None)
    assert (tally.convergences.count, tally.convergences.total) == (1, 2.5)
    # What is as declared in the same pass took no time.
    tally.fold(Event(EventType.CONVERGED, at=20.0), None, None)
    assert (tally.convergences.count, tally.convergences.total) == (2, 2.5)
    assert tally.passes.count == 4
