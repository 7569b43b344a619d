"""What the verb `apply` would do, and what it takes up that an edit does not. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec.structs import replace

from orchestrator.core.drift import holding, input_drift
from orchestrator.core.on_demand import is_at_rest
from orchestrator.core.plan import Action, Verb, make_plan
from orchestrator.core.rollback import is_rejected
from orchestrator.core.spec import Desired, InstanceSpec
from orchestrator.core.status import ALIVE, SERVING, Observed, Phase
from orchestrator.core.succession import DOWN, difference, staged
from orchestrator.core.successor import base_of, next_of


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
        if spec.on_demand is not None and is_at_rest(spec, replace(status, held=False)):
            if spec.on_demand.preload or status.held:
                found[name] = spec.on_demand.preload
            continue
        coming = observed.get(next_of(name))
        dead = status.phase in (Phase.FAILED, Phase.BACKOFF, Phase.STOPPED)
        dead = dead or (coming is not None and coming.phase in DOWN)
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
    follows = staged(desired, renewed).follows
    planned: dict[str, Action] = {}
    for action in plan.actions:
        shown = _as_shown(action, renewed, follows)
        if shown is not None:
            # What replaces an instance comes first, and with all that is other then.
            planned.setdefault(shown.instance, _as_tried(shown, observed))
    for name, why in plan.pending.items():
        drift = () if name in observed else holding(desired[name])
        status = observed.get(name)
        alive = status is not None and status.phase in ALIVE
        verb = Verb.REPLACE if alive else Verb.START
        planned[name] = Action(verb, name, desired[name], drift, message=why.message)
    leaving = [action for name, action in planned.items() if name not in desired]
    return (*leaving, *(planned[name] for name in desired if name in planned))


def _as_shown(
    action: Action, observed: Observed, follows: Mapping[str, InstanceSpec]
) -> Action | None:
    """What is done beside an instance, as what becomes of that instance; None where nothing does,
    or what does was announced before."""
    name = base_of(action.instance)
    if action.instance == name:
        return None if action.verb is Verb.PROMOTE else action
    if action.verb not in (Verb.START, Verb.REPLACE):
        return None
    drift = difference(observed[name], follows[name])
    message = "; ".join(map(str, drift)) or "restart asked for"
    message = f"start-first, where memory allows: {message}"
    return Action(Verb.REPLACE, name, follows[name], drift, "replaced", message)


def _as_tried(action: Action, observed: Observed) -> Action:
    """Of a change that was tried already, what came of it is said before it is tried again."""
    status = observed.get(action.instance)
    if status is None or status.rejected is None or action.spec is None:
        return action
    if not is_rejected(action.spec, status):
        return action
    return replace(action, message=f"tried and undone: {status.rejected.message}")
