"""When it is told that too much is served by a fallback."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.fallback_rate import too_many, words
from orchestrator.core.figures import NameFigures
from orchestrator.core.gateway_spec import GatewaySpec, RouteAim, RouteSpec
from orchestrator.gateway.figures import ENOUGH, LAST, LATELY, Figures
from orchestrator.gateway.record import Record
from orchestrator.gateway.room import Room
from orchestrator.gateway.table import Aim, Route, Table

SPEC = GatewaySpec((RouteSpec("chat", (RouteAim("a"),), ("b",), warn=50.0),))


def named(recent: float | None) -> dict[str, NameFigures]:
    return {"chat": NameFigures(recent=recent)}


def test_it_comes_above_its_limit_and_passes_well_below() -> None:
    assert too_many(SPEC, named(0.5), {}) == {}
    raised = too_many(SPEC, named(0.51), {})
    assert raised == {"chat": 50.0}
    assert too_many(SPEC, named(0.46), raised) == raised, "about its limit it does not flutter"
    assert too_many(SPEC, named(0.45), raised) == {}
    assert too_many(SPEC, named(None), raised) == {}
    assert too_many(SPEC, {}, raised) == {}
    assert too_many(GatewaySpec((RouteSpec("chat", ()),)), named(1.0), {}) == {}


def test_it_is_said_alike_for_as_long_as_it_is_so() -> None:
    assert words(too_many(SPEC, named(0.6), {})) == words(too_many(SPEC, named(0.9), {}))
    assert words({}) == ""


def recent(figures: Figures, now: float) -> float | None:
    room = Room(table=Table(names={"chat": Route("chat", (Aim("a"),))}))
    return figures.as_json(room, now)["names"]["chat"]["recent"]


@given(st.lists(st.booleans(), min_size=1, max_size=3 * LAST))
def test_the_last_requests_count(fell: list[bool]) -> None:
    figures = Figures()
    for one in fell:
        record = Record(0.0, model="chat", target="b" if one else "a", fallbacks=int(one))
        figures.add(record, 1.0)
    last = fell[-LAST:]
    expected = round(sum(last) / len(last), 4) if len(last) >= ENOUGH else None
    assert recent(figures, 1.0) == expected
    assert recent(figures, 2.0 + LATELY) is None, "what was long ago says nothing"


def test_what_no_fallback_could_serve_either_is_none_that_it_served() -> None:
    figures = Figures()
    for _ in range(ENOUGH):
        figures.add(Record(0.0, model="chat", fallbacks=2, status=503), 1.0)
    assert recent(figures, 1.0) == 0.0
