"""What follows the end of a run: nothing, what was ready before it, a retry, or giving up; and what
ends that. A part of the fold.
"""

from __future__ import annotations

from msgspec.structs import replace

from orchestrator.core.backoff import LONGEST_WAIT, delay_before, within_window
from orchestrator.core.cause import Mending
from orchestrator.core.event import Event
from orchestrator.core.on_demand import IDLE
from orchestrator.core.rollback import has_lost_its_port, undone
from orchestrator.core.status import ALIVE, InstanceStatus, Phase

STABLE_AFTER = 10.0
"""Seconds of readiness after which earlier failures no longer delay a restart."""


def exited(status: InstanceStatus, event: Event) -> InstanceStatus:
    """A run whose process, with all of its group, is gone."""
    if status.phase not in ALIVE:
        return status
    code = event.data.get("exit_code")
    gone = replace(status, process=None, exit_code=code, since=event.time)
    if status.phase is Phase.STOPPING or status.held or status.rests:
        if status.condemned and not (status.held or status.rests):
            return _failed_once(gone, event, reason=status.reason, message=status.message)
        reason = "held" if status.held else IDLE if status.rests else ""
        return replace(
            gone,
            phase=Phase.STOPPED,
            reason=reason,
            message=status.message if reason == IDLE else "",
            rests=status.rests or status.held,
            started_at=None,
            condemned="",
            hurry=False,
        )
    if event.data.get("blameless"):
        return replace(gone, phase=Phase.STOPPED, reason="", message=event.message)
    clean = code == 0 and status.ready_at is not None
    if clean and status.spec.restart.policy != "always":
        return replace(
            gone, phase=Phase.STOPPED, reason="exited", message=event.message, rests=True
        )
    return _failed_once(gone, event, reason=event.reason, message=event.message)


def start_failed(status: InstanceStatus, event: Event) -> InstanceStatus:
    """A start that no process came of."""
    if status.phase not in (Phase.STARTING, Phase.STOPPING):
        return status
    if status.phase is Phase.STOPPING or status.held:
        return exited(status, event)
    gone = replace(status, process=None, since=event.time)
    return _failed_once(gone, event, reason=event.reason, message=event.message)


def _failed_once(
    status: InstanceStatus, event: Event, *, reason: str, message: str
) -> InstanceStatus:
    """Back to what was ready before it, or a retry at once, later, or never: the restart policy
    and the history decide."""
    waits = event.data.get("waits", False)
    back = undone(status, at=event.at, reason=reason, message=message, waits=waits)
    if back is not None:
        return back
    if has_lost_its_port(status, reason):
        status = replace(status, fallback=None, rejected=None)
    policy = status.spec.restart
    was_ready = status.ready_at is not None
    stable = was_ready and event.at - (status.ready_at or 0.0) >= STABLE_AFTER
    streak = 0 if stable else status.streak
    failures = within_window((*status.failures, event.at), now=event.at, policy=policy)
    gave_up = not waits and len(failures) > policy.limit
    base = replace(
        status,
        reason=reason,
        failures=status.failures if waits else failures,
        streak=streak + 1,
        ready_at=None,
        started_at=None,
        condemned="",
        hurry=False,
    )
    # Where nothing of it has run, there is nothing that `never` could refuse to run again.
    never = policy.policy == "never" and not waits
    if gave_up or never or event.data.get("permanent", False):
        if gave_up:
            message = f"gave up after {len(failures)} failures: {message}"
        known = event.data.get("hangs_on")
        mending = Mending.of_json(known) if known else None
        return replace(
            base,
            phase=Phase.FAILED,
            message=message,
            retry_at=None,
            mending=mending,
            rests=True,
        )
    delay = delay_before(streak, was_ready=was_ready, policy=policy, seed=status.start_id)
    if waits:
        delay = min(max(delay, 0.5), LONGEST_WAIT)
    return replace(base, phase=Phase.BACKOFF, message=message, retry_at=event.at + delay)


def mended(status: InstanceStatus, event: Event) -> InstanceStatus:
    """What it failed for, or waits for, is otherwise now: that is a new beginning.

    But not where it is memory: how much is enough is only guessed, so such tries count.
    """
    if status.phase not in (Phase.FAILED, Phase.BACKOFF):
        return status
    if status.phase is Phase.FAILED and status.spec.restart.policy == "never":
        return status
    if event.data.get("memory"):
        return _has_memory(status, event) if status.phase is Phase.FAILED else status
    return replace(
        status,
        phase=Phase.STOPPED,
        reason="",
        message=event.message,
        since=event.time,
        failures=(),
        streak=0,
        retry_at=None,
        mending=None,
    )


def _has_memory(status: InstanceStatus, event: Event) -> InstanceStatus:
    """One more try, after the pause that its failures call for; on demand, once it is asked for."""
    if status.spec.on_demand is not None:
        return replace(
            status,
            phase=Phase.STOPPED,
            reason=IDLE,
            message=event.message,
            since=event.time,
            mending=None,
        )
    streak, policy = max(status.streak - 1, 0), status.spec.restart
    delay = delay_before(streak, was_ready=False, policy=policy, seed=status.start_id)
    return replace(
        status,
        phase=Phase.BACKOFF,
        message=event.message,
        since=event.time,
        retry_at=event.at + delay,
        mending=None,
    )
