"""The status document: what `status --json`, the API and every screen show. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from orchestrator.core.convergence import Convergence
from orchestrator.core.event import timestamp
from orchestrator.core.gate import Waiting
from orchestrator.core.gateway_spec import GATEWAY
from orchestrator.core.on_demand import IDLE, is_at_rest
from orchestrator.core.plan import Plan
from orchestrator.core.provision import lacking
from orchestrator.core.rollback import ROLLED_BACK, is_rejected
from orchestrator.core.secret import masked_argv
from orchestrator.core.spec import Desired, InstanceSpec
from orchestrator.core.status import (
    ALIVE,
    InstanceStatus,
    ModelState,
    ModelStatus,
    Observed,
    Phase,
)
from orchestrator.core.succession import as_seen, said_of
from orchestrator.core.successor import base_of, is_aside
from orchestrator.core.wording import how_many


class Usage(NamedTuple):
    """What a process group takes: resident bytes, percent of one core, and the seconds of CPU that
    it has taken in all, which never fall."""

    memory_bytes: int = 0
    cpu_percent: float = 0.0
    cpu_seconds: float = 0.0


_NOTHING = Usage()


class ProfileReport(Struct, frozen=True):
    """One applied file: `errors` say why its last good state is in force instead."""

    name: str
    file: str
    revision: str
    ok: bool
    errors: tuple[Mapping[str, Any], ...] = ()

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "file": self.file,
            "revision": self.revision,
            "ok": self.ok,
            "errors": [dict(error) for error in self.errors],
        }


def instance_rows(
    desired: Desired,
    observed: Observed,
    plan: Plan,
    *,
    now: float,
    usage: Mapping[str, Usage],
    stale: Mapping[str, bool],
    requests: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[dict[str, Any]]:
    """One row per instance, declared ones first in their order, then those on their way out.

    `requests` is what goes through the gateway to each.
    """
    rows = _rows(desired, observed, plan, now, usage, stale)
    through = requests or {}
    for row in rows:
        row["requests"] = through.get(row["name"])
    return rows


def _rows(
    desired: Desired,
    observed: Observed,
    plan: Plan,
    now: float,
    usage: Mapping[str, Usage],
    stale: Mapping[str, bool],
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    # Few have anything beside them, and all of this is made anew with every event.
    in_company = {base_of(name) for name in observed if is_aside(name)}
    for name, spec in desired.items():
        status = as_seen(name, observed)
        if is_at_rest(spec, status):
            rows.append(_rest_row(spec, status, now, stale.get(name, False)))
        elif status is None:
            rows.append(_pending_row(spec, plan, None))
        elif status.phase not in ALIVE and name in plan.pending:
            rows.append(_pending_row(spec, plan, status))
        else:
            row = _row(spec, status, now, usage.get(name), stale.get(name, False))
            if name in in_company:
                row["message"] = row["message"] or said_of(name, observed)
            row.update(_held_back(plan.pending.get(name)))
            rows.append(row)
    shown = set(desired)
    for name, status in observed.items():
        if name in shown:
            continue
        # What runs beside an instance is that instance, as long as there is one.
        if base_of(name) not in shown and (not is_aside(name) or base_of(name) not in observed):
            shown.add(base_of(name))
            row = _row(status.spec, status, now, usage.get(name), stale.get(name, False))
            row["name"] = base_of(name)
            rows.append(row)
    return rows


def _pending_row(spec: InstanceSpec, plan: Plan, status: InstanceStatus | None) -> dict[str, Any]:
    waiting = plan.pending.get(spec.name)
    return {
        **_declared(spec),
        "phase": "pending",
        "reason": waiting.reason if waiting else "",
        "message": waiting.message if waiting else "",
        "managed": True,
        "pid": None,
        "since": timestamp(status.since) if status else None,
        "uptime_s": None,
        "ready_after_s": None,
        "restarts": status.restarts if status else 0,
        "memory_bytes": 0,
        "cpu_percent": 0.0,
        "cpu_seconds": 0.0,
        "health": None,
        "alerts": [one.as_json() for one in status.alerts] if status else [],
        "stale": False,
        "command": _shown_command(spec.command.argv),
        "models": _model_rows(spec, status.models if status else (), alive=False),
        "lacking": [],
        "owner": "",
        "held": False,
        "exit_code": status.exit_code if status else None,
        "retry_in_s": None,
    }


def _rest_row(
    spec: InstanceSpec, status: InstanceStatus | None, now: float, stale: bool
) -> dict[str, Any]:
    """Of one that runs on demand, and that nobody demands."""
    row = _row(spec, status or InstanceStatus(spec.name, Phase.STOPPED, spec), now, None, stale)
    since = row["since"] if status is not None else None
    message = row["message"] if row["reason"] == IDLE else ""
    return {**row, "since": since, "reason": IDLE, "message": message or "until a request comes"}


def _held_back(waiting: Waiting | None) -> dict[str, Any]:
    """Of one that runs on, since its successor could not be started yet."""
    if waiting is None:
        return {}
    return {"reason": waiting.reason, "message": f"its change waits: {waiting.message}"}


def _declared(spec: InstanceSpec) -> dict[str, Any]:
    return {
        "name": spec.name,
        "replica_of": spec.replica_of,
        "engine": spec.engine,
        "profiles": list(spec.profiles),
        "model": spec.model,
        "description": spec.description,
        "host": spec.endpoint.host,
        "port": spec.endpoint.port,
        "url": spec.endpoint.url,
    }


def _row(
    spec: InstanceSpec, status: InstanceStatus, now: float, usage: Usage | None, stale: bool
) -> dict[str, Any]:
    """What runs is described by the spec that runs; whose it is, by the one that is declared."""
    runs = status.spec if status.phase in ALIVE else spec
    took = usage or _NOTHING
    alive = status.process is not None or not status.managed
    rejected = status.rejected if is_rejected(spec, status) and not status.held else None
    return {
        **_declared(runs),
        "profiles": list(spec.profiles),
        "description": spec.description,
        "phase": status.phase.value,
        "reason": status.reason or (ROLLED_BACK if rejected else ""),
        "message": status.message or (rejected.message if rejected else ""),
        "managed": status.managed,
        "pid": _pid(status),
        "since": timestamp(status.since),
        "uptime_s": round(max(now - status.started_at, 0.0), 3)
        if alive and status.started_at is not None
        else None,
        "ready_after_s": status.ready_after_s,
        "restarts": status.restarts,
        "memory_bytes": took.memory_bytes if alive else 0,
        "cpu_percent": round(took.cpu_percent, 1) if alive else 0.0,
        "cpu_seconds": round(took.cpu_seconds, 2) if alive else 0.0,
        "health": status.health.as_json() if alive and status.health else None,
        "alerts": [one.as_json() for one in status.alerts],
        "stale": stale,
        "command": _shown_command(runs.command.argv) if status.managed else [],
        "models": _model_rows(spec, status.models, alive=status.phase in ALIVE),
        "lacking": [str(one) for one in lacking(spec.holds, status.models)],
        "owner": status.attached.owner if status.attached else "",
        "held": status.held,
        "exit_code": status.exit_code,
        "retry_in_s": round(max(status.retry_at - now, 0.0), 1)
        if status.retry_at is not None
        else None,
    }


def _shown_command(argv: tuple[str, ...]) -> list[str]:
    return list(_masked(argv))


@lru_cache(maxsize=1024)
def _masked(argv: tuple[str, ...]) -> tuple[str, ...]:
    """Remembered: a status is made several times a second, and a command hardly ever changes."""
    return tuple(masked_argv(argv))


def _pid(status: InstanceStatus) -> int | None:
    if status.attached is not None:
        return status.attached.pid
    return status.process.pid if status.process else None


def _model_rows(
    spec: InstanceSpec, models: Sequence[ModelStatus], *, alive: bool
) -> list[dict[str, Any]]:
    """Declared ones in their order, then those that are on their way out.

    Without a server nothing is in memory, and nothing is under way.
    """
    if spec.holds is None:
        return []
    seen = {model.name: model if alive else _at_rest(model) for model in models}
    rows = [seen.pop(one.name, ModelStatus(one.name)) for one in spec.holds.models]
    return [
        {
            "name": model.name,
            "state": model.state.value,
            "loaded": model.loaded,
            "bytes_done": model.bytes_done,
            "bytes_total": model.bytes_total,
            "reason": model.reason,
            "message": model.message,
        }
        for model in [*rows, *seen.values()]
    ]


def _at_rest(model: ModelStatus) -> ModelStatus:
    state = ModelState.MISSING if model.under_way else model.state
    return replace(model, state=state, loaded=False)


def instances_of(desired: Desired) -> list[str]:
    """The names of what is declared, but for the gateway, which is no instance."""
    return [name for name, spec in desired.items() if spec.engine != GATEWAY]


def summary_line(desired: Desired, state: Convergence, invalid: Sequence[str] = ()) -> str:
    """How many are ready, and what is missing: `1 of 2 ready: b: starting`."""
    missing = [*state.missing, *(f"{file} is invalid" for file in invalid)]
    names = instances_of(desired)
    lacking = {line.partition(": ")[0] for line in state.missing} & {*names}
    idle = sum(name in state.at_rest for name in names)
    ready = len(names) - len(lacking) - idle
    said = how_many(ready, idle, len(names)) if names else "nothing is declared"
    return f"{said}: {'; '.join(missing)}" if missing else said


def status_document(
    *,
    version: str,
    daemon: Mapping[str, Any] | None,
    profiles: Sequence[ProfileReport],
    rows: Sequence[Mapping[str, Any]],
    state: Convergence,
    warnings: Sequence[str] = (),
    names: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """The document of `status --json`; a profile that does not parse is not converged either.

    The gateway is kept like an instance, and is none: its row stands apart, with the `names` that
    clients may ask for.
    """
    gateways = ({**row, "names": list(names)} for row in rows if row["engine"] == GATEWAY)
    gateway = next(gateways, None)
    return {
        "version": version,
        "daemon": dict(daemon) if daemon is not None else None,
        "profiles": [profile.as_json() for profile in profiles],
        "converged": state.converged and all(profile.ok for profile in profiles),
        "settled": state.settled,
        "missing": [*state.missing, *(f"{p.file} is invalid" for p in profiles if not p.ok)],
        "warnings": list(warnings),
        "gateway": gateway,
        "instances": [dict(row) for row in rows if row["engine"] != GATEWAY],
    }
