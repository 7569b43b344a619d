"""Events as they travel: their JSON, their time, and what the two kinds of them have in common."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.event import TRANSIENT, Event, EventType, timestamp
from tests.unit.test_plan import A


def test_the_promised_shape() -> None:
    event = Event(
        EventType.EXITED,
        "a",
        reason="crashed",
        message="exited with code 1",
        data={"exit_code": 1, "log": ["x"]},
        spec=A,
        id=7,
        time=1.5,
        at=9.0,
    )
    assert event.as_json() == {
        "id": 7,
        "time": "1970-01-01T00:00:01.500Z",
        "instance": "a",
        "type": "exited",
        "reason": "crashed",
        "message": "exited with code 1",
        "data": {"exit_code": 1, "log": ["x"]},
    }
    assert json.loads(json.dumps(event.as_json())) == event.as_json()


def test_no_two_events_share_their_data() -> None:
    Event(EventType.READY).data["x"] = 1
    assert Event(EventType.READY).data == {}


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.0, "1970-01-01T00:00:00.000Z"),
        (1767225600.1234, "2026-01-01T00:00:00.123Z"),
        (1767225599.9999, "2025-12-31T23:59:59.999Z"),
    ],
)
def test_times_are_utc_in_milliseconds(seconds: float, shown: str) -> None:
    assert timestamp(seconds) == shown


@given(st.floats(0, 4e9), st.floats(0, 4e9))
def test_times_sort_as_they_are_read(one: float, other: float) -> None:
    earlier, later = sorted((one, other))
    assert timestamp(earlier) <= timestamp(later)


def test_words_are_fixed_and_plain() -> None:
    assert all(kind.value.replace("-", "").isalpha() for kind in EventType)
    progress = {EventType.PROGRESS, EventType.MODEL_PROGRESS}
    assert progress | {EventType.LOOK, EventType.LOOKED} == TRANSIENT
