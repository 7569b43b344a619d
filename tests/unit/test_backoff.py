"""The delay before the next start: bounded, growing, the same for the same history."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.backoff import delay_before, within_window
from orchestrator.core.spec import RestartPolicy

seconds = st.floats(0, 1e6, allow_nan=False)
policies = st.builds(RestartPolicy, initial=seconds, max=seconds, limit=st.integers(0, 50))
streaks = st.integers(0, 10_000)


@given(streaks, st.booleans(), policies, st.text())
def test_never_negative_never_over_the_limit(
    streak: int, was_ready: bool, policy: RestartPolicy, seed: str
) -> None:
    delay = delay_before(streak, was_ready=was_ready, policy=policy, seed=seed)
    assert 0 <= delay <= policy.max
    assert delay == delay_before(streak, was_ready=was_ready, policy=policy, seed=seed)


@given(streaks, st.booleans(), policies, st.text())
def test_it_never_shrinks_as_failures_add_up(
    streak: int, was_ready: bool, policy: RestartPolicy, seed: str
) -> None:
    now = delay_before(streak, was_ready=was_ready, policy=policy, seed=seed)
    assert now <= delay_before(streak + 1, was_ready=was_ready, policy=policy, seed=seed)


@given(st.integers(1, 10_000), policies, st.text(), st.text())
def test_seeds_differ_by_a_quarter_at_most(
    streak: int, policy: RestartPolicy, one: str, other: str
) -> None:
    delays = [delay_before(streak, was_ready=False, policy=policy, seed=s) for s in (one, other)]
    assert min(delays) >= 0.75 * max(delays)


def test_what_was_ready_and_well_restarts_at_once() -> None:
    assert delay_before(0, was_ready=True, policy=RestartPolicy(), seed="") == 0.0
    assert delay_before(0, was_ready=False, policy=RestartPolicy(), seed="") > 0.0


def test_it_doubles_from_the_first_to_the_longest() -> None:
    policy = RestartPolicy(initial=1.0, max=60.0)
    # The seed whose checksum is 0 takes nothing off.
    full = [delay_before(n, was_ready=False, policy=policy, seed="") for n in range(8)]
    assert full == [1, 2, 4, 8, 16, 32, 60, 60]
    again = [delay_before(n, was_ready=True, policy=policy, seed="") for n in range(4)]
    assert again == [0, 1, 2, 4]


def test_many_that_fall_together_do_not_rise_together() -> None:
    policy = RestartPolicy(initial=10.0)
    delays = {delay_before(0, was_ready=False, policy=policy, seed=f"s{n}") for n in range(32)}
    assert len(delays) == 32
    assert max(delays) - min(delays) > 1.0


@given(st.lists(seconds), seconds, policies)
def test_only_failures_within_the_window_count(
    failures: list[float], now: float, policy: RestartPolicy
) -> None:
    kept = within_window(tuple(failures), now=now, policy=policy)
    assert all(0 <= now - at <= policy.window for at in kept)
    assert len(kept) <= policy.limit + 1
    counted = sum(0 <= now - at <= policy.window for at in failures)
    assert len(kept) == min(counted, policy.limit + 1)


@pytest.mark.parametrize(("ago", "counts"), [(0, 1), (600, 1), (600.5, 0), (-1, 0)])
def test_the_edges_of_the_window(ago: float, counts: int) -> None:
    assert len(within_window((1000 - ago,), now=1000, policy=RestartPolicy())) == counts
