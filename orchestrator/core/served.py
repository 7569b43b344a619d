"""What the gateway is told: which names clients may ask for, and who serves each. Pure.

The table is JSON, for it crosses from one process to another; `gateway.table` reads it. It holds
the keys of protected instances, so it goes over the control socket alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any

from msgspec.structs import asdict

from orchestrator.core.gateway_spec import CloudSpec, GatewaySpec, RouteSpec
from orchestrator.core.naming import DEFAULT_TAG, SUFFIX
from orchestrator.core.on_demand import IDLE, is_at_rest
from orchestrator.core.plan import Plan
from orchestrator.core.rollback import ROLLED_BACK
from orchestrator.core.spec import Desired, InstanceSpec, ModelFacts
from orchestrator.core.status import (
    ALIVE,
    InstanceStatus,
    ModelState,
    ModelStatus,
    Observed,
    Phase,
    lost_its_port,
)
from orchestrator.core.succession import as_seen
from orchestrator.core.web import read_url

AUTO_SLOTS = 4
"""What llama-server takes at once where nothing says otherwise."""


def table(desired: Desired, observed: Observed, plan: Plan) -> dict[str, Any]:
    """The whole of it: targets by instance, names in the order in which they are to be listed."""
    gateway = next((s.gateway for s in desired.values() if s.gateway is not None), GatewaySpec())
    specs = [spec for spec in desired.values() if spec.gateway is None]
    names = _names(specs)
    routes = {route.name: route for route in gateway.routes}
    rows = [_route_row(route, names) for route in gateway.routes]
    rows += [{"name": name, "aims": aims} for name, aims in names.items() if name not in routes]
    return {
        "waiting": gateway.waiting,
        "patience": gateway.patience,
        "log": gateway.log,
        "content": gateway.content,
        "hosts": list(gateway.hosts),
        "origins": list(gateway.origins),
        "targets": [
            *(_target(spec, as_seen(spec.name, observed), plan) for spec in specs),
            *(_elsewhere(cloud) for cloud in gateway.clouds),
        ],
        "names": rows,
        "clouds": [
            {"name": cloud.name, "aims": [{"target": _cloud(cloud), "model": cloud.model}]}
            for cloud in gateway.clouds
        ],
        "tokens": [
            {"name": token.name, "token": token.token, "priority": token.priority}
            for token in gateway.tokens
        ],
    }


def _names(specs: Iterable[InstanceSpec]) -> dict[str, list[dict[str, Any]]]:
    """Who serves each name. What somebody called an instance is that one, and not also another
    which happens to run a model of that name."""
    names: dict[str, list[dict[str, Any]]] = {}
    for spec in specs:
        for name, aim in _served(spec):
            aims = names.setdefault(name, [])
            if aim not in aims:
                aims.append(aim)
    given = set(names)
    for spec in specs:
        for name, aim in _of_models(spec):
            if name not in given:
                names.setdefault(name, []).append(aim)
    return names


def names_of(spec: InstanceSpec) -> list[str]:
    """What clients may call it, the instance's own name first."""
    return list(dict.fromkeys(name for name, _ in (*_served(spec), *_of_models(spec))))


def names_shown(table: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What there is of a table to be shown to everybody: each name, the instances that serve it,
    which of them do so now, and what it falls back to."""
    phases = {target["name"]: target["phase"] for target in table["targets"]}
    rows: list[dict[str, Any]] = []
    for row in table["names"]:
        names = list(dict.fromkeys(aim["target"] for aim in row["aims"]))
        ready = [name for name in names if phases.get(name) == "ready"]
        fallback = list(row.get("fallback", ()))
        shown = {"instances": names, "ready": ready, "fallback": fallback}
        rows.append({"name": row["name"], **shown})
    return rows


def _route_row(route: RouteSpec, names: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    aims: list[dict[str, Any]] = []
    for to in route.to:
        if to.weight == 0:
            continue
        share = {} if to.weight is None else {"weight": to.weight, "side": to.name}
        aims += [{**aim, **share} for aim in names.get(to.name, ())]
    return {
        "name": route.name,
        "aims": aims,
        "fallback": list(route.fallback),
        "slow": route.slow,
        "on": list(route.on),
    }


def _served(spec: InstanceSpec) -> Iterator[tuple[str, dict[str, Any]]]:
    """What an instance is called itself: its name and its aliases. One that holds several models
    serves nothing by its own name."""
    if spec.holds is not None:
        return
    aim = {"target": spec.name}
    yield spec.name, aim
    if spec.replica_of:
        yield spec.replica_of, aim
    for alias in _after(spec.command.argv, "--alias", "-a").split(","):
        if alias.strip():
            yield alias.strip(), aim


def _of_models(spec: InstanceSpec) -> Iterator[tuple[str, dict[str, Any]]]:
    """What its model is called, or each of those that it holds."""
    if spec.holds is not None:
        for model in spec.holds.models:
            yield _shown(model.name), {"target": spec.name, "model": model.name}
        return
    name = spec.model.rpartition("/")[2].removesuffix(SUFFIX)
    if name:
        yield name, {"target": spec.name}


def _shown(tag: str) -> str:
    """As people write it: `:latest` goes without saying."""
    return tag.removesuffix(f":{DEFAULT_TAG}")


def _target(spec: InstanceSpec, status: InstanceStatus | None, plan: Plan) -> dict[str, Any]:
    alive = status is not None and status.phase in ALIVE
    runs = status.spec if status is not None and alive else spec
    waiting = plan.pending.get(spec.name)
    phase, reason, message = "pending", "", ""
    if is_at_rest(spec, status):
        phase, reason = Phase.STOPPED.value, IDLE
    elif status is not None and (alive or waiting is None):
        phase, reason, message = status.phase.value, status.reason, status.message
    elif waiting is not None:
        reason, message = waiting.reason, waiting.message
    present = () if status is None else status.models
    return {
        "name": spec.name,
        "engine": spec.engine,
        "run": status.start_id if status is not None else "",
        "host": runs.endpoint.connect_host,
        "port": runs.endpoint.port,
        "scheme": runs.endpoint.scheme,
        "prefix": runs.endpoint.prefix,
        "phase": phase,
        "reason": reason,
        "message": message,
        "on_demand": spec.on_demand is not None,
        "rests": is_at_rest(spec, status),
        "failing": status is not None and _is_failing(status),
        "starts_within": runs.readiness.deadline,
        "slots": _slots(runs),
        "replica_of": spec.replica_of,
        "key": runs.command.env.get("LLAMA_API_KEY", "").partition(",")[0],
        "models": [one.name for one in present if one.state is ModelState.PRESENT],
        "facts": dict(_facts(spec, present)),
    }


def _cloud(cloud: CloudSpec) -> str:
    """What the answers of it say served them; no instance can be called so."""
    return f"cloud:{cloud.name}"


def _elsewhere(cloud: CloudSpec) -> dict[str, Any]:
    """A cloud as a target: it is taken to serve until it is seen that it does not."""
    url = read_url(cloud.url)
    return {
        "name": _cloud(cloud),
        "engine": "cloud",
        "host": url.host,
        "port": url.port,
        "scheme": url.scheme,
        "prefix": url.prefix,
        "phase": "ready",
        "key": cloud.key,
    }


def _facts(
    spec: InstanceSpec, present: Iterable[ModelStatus]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """What is known of each model, by what the server calls it; empty for its only one."""
    if spec.holds is None:
        loaded = _after(spec.command.argv, "--ctx-size", "-c")
        context = {"loaded_context": int(loaded)} if loaded.isdigit() else {}
        yield "", {**_said(spec.facts), **context}
    for one in present:
        yield one.name, {**_said(one.facts), "loaded": one.loaded}


def _said(facts: ModelFacts | None) -> dict[str, Any]:
    """What there is to say, and nothing of what nobody knows."""
    return {} if facts is None else {key: value for key, value in asdict(facts).items() if value}


def _is_failing(status: InstanceStatus) -> bool:
    """Its last start came to nothing, though it is tried again: and not otherwise, at once."""
    if status.phase is not Phase.BACKOFF or status.ready_after_s is not None:
        return False
    return status.reason != ROLLED_BACK and not lost_its_port(status)


def _slots(spec: InstanceSpec) -> int | None:
    if spec.holds is not None:
        said = spec.command.env.get("OLLAMA_NUM_PARALLEL", "")
        return int(said) if said.isdigit() and int(said) > 0 else None
    argv, env = spec.command.argv, spec.command.env
    said = _after(argv, "--parallel", "-np") or env.get("LLAMA_ARG_N_PARALLEL", "")
    return int(said) if said.isdigit() and int(said) > 0 else AUTO_SLOTS


def _after(argv: tuple[str, ...], *flags: str) -> str:
    """The value of a flag, by any of its names; the last one counts, as it does for the engine."""
    values = [value for flag, value in pairwise(argv) if flag in flags]
    return values[-1] if values else ""
