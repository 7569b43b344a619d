"""What is to be told about how much an instance takes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.alerts import Measured, Sample, alerts, growth, over_limit
from orchestrator.core.spec import Limits

MIB, GIB = 1 << 20, 1 << 30
NOW = 10_000.0


def takes(memory: int = 0, cpu: float = 0.0, *, since: float = 60.0) -> list[Sample]:
    """The same, measured every two seconds."""
    return [Sample(NOW - since + 2 * step, memory, cpu) for step in range(int(since / 2) + 1)]


def told(limits: Limits, measured: Measured, *raised: str) -> dict[str, str]:
    known = dict.fromkeys(raised, "as it was told")
    return {**alerts(limits, measured, now=NOW, raised=known)}


def test_without_limits_nothing_is_told() -> None:
    assert told(Limits(), Measured(takes(64 * GIB, 1600.0), restarts=[NOW] * 9)) == {}


def test_memory_over_its_limit() -> None:
    limits = Limits(memory_warn=6 * GIB)
    assert told(limits, Measured(takes(6 * GIB))) == {}
    found = told(limits, Measured(takes(6 * GIB + 512 * MIB)))
    assert found == {"memory": "takes 6.5GiB of memory, warn: 6GiB"}


def test_an_alert_does_not_flutter_about_its_limit() -> None:
    limits, just_below = Limits(memory_warn=1000), Measured(takes(950))
    assert told(limits, just_below) == {}
    assert "memory" in told(limits, just_below, "memory")
    assert told(limits, Measured(takes(899)), "memory") == {}


def test_a_burst_of_cpu_is_none() -> None:
    limits = Limits(cpu_warn=80.0)
    assert told(limits, Measured(takes(cpu=100.0, since=10))) == {}
    assert told(limits, Measured(takes(cpu=79.0))) == {}
    assert "100% of a core" in told(limits, Measured(takes(cpu=100.0)))["cpu"]


def test_what_was_measured_once_a_minute_counts_for_its_minute() -> None:
    """A limit was declared just now: two seconds of work are no minute of it."""
    limits = Limits(cpu_warn=80.0)
    sparse = [Sample(NOW - ago, 0, 10.0) for ago in (182, 122, 62, 2)]
    assert told(limits, Measured([*sparse, Sample(NOW, 0, 800.0)])) == {}
    busy = [Sample(NOW - ago, 0, 100.0) for ago in (182, 122, 62, 2)]
    assert "100% of a core" in told(limits, Measured([*busy, Sample(NOW, 0, 100.0)]))["cpu"]


def test_what_an_earlier_daemon_told_stays_until_it_could_be_seen_here() -> None:
    limits, earlier = Limits(cpu_warn=80.0), NOW - 3600
    said = {"cpu": "as it was told", "leak": "as it was told"}
    just_now = Measured(takes(cpu=100.0, since=10), since=NOW - 10, began=earlier)
    assert told(limits, just_now, "cpu", "leak") == said
    # Of a run that began here, all is known.
    anew = Measured(takes(cpu=100.0, since=10), since=NOW - 10, began=NOW - 8)
    assert told(limits, anew, "cpu", "leak") == {}
    # What is not asked for any more is over, whoever told it; and what was seen is what counts.
    assert told(Limits(), just_now, "cpu") == {}
    calm = Measured(takes(cpu=10.0), trend(*[1000] * 13), since=NOW - 900, began=earlier)
    assert told(limits, calm, "cpu", "leak") == {}
    down = Measured(since=NOW - 61, began=earlier)
    assert told(limits, down, "cpu") == {}


def test_restarts_within_their_window() -> None:
    limits = Limits(restarts_warn=3, restarts_window=60.0)
    assert told(limits, Measured(restarts=[NOW - 61, NOW - 2, NOW - 1])) == {}
    found = told(limits, Measured(restarts=[NOW - 59, NOW - 2, NOW - 1]))
    assert found == {"restarts": "was restarted 3 times within 1m"}


def test_what_was_measured_long_ago_says_nothing() -> None:
    limits, old = Limits(memory_warn=1000), Measured([Sample(NOW - 61, GIB, 0.0)])
    assert told(limits, old) == {}
    assert told(limits, old, "memory") == {}


def test_restarts_are_not_over_before_they_could_have_been_counted() -> None:
    limits = Limits(restarts_warn=3, restarts_window=60.0)
    stays = told(limits, Measured(since=NOW - 59), "restarts")
    assert stays == {"restarts": "as it was told"}
    assert told(limits, Measured(since=NOW - 61), "restarts") == {}
    assert told(limits, Measured(since=NOW - 59)) == {}
    assert told(Limits(), Measured(since=NOW - 59), "restarts") == {}


def test_more_than_the_most_ends_it() -> None:
    limits = Limits(memory_max=8 * GIB)
    assert over_limit(limits, Measured(takes(8 * GIB))) == ""
    assert over_limit(limits, Measured()) == ""
    said = over_limit(limits, Measured(takes(9 * GIB)))
    assert said == "takes 9GiB of memory, at most 8GiB"


def trend(*mib: float) -> list[Sample]:
    """A sample a minute."""
    return [Sample(60.0 * at, round(one * MIB), 0.0) for at, one in enumerate(mib)]


def test_a_steady_rise_is_a_leak_and_says_how_fast() -> None:
    leak = growth(trend(*(1000 + 10 * minute for minute in range(60))))
    assert leak is not None
    assert leak == pytest.approx(600 * MIB, rel=0.1)
    found = told(Limits(), Measured(trend=trend(*(1000 + 10 * m for m in range(60)))))
    assert found["leak"].startswith("its memory grows steadily")


def test_a_leak_that_slows_down_is_one_until_it_pauses() -> None:
    slow = trend(*(1000 + minute for minute in range(60)))
    assert told(Limits(), Measured(trend=slow)) == {}
    assert "leak" in told(Limits(), Measured(trend=slow), "leak")
    level = trend(*(1000 + min(minute, 40) for minute in range(60)))
    assert told(Limits(), Measured(trend=level), "leak") == {}


@pytest.mark.parametrize(
    "mib",
    [
        [1000] * 60,
        [1000 + 10 * min(minute, 40) for minute in range(60)],
        [1000 + 0.5 * minute for minute in range(60)],
        [1000 + 300 * (minute % 20) for minute in range(60)],
        [1000 - 10 * minute for minute in range(60)],
        [1000 + 10 * minute for minute in range(11)],
    ],
    ids=["level", "a cache that is full", "a trickle", "comes and goes", "falls", "too short"],
)
def test_what_is_no_leak(mib: list[float]) -> None:
    assert growth(trend(*mib)) is None


@given(st.lists(st.integers(0, 1 << 40), max_size=70))
def test_any_trend_can_be_judged(memory: list[int]) -> None:
    samples = [Sample(60.0 * at, one, 0.0) for at, one in enumerate(memory)]
    found = growth(samples)
    assert found is None or found > 0
