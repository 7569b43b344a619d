"""What is due at about the same time is done at the same time."""

from __future__ import annotations

import pytest

from orchestrator.runtime import beat
from orchestrator.runtime.beat import BEAT, on_beat, until_beat


@pytest.mark.parametrize("at", [0.0, 0.9, 1000.0, 1000.99, 123456.789])
@pytest.mark.parametrize("tolerance", [0.01, 0.1, 1.0, 1.25, 60.0])
def test_no_beat_is_further_than_what_is_tolerated(at: float, tolerance: float) -> None:
    assert abs(on_beat(at, tolerance) - at) <= min(tolerance, BEAT / 2)


def test_what_comes_at_intervals_of_its_own_meets_on_the_slow_beat() -> None:
    met = {on_beat(100.0 + step / 10, 1.25) for step in range(100)}
    assert met == {100.0, 102.0, 104.0, 106.0, 108.0, 110.0}
    quick = {on_beat(100.0 + step / 10, 0.25) for step in range(100)}
    assert met < quick, "each slow beat is a quick one as well"


def test_a_beat_that_was_kept_is_followed_by_one_an_interval_later() -> None:
    for interval in (1.0, 5.0, 10.0, 60.0):
        at = on_beat(1000.3, interval / 8)
        for _ in range(10):
            after = on_beat(at + 0.004 + interval, interval / 8)
            assert after - at == interval
            at = after


def test_what_has_to_be_exact_keeps_to_no_beat() -> None:
    assert on_beat(100.0003, 0.0) == 100.0003
    assert on_beat(100.0003, 0.0001) == 100.0003


def test_a_pause_is_never_cut_short_by_much(monkeypatch: pytest.MonkeyPatch) -> None:
    for now in (1000.0, 1000.9, 1001.0, 1001.99):
        monkeypatch.setattr(beat.time, "monotonic", lambda now=now: now)
        assert 8.75 <= until_beat(10.0) <= 11.25
        assert 1.0 <= until_beat(2.0, tolerance=1.0) <= 3.0
        assert (now + until_beat(10.0)) % BEAT == pytest.approx(0.0)
