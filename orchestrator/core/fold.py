"""The fold: from what was observed and an event, to what is observed now. The only place where a
phase changes.

It is pure, so the reconciler (the only caller that keeps its result) can be replayed and tested
event by event.
"""

from __future__ import annotations

from msgspec.structs import replace

from orchestrator.core import succession
from orchestrator.core.event import AGAIN, Event, EventType
from orchestrator.core.failure import exited, mended, start_failed
from orchestrator.core.model_rows import rows_of_next_run, rows_of_update, with_row
from orchestrator.core.on_demand import IDLE
from orchestrator.core.rollback import ROLLED_BACK, fallback_of, kept_rejection
from orchestrator.core.status import (
    ALIVE,
    SERVING,
    Alert,
    AttachedTo,
    Health,
    InstanceStatus,
    Observed,
    Phase,
    ProcessRef,
)


def fold(observed: Observed, event: Event) -> Observed:
    """`observed` as it is once `event` has happened. Late and doubled events change nothing."""
    if not event.instance:
        return observed
    status = observed.get(event.instance)
    if event.type is EventType.FORGOTTEN:
        return {name: kept for name, kept in observed.items() if name != event.instance}
    if event.type is EventType.PROMOTED:
        return succession.promoted(observed, event)
    if event.type is EventType.STARTING:
        begun = {**observed, event.instance: _begun(status, event)}
        return succession.begun(begun, event.instance)
    if event.type is EventType.ADOPTED:
        adopted = {**observed, event.instance: _adopted(status, event)}
        return succession.begun(adopted, event.instance)
    if status is None and event.type in _BEGIN_A_STATUS and event.spec is not None:
        status = InstanceStatus(
            event.instance, Phase.STOPPED, event.spec, since=event.time, rests=True
        )
    if status is None or _is_late(status, event):
        return observed
    changed = _FOLDS[event.type](status, event) if event.type in _FOLDS else status
    if changed is status:
        return observed
    after = {**observed, event.instance: changed}
    if event.type is EventType.HELD:
        return succession.hurried(after, event.instance)
    return succession.settled(after, event.instance)


def _is_late(status: InstanceStatus, event: Event) -> bool:
    start_id = event.data.get("start_id")
    return start_id is not None and start_id != status.start_id


def _begun(status: InstanceStatus | None, event: Event) -> InstanceStatus:
    """A start was submitted."""
    assert event.spec is not None, "a starting event carries its spec"
    if status is not None and status.start_id == event.data["start_id"]:
        return status
    # Another spec, or somebody's word, is a new beginning: earlier failures do not count.
    known = status if event.reason not in ("asked", "changed", ROLLED_BACK) else None
    return InstanceStatus(
        name=event.instance,
        phase=Phase.STARTING,
        spec=event.spec,
        start_id=event.data["start_id"],
        since=event.time,
        started_at=event.at,
        restarts=(status.restarts if status else 0) + _counts(event),
        failures=known.failures if known else (),
        streak=known.streak if known else 0,
        # Whoever measures says that they are over: nobody else would hear of it.
        alerts=status.alerts if status else (),
        fallback=status.fallback if status else None,
        rejected=kept_rejection(status, event.spec) if status else None,
        models=rows_of_next_run(status, event.spec) if status else (),
    )


def _counts(event: Event) -> int:
    """1 for a start that is a restart: another try of what only waits is none."""
    return int(event.reason == "restart" and not event.data.get(AGAIN))


def _adopted(status: InstanceStatus | None, event: Event) -> InstanceStatus:
    """A process of an earlier daemon was found alive: what is known of it stays true."""
    if status is not None and status.start_id == event.data["start_id"]:
        return replace(status, process=_process_of(event))
    found = replace(_begun(status, event), process=_process_of(event))
    guessed = event.data.get("guessed", False)
    return replace(found, started_at=event.data["started_at"], guessed=guessed)


def _process_of(event: Event) -> ProcessRef:
    data = event.data
    return ProcessRef(data["pid"], data["start_ticks"], data["boot_id"])


def _spawned(status: InstanceStatus, event: Event) -> InstanceStatus:
    if status.phase not in ALIVE:
        return status
    return replace(status, process=_process_of(event))


def _progressed(status: InstanceStatus, event: Event) -> InstanceStatus:
    return replace(status, message=event.message) if status.phase is Phase.STARTING else status


def _ready(status: InstanceStatus, event: Event) -> InstanceStatus:
    if status.phase not in (Phase.STARTING, Phase.UNREADY):
        return status
    first = status.ready_at is None
    return replace(
        status,
        phase=Phase.READY,
        reason="",
        message="",
        since=event.time,
        ready_at=event.at if first else status.ready_at,
        ready_after_s=event.data.get("ready_after_s") if first else status.ready_after_s,
        fallback=status.fallback if status.rejected else None,
    )


def _attached(status: InstanceStatus, event: Event) -> InstanceStatus:
    """A server that somebody else runs is where this one was to be started, or is back."""
    if status.phase not in SERVING:
        return status
    data = event.data
    found = AttachedTo(
        data.get("pid"),
        data.get("owner", ""),
        data.get("version", ""),
        data.get("start_ticks"),
        data.get("boot_id", ""),
    )
    ready = _ready(status, event)
    # What a server of our own was to let go of is not for this one to lose.
    models = status.models if status.attached is not None else ()
    return replace(ready, attached=found, message=event.message, models=models)


def _detached(status: InstanceStatus, event: Event) -> InstanceStatus:
    """It was let go of, or it went away. A start, if one is due, looks again who is there."""
    # A stop may have come in the moment of attaching: then it is let go of, and never was.
    if status.phase not in ALIVE or (
        status.attached is None and status.phase is not Phase.STOPPING
    ):
        return status
    return replace(
        status,
        phase=Phase.STOPPED,
        reason="held" if status.held else "",
        message=event.message,
        since=event.time,
        started_at=None,
        attached=None,
        hurry=False,
        models=(),
    )


def _unready(status: InstanceStatus, event: Event) -> InstanceStatus:
    other = status.attached is not None and event.reason != status.reason
    if status.phase is not Phase.READY and not (status.phase is Phase.UNREADY and other):
        return status
    attached = status.attached
    if attached is not None and event.reason == "gone":
        # Its pid may be somebody else's by the time that it is back.
        attached = replace(attached, pid=None, start_ticks=None)
    return replace(
        status,
        phase=Phase.UNREADY,
        reason=event.reason,
        message=event.message,
        since=event.time,
        attached=attached,
    )


def _condemned(status: InstanceStatus, event: Event) -> InstanceStatus:
    if status.phase not in SERVING:
        return status
    return replace(status, condemned=event.reason, message=event.message)


def _stopping(status: InstanceStatus, event: Event) -> InstanceStatus:
    if status.phase not in SERVING:
        return status
    return replace(
        status,
        phase=Phase.STOPPING,
        reason=event.reason,
        message=event.message,
        since=event.time,
        rests=status.rests or event.reason == IDLE,
        fallback=fallback_of(status, event.reason),
    )


def _killing(status: InstanceStatus, _event: Event) -> InstanceStatus:
    return replace(status, hurry=False)


def _held(status: InstanceStatus, event: Event) -> InstanceStatus:
    if status.phase in ALIVE:
        hurry = status.hurry or bool(event.data.get("hurry"))
        return replace(status, held=True, redo=False, hurry=hurry)
    return replace(
        status,
        phase=Phase.STOPPED,
        reason="held",
        message="",
        held=True,
        redo=False,
        rests=True,
        retry_at=None,
    )


def _redo(status: InstanceStatus, event: Event) -> InstanceStatus:
    # An apply is no request: what it starts in advance makes nobody go.
    rests = status.rests and event.reason == "apply"
    return replace(status, held=False, redo=True, rejected=None, rests=rests)


def _wanted(status: InstanceStatus, _event: Event) -> InstanceStatus:
    """A request waits for it. What was given up, or is held, is not tried again for that."""
    if status.held or status.phase is Phase.FAILED:
        return status
    stopped = status.phase is Phase.STOPPED
    return replace(
        status,
        rests=False,
        reason="" if stopped else status.reason,
        message="" if stopped else status.message,
    )


def _idle(status: InstanceStatus, event: Event) -> InstanceStatus:
    """Nobody has used it for as long as it was declared to wait for that."""
    if status.phase not in (Phase.READY, Phase.UNREADY):
        return status
    return replace(status, rests=True, message=event.message)


def _released(status: InstanceStatus, _event: Event) -> InstanceStatus:
    reason = "" if status.reason == "held" else status.reason
    again = any(model.given_up for model in status.models)
    return replace(status, held=False, reason=reason, redo_models=again)


def _updated(status: InstanceStatus, event: Event) -> InstanceStatus:
    assert event.spec is not None, "an updated event carries its spec"
    # The process has read what it has read: its inputs stay those of its start.
    spec = replace(event.spec, inputs=status.spec.inputs)
    models = rows_of_update(status, spec)
    accepted = event.reason == "as-declared"
    # What is not asked any more says nothing of how it is.
    health = status.health if spec.liveness.mode == "inference" else None
    return replace(
        status,
        spec=spec,
        guessed=False,
        models=models,
        redo_models=False,
        rests=status.rests and spec.on_demand is not None,
        health=health,
        rejected=None if accepted else status.rejected,
        fallback=None if accepted else status.fallback,
    )


def _look(status: InstanceStatus, _event: Event) -> InstanceStatus:
    """Somebody asks which models there are: what was seen last may not be so any more."""
    return replace(status, looking=True) if status.phase in SERVING else status


def _looked(status: InstanceStatus, _event: Event) -> InstanceStatus:
    return replace(status, looking=False) if status.looking else status


def _health(status: InstanceStatus, event: Event) -> InstanceStatus:
    if status.phase not in SERVING:
        return status
    return replace(status, health=Health(event.data["class"], event.data["latency_s"]))


def _alert(status: InstanceStatus, event: Event) -> InstanceStatus:
    others = tuple(one for one in status.alerts if one.kind != event.data["alert"])
    raised = event.type is EventType.ALERT
    new = (Alert(event.data["alert"], event.message),) if raised else ()
    return replace(status, alerts=(*others, *new))


_BEGIN_A_STATUS = frozenset({EventType.HELD, EventType.WANTED, EventType.REDO})

_FOLDS = {
    EventType.SPAWNED: _spawned,
    EventType.PROGRESS: _progressed,
    EventType.READY: _ready,
    EventType.UNREADY: _unready,
    EventType.CONDEMNED: _condemned,
    EventType.STOPPING: _stopping,
    EventType.KILLING: _killing,
    EventType.EXITED: exited,
    EventType.START_FAILED: start_failed,
    EventType.HELD: _held,
    EventType.REDO: _redo,
    EventType.RELEASED: _released,
    EventType.UPDATED: _updated,
    EventType.ATTACHED: _attached,
    EventType.DETACHED: _detached,
    EventType.MODEL: with_row,
    EventType.MODEL_PROGRESS: with_row,
    EventType.LOOK: _look,
    EventType.LOOKED: _looked,
    EventType.HEALTH: _health,
    EventType.ALERT: _alert,
    EventType.ALERT_OVER: _alert,
    EventType.MENDED: mended,
    EventType.WANTED: _wanted,
    EventType.IDLE: _idle,
}
