"""Durations, sizes and limits: what people write, what it means, and how it is written back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.units import (
    LONGEST_DURATION,
    Limit,
    format_duration,
    format_size,
    parse_duration,
    parse_limit,
    parse_percent,
    parse_size,
)


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("10s", 10),
        ("1m30s", 90),
        ("500ms", 0.5),
        ("2h", 7200),
        ("1d", 86400),
        ("1.5s", 1.5),
        ("1h 30m", 5400),
        (" 2 m ", 120),
        ("1m500ms", 60.5),
        ("1m0.1s", 60.1),
        ("0s", 0),
        ("90", 90),
        (90, 90),
        (0.25, 0.25),
    ],
)
def test_durations(written: object, seconds: float) -> None:
    assert parse_duration(written) == seconds


@pytest.mark.parametrize(
    "written",
    [
        "",
        " ",
        "soon",
        "s",
        "5x",
        "-1s",
        -1,
        "5s1m",
        "1s1s",
        "1e3s",
        "٣s",
        True,
        None,
        [],
        "1m s",
        float("nan"),
        "1d" + " " * 57 + "x",
    ],
)
def test_what_is_no_duration(written: object) -> None:
    with pytest.raises(ValueError, match="expected a duration such as 10s, got"):
        parse_duration(written)


@pytest.mark.parametrize("written", ["367d", 10**400, float("inf"), "9" * 59])
def test_durations_are_bounded(written: object) -> None:
    with pytest.raises(ValueError, match="at most 366d"):
        parse_duration(written)


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (0, "0s"),
        (0.0004, "0.4ms"),
        (0.5, "500ms"),
        (0.99999999, "1s"),
        (1, "1s"),
        (59.9996, "1m"),
        (90.5, "1m30.5s"),
        (3600, "1h"),
        (172801, "2d1s"),
        (-5, "-5s"),
        (float("inf"), "forever"),
    ],
)
def test_durations_are_written_back(seconds: float, written: str) -> None:
    assert format_duration(seconds) == written


@given(st.integers(0, int(LONGEST_DURATION) * 1000))
def test_a_duration_survives_the_round_trip(millis: int) -> None:
    assert parse_duration(format_duration(millis / 1000)) == pytest.approx(millis / 1000)


@pytest.mark.parametrize(
    ("written", "size"),
    [
        ("6GiB", 6 << 30),
        ("512MB", 512_000_000),
        ("1.5 KiB", 1536),
        ("4kB", 4000),
        ("10", 10),
        ("7B", 7),
        (42, 42),
    ],
)
def test_sizes(written: object, size: int) -> None:
    assert parse_size(written) == size


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("6G", "expected a size in GiB or GB, got '6G'"),
        ("6gib", "expected a size in GiB or GB, got '6gib'"),
        ("80%", "expected a size such as 6GiB, got '80%'"),
        ("6 parsecs", "expected a size such as 6GiB, got '6 parsecs'"),
        (-1, "expected a size such as 6GiB, got -1"),
        (True, "expected a size such as 6GiB, got true"),
        (None, "expected a size such as 6GiB, got nothing"),
    ],
)
def test_what_is_no_size(written: object, message: str) -> None:
    with pytest.raises(ValueError, match="expected a size") as caught:
        parse_size(written)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("count", "written"),
    [(0, "0B"), (1023, "1023B"), (1024, "1KiB"), (23_000_000, "21.9MiB"), ((1 << 30) - 1, "1GiB")],
)
def test_sizes_are_written_back(count: int, written: str) -> None:
    assert format_size(count) == written


@given(st.integers(0, 1 << 50))
def test_a_written_size_is_near_and_readable(count: int) -> None:
    assert parse_size(format_size(count)) == pytest.approx(count, rel=0.06, abs=1)


def test_limits() -> None:
    assert parse_limit("5 in 10m") == Limit(5, 600)


@pytest.mark.parametrize("written", ["5", 5, "0 in 10m", "5 in", "in 10m", "5 in soon", "5 in 0s"])
def test_what_is_no_limit(written: object) -> None:
    with pytest.raises(ValueError, match="expected a"):
        parse_limit(written)


def test_percentages() -> None:
    assert parse_percent("80%") == 80.0
    assert parse_percent("12.5 %") == 12.5
    assert parse_percent("250%") == 250.0, "of one core, so several may be meant"
    for written in ("80", "0%", "-1%", 0.8, None):
        with pytest.raises(ValueError, match="expected a percentage such as 80%"):
            parse_percent(written)
