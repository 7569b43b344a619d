"""Moments to make metrics of: of any number of instances, with names as bad as may be."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import convert
from msgspec.structs import replace

from orchestrator.api.families import Moment, Sheet, filled, written
from orchestrator.api.relay import Relayed
from orchestrator.control.tally import Tally
from orchestrator.core.admission import HOST, Budget, Room
from orchestrator.core.convergence import Convergence
from orchestrator.core.event import Event, EventType
from orchestrator.core.figures import Figures
from orchestrator.core.fold import fold
from orchestrator.core.gateway_spec import GATEWAY
from orchestrator.core.plan import Plan
from orchestrator.core.report import ProfileReport, Usage, instance_rows, status_document
from orchestrator.core.spec import InstanceSpec, ModelSet, ModelSpec
from orchestrator.core.status import (
    Alert,
    Health,
    InstanceStatus,
    ModelState,
    ModelStatus,
    Observed,
    Phase,
)
from tests.unit.test_plan import spec, status

HOSTILE = (
    'q"uote',
    "back\\slash",
    "new\nline",
    "new\r\nline",
    "tab\tand\x00nul",
    "\x1b[31mred\x1b[0m",
    '"} 1\norchestrate_converged 7\n#',
    "# HELP x",
    "# EOF",
    "{}",
    "<script>alert(1)</script>",
    "‮right to left",
    "not utf-8: \udcff",
    "emoji 🦙",
    "",
    " ",
    "x" * 5000,
)
"""Names that no profile could have, and some that one could."""


def observed_of(names: Iterable[str]) -> Observed:
    """Instances in every phase in turn, with all that may be known of one."""
    return {name: _observed(name, number) for number, name in enumerate(names)}


def _observed(name: str, number: int) -> InstanceStatus:
    phases = list(Phase)
    model = name or "m"
    holds = ModelSet((ModelSpec(model),)) if number % 4 == 3 else None
    states = list(ModelState)
    rows = (ModelStatus(model, states[number % len(states)], bytes_done=5, bytes_total=9),)
    return replace(
        status(
            spec(name, holds=holds, model=model, profiles=(name,)), phases[number % len(phases)]
        ),
        started_at=100.0 + number,
        ready_at=101.0,
        ready_after_s=0.25,
        reason=("", "crashed", name)[number % 3],
        held=number % 5 == 4,
        health=Health("slow", 6.5) if number % 2 else None,
        alerts=(Alert("memory", "much"), Alert("new-kind", "odd")) if number % 3 == 0 else (),
        models=rows if holds else (),
    )


def tally_of(observed: Observed) -> Tally:
    """As if each had been started, crashed once and come back."""
    tally = Tally()
    for name, one in observed.items():
        before = fold({}, Event(EventType.STARTING, name, data={"start_id": "1"}, spec=one.spec))
        ready = Event(EventType.READY, name, data={"start_id": "1", "ready_after_s": 0.031})
        exited = Event(EventType.EXITED, name, "crashed", data={"start_id": "1"}, at=5.0)
        again = Event(EventType.STARTING, name, "restart", data={"start_id": "2"}, spec=one.spec)
        for event in (ready, exited, again):
            after = fold(before, event)
            tally.fold(event, before.get(name), after.get(name))
            before = after
    tally.passed(0.0004, apart_since=2.0)
    tally.fold(Event(EventType.CONVERGED, at=3.5), None, None)
    return tally


def moment_of(observed: Observed) -> Moment:
    """A moment in which all of these are declared."""
    desired: dict[str, InstanceSpec] = {name: one.spec for name, one in observed.items()}
    gateway = spec(GATEWAY, engine=GATEWAY, model="")
    desired[GATEWAY] = gateway
    rows = instance_rows(
        desired,
        {**observed, GATEWAY: status(gateway, Phase.READY)},
        Plan(),
        now=200.0,
        usage={name: Usage(1 << 20, 12.5, 7.25) for name in observed},
        stale={},
    )
    files = [ProfileReport(name, f"/{name}.yaml", "sha256:0", ok=True) for name in observed]
    document = status_document(
        version="0.1.0",
        daemon={"pid": 1},
        profiles=files,
        rows=rows,
        state=Convergence(converged=False, settled=False),
        warnings=["a disk is full"],
        names=[{"name": name} for name in observed],
    )
    rooms = {HOST: Room(16 << 30, 8 << 30), 0: Room(24 << 30, 20 << 30)}
    return Moment(
        document=document,
        observed=observed,
        tally=tally_of(observed),
        budget=Budget(rooms),
        saved=True,
        boot_time=1.7e9,
        figures=figures_of(observed),
    )


def figures_of(names: Iterable[str]) -> Figures:
    """What a gateway tells that has served each of these, and was asked for them by each."""
    bounds = {"first_token": [0.1, 1.0], "request": [1.0]}
    row = {
        "in_flight": 1,
        "waiting": 2,
        "outcomes": {"2xx": 5, "5xx": 1, "1xx": 1},
        "retries": 3,
        "bytes": 4096,
        "prompt_tokens": 7,
        "generated_tokens": 11,
        "first_token": {"counts": [3, 1, 0], "total": 1.25},
        "request": {"counts": [4, 1], "total": 6.5},
    }
    told = {"requests": 7, "fallbacks": 2, "generated_tokens": 11}
    return convert(
        {
            "bounds": bounds,
            "instances": dict.fromkeys(names, row),
            "names": dict.fromkeys(names, told),
            "clients": dict.fromkeys(names, told),
            "own": {"404": 3, "418": 1},
        },
        Figures,
    )


def text_of(moment: Moment, accept: str = "", relayed: Relayed | None = None) -> str:
    """The exposition of a moment."""
    sheet = Sheet()
    assert all(step is None for step in filled(sheet, moment))
    sheet.put_relayed(relayed or Relayed())
    parts, _ = written(sheet.metrics(), accept)
    return b"".join(parts).decode()
