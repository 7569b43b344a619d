"""The status document: every promised field, whatever an instance is going through."""

from __future__ import annotations

import json

import pytest
from msgspec.structs import replace

from orchestrator.core.convergence import Convergence
from orchestrator.core.plan import Plan, Waiting
from orchestrator.core.report import ProfileReport, Usage, instance_rows, status_document
from orchestrator.core.spec import Command, Desired, Endpoint
from orchestrator.core.status import ALIVE, Observed, Phase
from tests.unit.test_plan import A, B, spec, status

PROMISED = {
    *("name", "engine", "profiles", "model", "phase", "reason", "message", "managed", "pid"),
    *("host", "port", "url", "since", "uptime_s", "ready_after_s", "restarts", "memory_bytes"),
    *("cpu_percent", "health", "stale", "command", "models"),
}


def rows(
    desired: Desired,
    observed: Observed,
    plan: Plan | None = None,
    *,
    usage: dict[str, Usage] | None = None,
    stale: dict[str, bool] | None = None,
) -> dict[str, dict[str, object]]:
    made = instance_rows(
        desired, observed, plan or Plan(), now=100.0, usage=usage or {}, stale=stale or {}
    )
    return {str(row["name"]): row for row in made}


@pytest.mark.parametrize("phase", list(Phase))
def test_every_phase_has_every_field_and_is_json(phase: Phase) -> None:
    row = rows({"a": A}, {"a": status(A, phase)})["a"]
    assert row.keys() >= PROMISED
    assert row["phase"] == phase.value
    assert (row["pid"] is not None) == (phase in ALIVE)
    assert json.loads(json.dumps(row)) == row


def test_what_is_not_observed_is_pending_and_says_what_it_waits_for() -> None:
    plan = Plan(waiting={"a": Waiting("blocked", "needs b, which is starting")})
    row = rows({"a": A, "b": B}, {}, plan)["a"]
    assert row.keys() >= PROMISED
    assert (row["phase"], row["reason"]) == ("pending", "blocked")
    assert row["message"] == "needs b, which is starting"
    assert (row["pid"], row["since"], row["uptime_s"]) == (None, None, None)
    assert rows({"b": B}, {}, plan)["b"]["message"] == ""


def test_a_restart_that_has_to_wait_is_pending_and_keeps_its_count() -> None:
    plan = Plan(waiting={"a": Waiting("blocked", "needs b")})
    dead = {"a": status(A, Phase.BACKOFF, restarts=3)}
    assert (rows({"a": A}, dead, plan)["a"]["phase"]) == "pending"
    assert (rows({"a": A}, dead, plan)["a"]["restarts"]) == 3
    alive = {"a": status(A, Phase.STOPPING)}
    assert (rows({"a": A}, alive, plan)["a"]["phase"]) == "stopping"


def test_what_runs_is_shown_as_it_runs_and_whose_it_is_as_declared() -> None:
    wanted = spec(ctx=9, port=9001, description="new", profiles=("p",))
    row = rows({"a": wanted}, {"a": status(A)})["a"]
    assert (row["port"], row["command"]) == (8001, list(A.command.argv))
    assert (row["description"], row["profiles"]) == ("new", ["p"])
    row = rows({"a": wanted}, {"a": status(A, Phase.FAILED)})["a"]
    assert (row["port"], row["command"]) == (9001, list(wanted.command.argv))


def test_declared_ones_come_first_in_their_order_then_those_that_leave() -> None:
    observed = {"old": status(spec("old"), Phase.STOPPING), "a": status(A)}
    assert list(rows({"b": B, "a": A}, observed)) == ["b", "a", "old"]


def test_numbers_of_what_runs_and_of_what_does_not() -> None:
    running = status(A, started_at=40.0, ready_after_s=0.5)
    took = {"a": Usage(1000, 12.345)}
    row = rows({"a": A}, {"a": running}, usage=took, stale={"a": True})["a"]
    assert (row["uptime_s"], row["memory_bytes"], row["cpu_percent"]) == (60.0, 1000, 12.3)
    assert row["stale"] is True
    dead = status(A, Phase.BACKOFF, retry_at=101.23, exit_code=7)
    row = rows({"a": A}, {"a": dead}, usage=took)["a"]
    assert (row["uptime_s"], row["memory_bytes"], row["cpu_percent"]) == (None, 0, 0.0)
    assert (row["retry_in_s"], row["exit_code"]) == (1.2, 7)
    late = replace(dead, retry_at=1.0)
    assert rows({"a": A}, {"a": late})["a"]["retry_in_s"] == 0.0


def test_no_secret_is_shown() -> None:
    secret = replace(A, command=Command(("x", "--api-key", "hidden"), {"HF_TOKEN": "hidden"}, "/"))
    for observed in ({}, {"a": status(secret)}, {"a": status(secret, Phase.FAILED)}):
        assert "hidden" not in json.dumps(rows({"a": secret}, observed))


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "https://127.0.0.1:1/llm"),
        ("0.0.0.0", "https://127.0.0.1:1/llm"),
        ("::", "https://[::1]:1/llm"),
        ("::1", "https://[::1]:1/llm"),
    ],
)
def test_the_url_is_one_to_open(host: str, url: str) -> None:
    at = replace(A, endpoint=Endpoint(host, 1, "https", "/llm"))
    row = rows({"a": at}, {"a": status(at)})["a"]
    assert (row["host"], row["url"]) == (host, url)


def test_an_invalid_profile_is_not_converged() -> None:
    good = ProfileReport("p", "/p.yaml", "sha256:1", ok=True)
    bad = replace(good, ok=False, errors=({"message": "m"},))
    ready = Convergence(converged=True, settled=True)

    def document(*profiles: ProfileReport) -> dict[str, object]:
        return status_document(version="1", daemon=None, profiles=profiles, rows=[], state=ready)

    assert document(good)["converged"] is True
    assert document(good, bad)["converged"] is False
    assert document(bad)["profiles"] == [
        {
            "name": "p",
            "file": "/p.yaml",
            "revision": "sha256:1",
            "ok": False,
            "errors": [{"message": "m"}],
        }
    ]
    assert document()["daemon"] is None
