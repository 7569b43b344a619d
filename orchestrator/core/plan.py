"""What to do next: desired against observed, at an instant. Pure, level-based, idempotent.

The plan never remembers: it compares whole levels, so an event that was lost, doubled or late
costs a pass, not correctness. One action at most is in flight for one instance, because
submitting one moves the phase (`starting`, `stopping`) before the next plan is made.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any

from msgspec import Struct

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
from orchestrator.core.gate import Gate, Waiting, overlaps
from orchestrator.core.on_demand import IDLE, InUse, is_at_rest, make_room
from orchestrator.core.rollback import ROLLED_BACK, aim, is_rejected
from orchestrator.core.shared_store import returning
from orchestrator.core.spec import Desired, InstanceSpec
from orchestrator.core.status import (
    ALIVE,
    SERVING,
    InstanceStatus,
    Observed,
    Phase,
)
from orchestrator.core.succession import (
    Stage,
    difference,
    is_due,
    staged,
)
from orchestrator.core.successor import base_of, is_aside, is_next


class Verb(StrEnum):
    """What can be done to an instance. `update` takes up live fields in place, `provision` also
    brings its models to what is declared: the process stays. `promote` puts its successor, which
    is ready, in its place."""

    START = "start"
    STOP = "stop"
    KILL = "kill"
    REPLACE = "replace"
    UPDATE = "update"
    PROVISION = "provision"
    PROMOTE = "promote"


class Action(Struct, frozen=True):
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


class Plan(Struct, frozen=True):
    """`wake_at` (boot clock) is when to look again though nothing happened; None means never."""

    actions: tuple[Action, ...] = ()
    waiting: Mapping[str, Waiting] | None = None
    forget: tuple[str, ...] = ()
    wake_at: float | None = None

    @property
    def pending(self) -> Mapping[str, Waiting]:
        return self.waiting or {}


def make_plan(
    desired: Desired,
    observed: Observed,
    now: float,
    budget: Budget | None = None,
    use: InUse | None = None,
) -> Plan:
    """Every action that can be submitted now, the reasons for what cannot, and when to wake.

    `budget` is the memory that there is; None starts everything, whether it fits or not. `use` says
    who of those that run on demand is at work; without it none of them makes room for another.
    """
    stage = staged(desired, observed)
    steps = _Steps(stage, observed, Gate(stage.desired, observed, budget), now)
    steps.end_what_leaves()
    for name, spec in stage.desired.items():
        steps.consider(name, spec)
    steps.make_room(use)
    if steps.gate.waits_for_memory:
        steps.wakes.append(now + LOOK_AGAIN)
    wake_at = min(steps.wakes, default=None)
    return Plan(tuple(steps.actions), steps.waiting, tuple(steps.forget), wake_at)


class _Steps:
    """What one plan comes to, step by step: each start that is let pass counts for those after."""

    def __init__(self, stage: Stage, observed: Observed, gate: Gate, now: float) -> None:
        self._stage = stage
        self._before = observed
        self._now = now
        self._beside = [*stage.desired.values(), *returning(stage.desired, observed)]
        self._done: set[str] = set()
        self._alone: set[str] = set()
        self.gate = gate
        self.actions: list[Action] = []
        self.waiting: dict[str, Waiting] = {}
        self.forget: list[str] = []
        self.wakes: list[float] = []

    def end_what_leaves(self) -> None:
        """What nobody declares is stopped, and forgotten once it is gone."""
        leaving = [s for name, s in self._before.items() if name not in self._stage.desired]
        self.forget += [s.name for s in leaving if s.phase not in ALIVE]
        self.actions += [_stop(s) for s in leaving if s.phase in SERVING]
        self.actions += [_kill(s.name) for s in leaving if s.phase is Phase.STOPPING and s.hurry]

    def consider(self, name: str, spec: InstanceSpec) -> None:
        """One instance: what to do, what to wait for, or when to look again."""
        if name in self._done or self._rests(name, spec):
            return
        status = self._stage.observed.get(name)
        if name in self._alone:
            # Both do not fit beside each other: one after the other, then.
            spec, status = self._stage.follows[name], self._before[name]
        action = self._step(spec, status)
        if is_aside(name) and self._is_for_its_base(name, action):
            return
        waits = _waits(action, status, self._stage.desired, self.gate)
        if waits is not None:
            self.waiting[base_of(name)] = waits
        elif action is not None:
            self.actions.append(action)
        elif status is not None and status.retry_at is not None and _is_retried(status):
            self.wakes.append(status.retry_at)

    def make_room(self, use: InUse | None) -> None:
        """Who is stopped for those that wait for memory."""
        desired = {n: spec for n, spec in self._stage.desired.items() if not is_aside(n)}
        desired |= {name: self._stage.follows[name] for name in self._alone}
        touched = {action.instance for action in self.actions} | self.waiting.keys()
        going = make_room(self.waiting, self.gate, desired, self._before, use, touched=touched)
        self.actions += [_go(name, whom) for name, whom in going.items()]

    def _rests(self, name: str, spec: InstanceSpec) -> bool:
        """A successor is wanted by whoever changed what runs."""
        return not is_aside(name) and is_at_rest(spec, self._before.get(name))

    def _step(self, spec: InstanceSpec, status: InstanceStatus | None) -> Action | None:
        if status is not None:
            return _adjust(spec, status, self._now, self._stage.desired, self._beside)
        if not is_aside(spec.name):
            return _start_new(spec)
        name = base_of(spec.name)
        drift = difference(self._before[name], self._stage.follows[name])
        message = "; ".join(map(str, drift)) or "restart asked for"
        return Action(Verb.START, spec.name, spec, drift, message=f"beside {name}: {message}")

    def _is_for_its_base(self, name: str, action: Action | None) -> bool:
        """What a successor comes to that is told of the instance whose place it is to take."""
        base = base_of(name)
        if action is None and is_due(name, self._stage):
            self._done.add(base)
            self.actions.append(_promote(self._before[name], self._before.get(base)))
            return True
        if action is None or action.verb is not Verb.START or action.spec is None:
            return False
        waits = self.gate.before_successor(action.spec)
        if waits is not None:
            self.waiting[base] = waits
        elif self.gate.has_room(action.spec):
            self.actions.append(action)
        else:
            self._alone.add(base)
        return True


def _promote(coming: InstanceStatus, runs: InstanceStatus | None) -> Action:
    process, port = coming.process, coming.spec.endpoint.port
    message = f"pid {process.pid if process else '?'} on port {port} takes over"
    if runs is not None and runs.process is not None:
        message += f" from pid {runs.process.pid} on port {runs.spec.endpoint.port}"
    return Action(Verb.PROMOTE, base_of(coming.name), message=message)


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
    reason, message = "removed", "no longer in the applied profiles"
    if is_aside(status.name):
        reason, message = "replaced", "its successor has taken over"
    if is_next(status.name):
        reason, message = "superseded", "it is not to follow any more"
    return Action(Verb.STOP, status.name, reason=reason, message=message)


def _go(name: str, whom: str) -> Action:
    return Action(Verb.STOP, name, reason=IDLE, message=f"makes room for {whom}")


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
    if spec.on_demand is not None and status.rests and status.phase in SERVING:
        return Action(Verb.STOP, spec.name, reason=IDLE, message=status.message)
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
        why = "as declared" if spec.on_demand is None else "asked for by a request"
        return Action(Verb.START, spec.name, spec, live, message=why)
    return None


def _is_retried(status: InstanceStatus) -> bool:
    return status.phase is Phase.BACKOFF and not status.held


def _is_due(status: InstanceStatus, now: float) -> bool:
    """What is further away than any delay is an instant of before the machine was started anew."""
    longest = max(status.spec.restart.max, LONGEST_WAIT)
    return status.retry_at is None or not now < status.retry_at <= now + longest
