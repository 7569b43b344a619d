"""What the gateway tells of what it does: counts, times, speeds, and no name without bounds."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import ValidationError, convert
from msgspec.json import decode

from orchestrator.core import figures as shape
from orchestrator.gateway.figures import FIRST_BOUNDS, OTHER, RECENT, SPEED, Figures
from orchestrator.gateway.record import Record
from orchestrator.gateway.rises import Rises
from orchestrator.gateway.room import Room
from orchestrator.gateway.table import Aim, Route, Table, Target

SSE = b"text/event-stream"
EVENT = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'


def room(*names: str) -> Room:
    targets = {name: Target(name, "llama-server", ("127.0.0.1", 1)) for name in names}
    return Room(table=Table(targets=targets, names={n: Route(n, (Aim(n),)) for n in names}))


def record(target: str = "a", status: int = 200, *, began: float = 0.0, **more: Any) -> Record:
    return Record(began, model=target or "", target=target, status=status, **more)


def told(figures: Figures, now: float, *names: str) -> shape.Figures:
    """What the daemon understands of what crosses."""
    return decode(json.dumps(figures.as_json(room(*names), now)), type=shape.Figures)


def test_what_became_of_requests_is_counted() -> None:
    figures = Figures()
    for one in (
        record(),
        record(status=400),
        record(status=500),
        record(lost=True),
        record(gone=True),
        record("b", fallbacks=1, retried=("a", "a")),
        record("", 404),
        record("", 404),
    ):
        figures.begin(one)
        figures.add(one, 1.0)
    said = told(figures, 1.0, "a", "b")
    a = said.instances["a"]
    assert a.outcomes == {"2xx": 1, "4xx": 1, "5xx": 1, "lost": 1, "gone": 1}
    assert (a.requests, a.failures, a.retries) == (5, 2, 2)
    assert (said.instances["b"].fallbacks, said.names["b"].fallbacks) == (1, 1)
    assert (said.own, said.names[OTHER].requests) == ({"404": 2}, 2)
    assert (said.whole.requests, said.whole.retries, said.whole.failures) == (8, 2, 2)
    assert said.whole.lately.fallbacks == 0


def test_clients_cannot_make_names() -> None:
    figures = Figures()
    for number in range(1000):
        # Names that were of a table once, and are not any more.
        figures.add(record(f"gone{number}"), 1.0)
        figures.add(record("", 404, client=f"somebody{number}"), 1.0)
    figures.add(record("", 404, client="team", named=True), 1.0)
    said = told(figures, 1.0, "a")
    assert set(said.instances) == {"a"}
    assert set(said.names) == {OTHER}
    assert set(said.clients) == {"team"}


def test_tokens_come_from_what_the_server_says() -> None:
    figures, one = Figures(), record()
    flow = one.watch("/v1/chat/completions", SSE, b"")
    flow.take(EVENT * 5 + b'data: {"timings":{"prompt_n":3,"cache_n":4,"predicted_n":20}}\n\n')
    figures.add(one, 1.0)
    said = told(figures, 1.0, "a").instances["a"]
    assert (said.prompt_tokens, said.generated_tokens) == (7, 20)


def test_tokens_per_second_are_seen_while_a_stream_goes_on() -> None:
    figures, one = Figures(), record()
    figures.as_json(room("a"), 0.0)
    figures.begin(one)
    flow = one.watch("/v1/chat/completions", SSE, b"")
    for tick in range(1, 61):
        flow.take(EVENT * 20)
        figures.as_json(room("a"), tick / 2)
    said = told(figures, 30.0, "a")
    assert said.instances["a"].tokens_s == pytest.approx(40, rel=0.1)
    assert said.whole.tokens_s == said.instances["a"].tokens_s
    flow.take(b'data: {"usage":{"completion_tokens":1200}}\n\n')
    figures.add(one, 30.0)
    # It goes on in no other way than it was.
    assert told(figures, 30.5, "a").instances["a"].tokens_s == pytest.approx(40, rel=0.1)
    assert told(figures, 30.5 + 2 * SPEED, "a").instances["a"].tokens_s == 0.0
    assert told(figures, 60.0, "a").instances["a"].generated_tokens == 1200


def test_a_correction_downwards_is_no_speed() -> None:
    figures, one = Figures(), record()
    figures.begin(one)
    one.watch("/v1/chat/completions", SSE, b"").take(EVENT * 100)
    figures.as_json(room("a"), 0.0)
    assert one.flow is not None
    one.flow.take(b'data: {"usage":{"completion_tokens":50}}\n\n')
    figures.add(one, 1.0)
    assert told(figures, 1.0, "a").instances["a"].tokens_s == 0.0


def test_medians_are_of_the_last_minute_and_histograms_of_all() -> None:
    figures = Figures()
    for number in range(100):
        one = record(began=0.0, streamed=True, first_byte=number / 100)
        figures.add(one, 1.0)
    said = told(figures, 2.0, "a").instances["a"]
    assert (said.first_token_s, said.first_token_p95_s) == (0.5, 0.95)
    assert (said.request_s, said.request_p95_s) == (1.0, 1.0)
    later = told(figures, 2.0 + RECENT, "a").instances["a"]
    assert (later.first_token_s, later.request_s) == (None, None)
    assert later.first_token is not None
    assert sum(later.first_token.counts) == 100
    assert later.first_token.total == pytest.approx(49.5)


def test_the_first_byte_of_what_is_not_streamed_is_no_first_token() -> None:
    figures = Figures()
    figures.add(record(first_byte=0.5), 1.0)
    said = told(figures, 1.0, "a").instances["a"]
    assert (said.first_token_s, said.request_s) == (None, 1.0)


def test_it_is_quiet_once_nothing_changes_any_more() -> None:
    figures, one = Figures(), record()
    assert not figures.lively
    figures.as_json(room("a"), 0.0)
    figures.begin(one)
    assert figures.lively
    figures.add(one, 1.0)
    assert figures.lively
    figures.as_json(room("a"), 2 + RECENT)
    assert (figures.lively, figures.settles) == (False, True)
    for tick in range(40):
        figures.as_json(room("a"), 10.0 * tick + 2 + RECENT)
    assert (figures.lively, figures.settles) == (False, False)


@given(st.lists(st.tuples(st.floats(0.01, 9.0), st.integers(0, 100)), max_size=60))
def test_what_has_risen_is_what_has_risen_within_the_span(steps: list[tuple[float, int]]) -> None:
    rises, now, count = Rises(10.0), 100.0, 7
    rises.note(now, {"x": count})
    noted = [(now, count)]
    for wait, more in steps:
        now, count = now + wait, count + more
        rises.note(now, {"x": count})
        noted.append((now, count))
    within = [(at, value) for at, value in noted if at >= now - 10.0]
    assert rises.risen("x") == count - within[0][1]
    assert rises.rate("x") == pytest.approx((count - within[0][1]) / max(now - within[0][0], 1.0))


def test_what_rose_while_nobody_looked_rose_now() -> None:
    rises = Rises(10.0)
    rises.note(0.0, {"x": 5})
    rises.note(1000.0, {"x": 9})
    assert rises.risen("x") == 4
    rises.note(1001.0, {"x": 11})
    assert rises.rate("x") == 6.0


def test_a_histogram_that_does_not_fit_its_bounds_is_refused() -> None:
    bounds = {"first_token": list(FIRST_BOUNDS)}
    row = {"first_token": {"counts": [1, 2], "total": 1.0}}
    with pytest.raises(ValidationError, match="first_token has another number"):
        convert({"bounds": bounds, "instances": {"a": row}}, shape.Figures)
    with pytest.raises(ValidationError):
        convert({"instances": {"a": {"in_flight": -1}}}, shape.Figures)
