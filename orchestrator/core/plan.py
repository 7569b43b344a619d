"""What to do next: desired against observed, at an instant. Pure, level-based, idempotent.

The plan never remembers: it compares whole levels, so an event that was lost, doubled or late
costs a pass, not correctness. One action at most is in flight for one instance, because
submitting one moves the phase (`starting`, `stopping`) before the next plan is made.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from orchestrator.core.admission import LOOK_AGAIN, Budget
from orchestrator.core.backoff import LONGEST_WAIT
from orchestrator.core.drift import (
    MODELS,
    Drift,
    holding,
    input_drift,
    live_drift,
    process_drift,
    restart_drift,
)
from orchestrator.core.gate import Gate, Waiting, awaiting, overlaps, promised
from orchestrator.core.provision import lacking
from orchestrator.core.rollback import ROLLED_BACK, aim, is_rejected
from orchestrator.core.shared_store import returning
from orchestrator.core.spec import Awaited, Desired, InstanceSpec
from orchestrator.core.status import (
    ALIVE,
    SERVING,
    InstanceStatus,
    ModelState,
    Observed,
    Phase,
    lost_its_port,
)


class Verb(StrEnum):
    """What can be done to an instance. `update` takes up live fields in place, `provision` also
    brings its models to what is declared: the process stays."""

    START = "start"
    STOP = "stop"
    KILL = "kill"
    REPLACE = "replace"
    UPDATE = "update"
    PROVISION = "provision"


@dataclass(frozen=True, slots=True)
class Action:
    """One step for one instance, and why. `spec` is what it is to become (None for a stop)."""

    verb: Verb
    instance: str
    spec: InstanceSpec | None = None
    drift: tuple[Drift, ...] = ()
    reason: str = ""
    message: str = ""

    def as_json(self) -> dict[str, Any]:
        """The shape of `plan --json`."""
        return {
            "action": self.verb.value,
            "instance": self.instance,
            "reasons": [
                {"field": d.field, "have": d.have, "want": d.want, "class": d.kind.value}
                for d in self.drift
            ],
            "message": self.message,
        }


@dataclass(frozen=True, slots=True)
class Plan:
    """`wake_at` (boot clock) is when to look again though nothing happened; None means never."""

    actions: tuple[Action, ...] = ()
    waiting: Mapping[str, Waiting] | None = None
    forget: tuple[str, ...] = ()
    wake_at: float | None = None

    @property
    def pending(self) -> Mapping[str, Waiting]:
        return self.waiting or {}


def make_plan(
    desired: Desired, observed: Observed, now: float, budget: Budget | None = None
) -> Plan:
    """Every action that can be submitted now, the reasons for what cannot, and when to wake.

    `budget` is the memory that there is; None starts everything, whether it fits or not.
    """
    waiting: dict[str, Waiting] = {}
    beside = [*desired.values(), *returning(desired, observed)]
    gate = Gate(desired, observed, budget)
    wakes: list[float] = []
    leaving = [status for name, status in observed.items() if name not in desired]
    forget = [s.name for s in leaving if s.phase not in ALIVE]
    actions = [_stop(s) for s in leaving if s.phase in SERVING]
    actions += [_kill(s.name) for s in leaving if s.phase is Phase.STOPPING and s.hurry]
    for name, spec in desired.items():
        status = observed.get(name)
        action = _start_new(spec) if status is None else _adjust(spec, status, now, desired, beside)
        waits = _waits(action, status, desired, gate)
        if waits is not None:
            waiting[name] = waits
            continue
        if action is not None:
            actions.append(action)
        elif status is not None and status.retry_at is not None and _is_retried(status):
            wakes.append(status.retry_at)
    if gate.waits_for_memory:
        wakes.append(now + LOOK_AGAIN)
    return Plan(tuple(actions), waiting, tuple(forget), min(wakes, default=None))


def _waits(
    action: Action | None, status: InstanceStatus | None, desired: Desired, gate: Gate
) -> Waiting | None:
    """What has to be waited for before an action that starts something."""
    if action is None or action.spec is None:
        return None
    if action.verb is Verb.START:
        return gate.before_start(action.spec)
    replaced = action.verb is Verb.REPLACE and action.reason == "replaced"
    if replaced and status is not None and not _is_in_the_way(status, desired):
        # What could not be started in its place is no reason to stop what runs.
        return gate.before_replacement(action.spec)
    return None


def _stop(status: InstanceStatus) -> Action:
    return Action(
        Verb.STOP, status.name, reason="removed", message="no longer in the applied profiles"
    )


def _kill(name: str) -> Action:
    return Action(Verb.KILL, name, reason="killed", message="without further grace")


def _start_new(spec: InstanceSpec) -> Action:
    return Action(Verb.START, spec.name, spec, holding(spec), message="new")


def _adjust(
    want: InstanceSpec,
    status: InstanceStatus,
    now: float,
    desired: Desired,
    beside: Iterable[InstanceSpec],
) -> Action | None:
    """The one action that brings an observed instance nearer to its spec, if there is one."""
    spec, accepted = aim(want, status), not is_rejected(want, status)
    if status.phase is Phase.STOPPING:
        return _kill(spec.name) if status.hurry else None
    if spec.awaits is not None and _goes_on(status, desired):
        # What it runs with is gone from where it was found; what it has read, it has.
        return None
    if status.held:
        if status.phase in SERVING:
            return Action(Verb.STOP, spec.name, reason="held", message="held by hand")
        return None
    drift = process_drift(status.spec, spec, managed=status.managed)
    live = live_drift(status.spec, spec, managed=status.managed, beside=beside)
    if status.phase not in SERVING:
        return _adjust_dead(spec, status, drift, live, now, accepted=accepted)
    if status.condemned:
        return Action(Verb.STOP, spec.name, reason=status.condemned, message=status.message)
    return _adjust_serving(spec, status, drift, live, accepted=accepted)


def _goes_on(status: InstanceStatus, desired: Desired) -> bool:
    """It serves, and nobody wants it to end."""
    asked_to_end = status.held or bool(status.condemned)
    return status.phase in SERVING and not asked_to_end and not _is_in_the_way(status, desired)


def _is_in_the_way(status: InstanceStatus, desired: Desired) -> bool:
    """It listens where another is to: perhaps the very one that is to bring its model."""
    mine = status.spec.endpoint
    return any(s.name != status.name and overlaps(s.endpoint, mine) for s in desired.values())


def _adjust_serving(
    spec: InstanceSpec,
    status: InstanceStatus,
    drift: tuple[Drift, ...],
    live: tuple[Drift, ...],
    *,
    accepted: bool,
) -> Action | None:
    if drift:
        # What is live comes along: the whole difference is shown, and taken up.
        message = "; ".join(str(d) for d in (*drift, *live))
        return Action(Verb.REPLACE, spec.name, spec, (*drift, *live), "replaced", message)
    if status.redo:
        stale = input_drift(status.spec, spec)
        message = "; ".join(str(d) for d in (*stale, *live)) or "restart asked for"
        return Action(Verb.REPLACE, spec.name, spec, (*stale, *live), "restart", message)
    if not status.managed:
        # What would need another process of ours is only noted: the server is not ours.
        live = (*restart_drift(status.spec, spec), *live)
    message = "; ".join(str(d) for d in live)
    if status.redo_models or any(d.field.startswith(f"{MODELS}.") for d in live):
        return Action(Verb.PROVISION, spec.name, spec, live, message=message or "models, again")
    if status.rejected is not None and accepted:
        # What was rejected is not declared any more: should it be again, that is a new try.
        return Action(Verb.UPDATE, spec.name, spec, live, "as-declared", message or "as declared")
    return Action(Verb.UPDATE, spec.name, spec, live, message=message) if live else None


def _adjust_dead(
    spec: InstanceSpec,
    status: InstanceStatus,
    drift: tuple[Drift, ...],
    live: tuple[Drift, ...],
    now: float,
    *,
    accepted: bool,
) -> Action | None:
    if drift or status.phase is not Phase.STOPPED:
        drift = drift + live
    if status.phase is not Phase.STOPPED:
        # It failed as it was: any change of what it is, is a reason to try again at once.
        drift = drift + input_drift(status.spec, spec)
    if status.reason == ROLLED_BACK and not accepted:
        back = "; ".join(str(d) for d in drift)
        return Action(Verb.START, spec.name, spec, drift, ROLLED_BACK, f"back to: {back}")
    if drift:
        message = "; ".join(str(d) for d in drift)
        return Action(Verb.START, spec.name, spec, drift, "changed", message)
    if status.redo:
        return Action(Verb.START, spec.name, spec, live, "asked", "asked for")
    if status.phase is Phase.BACKOFF:
        due = _is_due(status, now)
        again = f"again after: {status.message}" if status.message else "again"
        return Action(Verb.START, spec.name, spec, (), "restart", again) if due else None
    if status.phase is Phase.STOPPED and status.reason != "exited":
        return Action(Verb.START, spec.name, spec, live, message="as declared")
    return None


def _is_retried(status: InstanceStatus) -> bool:
    return status.phase is Phase.BACKOFF and not status.held


def _is_due(status: InstanceStatus, now: float) -> bool:
    """What is further away than any delay is an instant of before the machine was started anew."""
    longest = max(status.spec.restart.max, LONGEST_WAIT)
    return status.retry_at is None or not now < status.retry_at <= now + longest


def renewals(
    desired: Desired, observed: Observed, *, only: frozenset[str] | None = None
) -> dict[str, bool]:
    """What the verb `apply` takes up that an edit does not: name -> needs a new process or try.

    Held instances are released, failed and waiting ones tried again, stale ones replaced, and so
    are those that were rolled back. False means that it is enough to release. `only` are those
    that the verb was about, None for all.
    """
    found: dict[str, bool] = {}
    for name, spec in desired.items():
        status = observed.get(name)
        if status is None or (only is not None and name not in only):
            continue
        dead = status.phase in (Phase.FAILED, Phase.BACKOFF, Phase.STOPPED)
        serving = status.phase in SERVING and status.managed
        stale = serving and bool(input_drift(status.spec, spec))
        if dead or stale or is_rejected(spec, status):
            found[name] = True
        elif status.held or any(model.given_up for model in status.models):
            found[name] = False
    return found


def preview(
    desired: Desired, observed: Observed, now: float, *, only: frozenset[str] | None = None
) -> tuple[Action, ...]:
    """What `apply` would do, those starts included that first have to wait for something."""
    anew = renewals(desired, observed, only=only)
    renewed = {
        name: replace(
            status,
            held=False,
            redo=anew[name] or status.redo,
            rejected=None,
            redo_models=any(model.given_up for model in status.models),
        )
        if name in anew
        else status
        for name, status in observed.items()
    }
    plan = make_plan(desired, renewed, now)
    planned = {action.instance: _as_tried(action, observed) for action in plan.actions}
    for name, why in plan.pending.items():
        drift = () if name in observed else holding(desired[name])
        status = observed.get(name)
        alive = status is not None and status.phase in ALIVE
        verb = Verb.REPLACE if alive else Verb.START
        planned[name] = Action(verb, name, desired[name], drift, message=why.message)
    leaving = [action for name, action in planned.items() if name not in desired]
    return (*leaving, *(planned[name] for name in desired if name in planned))


def _as_tried(action: Action, observed: Observed) -> Action:
    """Of a change that was tried already, what came of it is said before it is tried again."""
    status = observed.get(action.instance)
    if status is None or status.rejected is None or action.spec is None:
        return action
    if not is_rejected(action.spec, status):
        return action
    return replace(action, message=f"tried and undone: {status.rejected.message}")


@dataclass(frozen=True, slots=True)
class Convergence:
    """How far what runs is from what is declared."""

    converged: bool
    settled: bool
    missing: tuple[str, ...] = ()
    """`name: phase (message)` for each instance that is not ready as declared."""


def convergence(desired: Desired, observed: Observed, plan: Plan) -> Convergence:
    """`converged`: all ready as declared, nothing else left. `settled`: nothing is on its way."""
    missing: list[str] = []
    moving = any(action.verb is not Verb.UPDATE for action in plan.actions)
    for name in desired:
        status = observed.get(name)
        if name in plan.pending:
            why = plan.pending[name].message
            runs = status.phase.value if status is not None and status.phase in ALIVE else ""
            where = f"{runs}, its change waits" if runs else "pending"
            missing.append(f"{name}: {where} ({why})")
            moving = moving or _is_coming(desired[name].awaits, observed)
        elif status is None:
            missing.append(f"{name}: pending")
            moving = True
        elif status.phase is not Phase.READY or _acts_on(plan, name):
            detail = f" ({status.message})" if status.message else ""
            missing.append(f"{name}: {status.phase}{detail}")
            moving = moving or status.phase in (Phase.STARTING, Phase.STOPPING)
            moving = moving or lost_its_port(status)
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
    leaving = [name for name in observed if name not in desired]
    missing += [f"{name}: still {observed[name].phase}" for name in leaving]
    moving = moving or bool(leaving)
    return Convergence(not missing, not moving, tuple(missing))


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
