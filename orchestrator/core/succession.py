"""Make before break: who is to follow whom, and what becomes of both. Pure.

The plan sees a stage: what is desired, with `name~next` beside a `name` that goes on as it runs.
What follows is levels again: a successor that is desired is started, watched and tried again like
any instance, and one that is not desired any more leaves. Once it is ready it takes over, in one
event; the one before it, as `name~old`, is desired by nobody.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct, field
from msgspec.structs import replace

from orchestrator.core.drift import Drift, live_drift, process_drift
from orchestrator.core.event import Event, EventType
from orchestrator.core.gate import overlaps
from orchestrator.core.rollback import is_rejected
from orchestrator.core.spec import Desired, InstanceSpec
from orchestrator.core.status import (
    ALIVE,
    SERVING,
    InstanceStatus,
    Observed,
    Phase,
    lost_its_port,
)
from orchestrator.core.successor import (
    base_of,
    beside,
    family,
    is_next,
    next_of,
    old_of,
    on_port,
)

DOWN = frozenset({Phase.FAILED, Phase.BACKOFF})

_HEEDED = (
    "profiles",
    "description",
    "needs",
    "readiness",
    "liveness",
    "restart",
    "stop",
    "update",
    "limits",
    "on_demand",
)
"""What the daemon goes by while an instance runs: it is taken up before a successor is ready."""


class Stage(Struct, frozen=True):
    """What the plan compares. `follows` is, for each instance that goes on until its successor is
    ready, what it is to become, were it replaced where it runs."""

    desired: Desired
    observed: Observed
    follows: Mapping[str, InstanceSpec] = field(default_factory=dict[str, InstanceSpec])


def staged(desired: Desired, observed: Observed) -> Stage:
    """Successors stand before those whose place they are to take."""
    if not any(spec.alternate for spec in desired.values()):
        return Stage(desired, observed)
    specs: Desired = {}
    seen = dict(observed)
    follows: Desired = {}
    for name, want in desired.items():
        status = observed.get(name)
        specs[name] = here = want if status is None else on_port(want, status.spec.endpoint.port)
        there = _successor(want, status, observed.get(next_of(name)), desired)
        if status is None or there is None:
            continue
        follows[name] = here
        del specs[name]
        specs |= {there.name: there, name: _as_it_runs(status.spec, here)}
        seen[name] = replace(status, redo=False)
        coming = observed.get(there.name)
        if coming is not None and coming.phase in DOWN and status.redo:
            seen[there.name] = replace(coming, redo=True)
    return Stage(specs, seen, follows)


def _successor(
    want: InstanceSpec,
    status: InstanceStatus | None,
    coming: InstanceStatus | None,
    desired: Desired,
) -> InstanceSpec | None:
    """What is to run beside an instance, to take its place; None where nothing is."""
    if status is None or want.awaits is not None or not _may_be_followed(status, coming):
        return None
    if want.on_demand is not None and status.rests:
        # Nobody uses it: it ends as it is.
        return None
    there = beside(want, status.spec.endpoint.port)
    if there is None or is_rejected(want, status) or _takes_what_is_left(there):
        return None
    others = [spec.endpoint for name, spec in desired.items() if name != want.name]
    # Where one of its two ports is to be another's, that one has waited long enough.
    ours = (there.endpoint, status.spec.endpoint)
    if any(overlaps(other, one) for other in others for one in ours):
        return None
    here = on_port(want, status.spec.endpoint.port)
    # One that was begun as it is wanted goes on: it may be a restart, by somebody's word.
    begun = coming is not None and not process_drift(coming.spec, there)
    due = begun or status.redo or process_drift(status.spec, here)
    return there if due else None


def _may_be_followed(status: InstanceStatus, coming: InstanceStatus | None) -> bool:
    """What is of use is kept until there is better; what is not, only where better is coming."""
    # What was adopted by its mark alone is a guess: nobody can say how it was started.
    if status.held or status.guessed or not status.managed:
        return False
    serves = status.phase in (Phase.READY, Phase.UNREADY) and not status.condemned
    return serves or (coming is not None and coming.phase in SERVING)


def _takes_what_is_left(spec: InstanceSpec) -> bool:
    """Of a GPU that another has filled there is nothing for it to choose from."""
    return spec.demand is not None and spec.demand.fits_itself and bool(spec.demand.gpus)


def _as_it_runs(runs: InstanceSpec, want: InstanceSpec) -> InstanceSpec:
    """The process stays; how the daemon treats it is as declared."""
    return replace(runs, **{name: getattr(want, name) for name in _HEEDED})


def difference(status: InstanceStatus, here: InstanceSpec) -> tuple[Drift, ...]:
    """What a successor will be other in."""
    return (*process_drift(status.spec, here), *live_drift(status.spec, here))


def is_due(name: str, stage: Stage) -> bool:
    """Whether a successor, called so until now, is to take over."""
    coming = stage.observed.get(name)
    if coming is None or coming.phase is not Phase.READY or coming.condemned:
        return False
    # The one before that may still have requests to answer; nobody waits long for it.
    return old_of(base_of(name)) not in stage.observed


def said_of(name: str, observed: Observed) -> str:
    """What goes on beside an instance, for people; empty where nothing does."""
    _, following, former = family(name)
    coming, old = observed.get(following), observed.get(former)
    if coming is not None:
        detail = f" ({coming.message})" if coming.message else ""
        where = f" on port {coming.spec.endpoint.port}" if coming.phase in ALIVE else ""
        return f"its successor is {coming.phase.value}{where}{detail}"
    if old is None:
        return ""
    process = f" (pid {old.process.pid})" if old.process is not None else ""
    return f"it has taken over; the one before it{process} ends"


def as_seen(name: str, observed: Observed) -> InstanceStatus | None:
    """An instance as those see it who wait for it: what is down starts, where its successor does,
    be it given up or not; and what is stopped still stops, while anything beside it does."""
    status = observed.get(name)
    if status is None or (status.phase not in DOWN and status.phase is not Phase.STOPPED):
        return status
    coming, message = observed.get(next_of(name)), said_of(name, observed)
    if status.phase is Phase.STOPPED:
        stops = any(one.phase in ALIVE for one in runs_of(observed, name))
        return replace(status, phase=Phase.STOPPING, message=message) if stops else status
    if coming is None or coming.phase not in SERVING:
        return status
    return replace(status, phase=Phase.STARTING, reason="", message=message, retry_at=None)


def is_moving(name: str, observed: Observed) -> bool:
    """Whether something is on its way beside an instance."""
    _, following, former = family(name)
    coming = observed.get(following)
    if former in observed or (coming is not None and lost_its_port(coming)):
        return True
    return coming is not None and coming.phase not in DOWN


# --- parts of the fold ----------------------------------------------------------------------------


_BEGIN = (EventType.STARTING, EventType.ADOPTED, EventType.PROMOTED)
"""What gives a run its name."""


def addressed(event: Event, observed: Observed) -> Event:
    """The event of a run, under the name that the run has by now."""
    start_id = event.data.get("start_id")
    if start_id is None or event.type in _BEGIN:
        return event
    for name in (event.instance, *family(event.instance)):
        status = observed.get(name)
        if status is not None and status.start_id == start_id:
            return replace(event, instance=name)
    return event


def begun(observed: Observed, name: str) -> Observed:
    """A start of a successor takes up what was asked for, and knows what goes on if it fails."""
    runs = observed.get(base_of(name))
    if not is_next(name) or runs is None:
        return observed
    coming = replace(observed[name], fallback=runs.spec)
    return {**observed, name: coming, runs.name: replace(runs, redo=False)}


def settled(observed: Observed, name: str) -> Observed:
    """A successor that has failed for good is no more; what it was to follow knows of it."""
    coming, runs = observed.get(name), observed.get(base_of(name))
    if not is_next(name) or coming is None or coming.rejected is None:
        return observed
    rest = {other: status for other, status in observed.items() if other != name}
    if runs is None:
        return rest
    tried = replace(coming.rejected.spec, name=runs.name)
    rejected = replace(coming.rejected, spec=tried)
    return {**rest, runs.name: replace(runs, rejected=rejected, fallback=runs.spec, redo=False)}


def promoted(observed: Observed, event: Event) -> Observed:
    """The successor is the instance from now on; what runs in its place is on its way out."""
    name, following, former = family(event.instance)
    coming, runs = observed.get(following), observed.get(name)
    if coming is None or coming.start_id != event.data.get("start_id"):
        return observed
    after: Observed = {}
    for other, status in observed.items():
        if other == following:
            continue
        after[other] = status
    restarts = coming.restarts + (runs.restarts if runs is not None else 0)
    after[name] = replace(
        coming,
        name=name,
        spec=replace(coming.spec, name=name),
        restarts=restarts,
        # Whoever measures says that they are over: nobody else would hear of it.
        alerts=runs.alerts if runs is not None else (),
        fallback=None,
        redo=False,
    )
    if runs is not None and runs.phase in ALIVE:
        spec = replace(runs.spec, name=former)
        after[former] = replace(runs, name=former, spec=spec, redo=False, rejected=None, alerts=())
    return after


def hurried(observed: Observed, name: str) -> Observed:
    """Who is killed by somebody's word is so with all that is beside it."""
    status = observed.get(name)
    aside = [one for one in family(name)[1:] if one in observed] if status is not None else []
    if status is None or not (status.held and status.hurry):
        return observed
    return {**observed, **{one: replace(observed[one], hurry=True) for one in aside}}


def runs_of(observed: Observed, name: str) -> list[InstanceStatus]:
    """All that is observed of an instance, under whatever name."""
    return [observed[one] for one in family(name) if one in observed]
