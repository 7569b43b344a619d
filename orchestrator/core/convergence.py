"""How far what runs is from what is declared, for everybody who waits for it. Pure."""

from __future__ import annotations

from msgspec import Struct

from orchestrator.core.drift import restart_drift
from orchestrator.core.gate import awaiting, promised
from orchestrator.core.on_demand import is_at_rest
from orchestrator.core.plan import Plan, Verb
from orchestrator.core.provision import lacking
from orchestrator.core.rollback import ROLLED_BACK, is_rejected
from orchestrator.core.spec import Awaited, Desired, InstanceSpec
from orchestrator.core.status import (
    ALIVE,
    InstanceStatus,
    ModelState,
    Observed,
    Phase,
    lost_its_port,
)
from orchestrator.core.succession import (
    is_moving,
    said_of,
    staged,
)
from orchestrator.core.successor import base_of, is_aside


class Convergence(Struct, frozen=True):
    """How far what runs is from what is declared."""

    converged: bool
    settled: bool
    missing: tuple[str, ...] = ()
    """`name: phase (message)` for each instance that is not ready as declared."""
    at_rest: tuple[str, ...] = ()
    """Those that are down as declared: nobody asks for them."""


def convergence(desired: Desired, observed: Observed, plan: Plan) -> Convergence:
    """`converged`: all ready as declared, nothing else left. `settled`: nothing is on its way."""
    missing: list[str] = []
    moving = any(action.verb is not Verb.UPDATE for action in plan.actions)
    desired = {n: spec for n, spec in staged(desired, observed).desired.items() if not is_aside(n)}
    at_rest = tuple(
        name
        for name, spec in desired.items()
        if is_at_rest(spec, observed.get(name)) and not said_of(name, observed)
    )
    for name in desired:
        status = observed.get(name)
        if name in at_rest:
            continue
        if name in plan.pending:
            why = plan.pending[name].message
            runs = status.phase.value if status is not None and status.phase in ALIVE else ""
            where = f"{runs}, its change waits" if runs else "pending"
            missing.append(f"{name}: {where} ({why})")
            moving = moving or _is_coming(desired[name].awaits, observed)
            moving = moving or _moves(name, observed)
        elif status is None:
            missing.append(f"{name}: pending")
            moving = True
        elif status.phase is not Phase.READY or _acts_on(plan, name):
            detail = f" ({status.message})" if status.message else ""
            missing.append(f"{name}: {status.phase}{detail}")
            moving = moving or _moves(name, observed) or lost_its_port(status)
        elif beside := said_of(name, observed):
            missing.append(f"{name}: {status.phase}, {beside}")
            moving = moving or is_moving(name, observed)
        elif status.rejected is not None and is_rejected(desired[name], status):
            missing.append(f"{name}: {ROLLED_BACK} ({status.rejected.message})")
        elif (awaited := desired[name].awaits) and _runs_another(desired[name], status):
            missing.append(f"{name}: as before ({awaiting(awaited, observed)})")
            moving = moving or _is_coming(awaited, observed)
        elif status.doubted:
            missing.append(f"{name}: its models are looked at")
            moving = True
        else:
            lacks = lacking(status.spec.holds, status.models)
            missing += [f"{name}: {lack}" for lack in lacks]
            moving = moving or any(lack.moving for lack in lacks)
    leaving = [name for name in observed if base_of(name) not in desired]
    missing += [f"{name}: still {observed[name].phase}" for name in leaving]
    moving = moving or bool(leaving)
    return Convergence(not missing, not moving, tuple(missing), at_rest)


def _moves(name: str, observed: Observed) -> bool:
    """It is about to come or to go, or something beside it is."""
    status = observed.get(name)
    by_itself = status is not None and status.phase in (Phase.STARTING, Phase.STOPPING)
    return by_itself or is_moving(name, observed)


def _runs_another(spec: InstanceSpec, status: InstanceStatus) -> bool:
    """More than where its model lies is other than declared: that waits for the model, too."""
    drift = restart_drift(status.spec, spec)
    return status.spec.model != spec.model or any(d.field != "model" for d in drift)


def _is_coming(awaited: Awaited | None, observed: Observed) -> bool:
    """What was awaited is there, and is about to be found."""
    row = promised(awaited, observed) if awaited is not None and not awaited.kept else None
    return row is not None and row.state is ModelState.PRESENT


def _acts_on(plan: Plan, name: str) -> bool:
    return any(a.instance == name and a.verb is not Verb.UPDATE for a in plan.actions)
