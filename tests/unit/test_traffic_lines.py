"""What people read of the gateway: columns where there is room, one line for all, its names."""

from __future__ import annotations

import re
from typing import Any

import pytest
from msgspec.structs import replace

from orchestrator.cli import traffic_lines
from orchestrator.cli.cells import wide
from orchestrator.cli.status_table import gateway_lines, names_table, status_table, summary
from orchestrator.cli.watch_table import Instances, Seen
from orchestrator.core.convergence import convergence
from orchestrator.core.figures import InstanceFigures, Lately, WholeFigures
from orchestrator.core.gateway_spec import GATEWAY
from orchestrator.core.plan import Plan
from orchestrator.core.report import instance_rows, status_document
from orchestrator.core.status import Phase
from tests.unit.test_plan import spec, status

BUSY = InstanceFigures(
    in_flight=2,
    waiting=1,
    requests=40,
    retries=3,
    prompt_tokens=900,
    generated_tokens=5000,
    tokens_s=41.234,
    first_token_s=0.0114,
    first_token_p95_s=1.25,
    request_s=3.0,
    request_p95_s=75.0,
)
WHOLE = WholeFigures(
    in_flight=2,
    waiting=1,
    requests=40,
    tokens_s=41.2,
    requests_s=0.44,
    lately=Lately(requests=12, fallbacks=3, failures=1),
)
NAMES = [
    {"name": "fast", "instances": ["a", "b"], "ready": ["a"], "fallback": ["b"], "requests": 40}
    | {"failures": 1, "fallbacks": 3, "prompt_tokens": 900, "generated_tokens": 5000},
    {"name": "x\x1b[2J", "instances": [], "ready": [], "fallback": [], "requests": 0}
    | {"failures": 0, "fallbacks": 0, "prompt_tokens": 0, "generated_tokens": 0},
]


def document(*, told: bool = True, gateway: bool = True) -> Any:
    specs = {"a": spec("a"), "b": spec("b", port=9002)}
    if gateway:
        specs[GATEWAY] = replace(spec(GATEWAY, port=8080), engine=GATEWAY, model="")
    observed = {name: status(one, Phase.READY) for name, one in specs.items()}
    requests = {"a": BUSY.row(), "b": InstanceFigures().row(), GATEWAY: WHOLE.row()}
    made = status_document(
        version="1",
        daemon={"pid": 1, "since": "2026-01-01T00:00:00.000Z"},
        profiles=(),
        rows=instance_rows(
            specs,
            observed,
            Plan(),
            now=9.0,
            usage={},
            stale={},
            requests=requests if told else {},
        ),
        state=convergence(specs, observed, Plan()),
        names=NAMES,
    )
    return {**made, "applied": 1}


def plain(lines: list[str]) -> list[str]:
    return [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line) for line in lines]


def test_each_instance_says_what_goes_through_it() -> None:
    head, a, b = plain(status_table(document(), width=200))
    assert "REQS  TOK/S  FIRST" in head
    assert "2+1   41     11 ms" in a
    assert "0     -      -" in b


def test_without_a_gateway_there_are_no_such_columns() -> None:
    assert "REQS" not in plain(status_table(document(gateway=False), width=200))[0]
    assert gateway_lines(document(gateway=False)) == []


def test_where_no_gateway_tells_of_any_nothing_is_made_up() -> None:
    _, a, _ = plain(status_table(document(told=False), width=200))
    assert "-     -      -" in a
    assert plain(gateway_lines(document(told=False))) == ["gateway: ready at http://127.0.0.1:8080"]


@pytest.mark.parametrize("width", [30, 60, 70, 80, 100, 120])
def test_columns_make_room_and_lines_fit(width: int) -> None:
    lines = plain(status_table(document(), width=width))
    assert all(wide(line) <= width for line in lines)
    # How many wait says more than how fast they are served.
    assert ("REQS" in lines[0]) >= ("TOK/S" in lines[0]) >= ("FIRST" in lines[0])


def test_one_line_says_it_of_all() -> None:
    assert plain(gateway_lines(document())) == [
        "gateway: ready at http://127.0.0.1:8080, 2 in flight, 1 waiting, 0.4 requests/s, "
        "41 tokens/s, 3 of 12 fell back within 5 min, 1 of 12 failed within 5 min"
    ]


def test_the_names_are_shown_with_who_serves_them_and_cannot_steer_a_terminal() -> None:
    made = document()
    alone = {**made, "instances": [made["gateway"]]}
    lines = plain(names_table(alone, width=200))
    assert re.search(r"fast +a, \(b\), else b +40 +1 +3 +5000", "\n".join(lines))
    assert "\x1b" not in "".join(lines)
    assert names_table(made) == []
    assert plain(status_table(alone, width=200))[1].startswith("gateway ")


def test_with_the_gateway_alone_it_is_not_said_that_nothing_is_applied() -> None:
    alone = {**document(), "instances": []}
    assert plain(summary(alone))[0] == "converged: the gateway is ready"


def test_the_watch_has_its_line_and_tells_of_the_selected_one() -> None:
    shown = Instances(())
    shown.take(document())
    lines = plain(shown.lines(Seen(document()), 160, 40))
    assert lines[1].startswith("gateway: ready at http://127.0.0.1:8080, 2 in flight")
    said = "\n".join(lines)
    assert "requests 40  now 2+1  retries 3  tokens 900 in, 5000 out (41/s)" in said
    assert "first token 11 ms, p95 1.2 s  whole 3.0 s, p95 75 s" in said
    for columns in (20, 48, 80):
        narrow = plain(shown.lines(Seen(document()), columns, 40))
        ours = [line for line in narrow if line.startswith(("gateway", "requests"))]
        assert len(ours) == 2
        assert all(wide(line) <= columns for line in ours)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.0004, "0 ms"), (0.9994, "999 ms"), (0.9996, "1.0 s"), (9.949, "9.9 s"), (75.2, "75 s")],
)
def test_short_times_are_short(seconds: float, said: str) -> None:
    assert traffic_lines.lasting(seconds) == said
