"""A change that does not come up is undone: what an instance is brought to instead, until when.

Two facts of its status say all: `fallback`, the spec that was ready before the change, and
`rejected`, the change that did not come up. As long as exactly that is declared, the plan brings
the instance to the fallback; another edit, or somebody's `apply` or `restart`, is a new try.
"""

from __future__ import annotations

from msgspec.structs import replace

from orchestrator.core.drift import live_drift, restart_drift
from orchestrator.core.spec import InstanceSpec
from orchestrator.core.status import InstanceStatus, Phase, Rejected
from orchestrator.core.successor import variants

ROLLED_BACK = "rolled-back"
"""The reason of an instance that runs what was ready before, and of the start that began it."""


def aim(want: InstanceSpec, status: InstanceStatus) -> InstanceSpec:
    """What to bring the instance to: what is declared, or what was ready before it."""
    if status.fallback is None or not is_rejected(want, status):
        return want
    return replace(status.fallback, profiles=want.profiles)


def is_rejected(want: InstanceSpec, status: InstanceStatus) -> bool:
    """True when exactly this was tried, and did not come up."""
    rejected = status.rejected
    return rejected is not None and any(_alike(rejected.spec, one) for one in variants(want))


def kept_rejection(status: InstanceStatus, start: InstanceSpec) -> Rejected | None:
    """What stays rejected while `start` is begun: nothing, when that is a new try."""
    goes_back = status.fallback is not None and _alike(status.fallback, start)
    return status.rejected if goes_back else None


def fallback_of(status: InstanceStatus, reason: str) -> InstanceSpec | None:
    """What to return to, should the one that takes its place not come up."""
    # What was adopted by its mark alone is a guess: nobody can say how it was started.
    good = reason == "replaced" and status.ready_at is not None and not status.guessed
    return status.spec if good else status.fallback


def undone(
    status: InstanceStatus, *, at: float, reason: str, message: str, waits: bool
) -> InstanceStatus | None:
    """The status of a change that has failed, on its way back; None where it stays with it.

    `at` is the instant of the failure, by the boot clock.
    """
    spec, fallback = status.spec, status.fallback
    if fallback is None or status.ready_at is not None or _alike(spec, fallback):
        return None
    # What waits, waits for what is no fault of the change; but who takes a port by its number
    # would be down for as long as a stranger has it.
    if waits and (reason != "port-taken" or spec.auto_port):
        return None
    changed = restart_drift(fallback, spec)
    beside = spec.name != fallback.name
    if beside:
        # It was tried beside what runs: on another port, which is no part of the change.
        changed = tuple(one for one in changed if one.field != "port")
    repeated = beside and not changed
    if not repeated and spec.update.on_failure != "rollback":
        return None
    what = "; ".join(map(str, (*changed, *live_drift(fallback, spec)))) or "another process"
    told = f"did not come up ({reason}): {what}; {message}".rstrip("; ")
    return replace(
        status,
        phase=Phase.BACKOFF,
        reason=ROLLED_BACK,
        message=told,
        rejected=Rejected(spec, reason, told),
        retry_at=at,
        failures=(),
        streak=0,
        ready_at=None,
        started_at=None,
        condemned="",
        hurry=False,
    )


def has_lost_its_port(status: InstanceStatus, reason: str) -> bool:
    """True when the port of the fallback, chosen for it once, is a stranger's by now: there is no
    going back to it."""
    fallback = status.fallback
    gone_back = fallback is not None and _alike(status.spec, fallback)
    return gone_back and status.spec.auto_port and reason == "port-taken"


def _alike(one: InstanceSpec, other: InstanceSpec) -> bool:
    """The same try: which profiles say so, what else is on the disk by now, and which other port it
    could have, does not matter."""
    return _essence(one) == _essence(other)


def _essence(spec: InstanceSpec) -> InstanceSpec:
    # An estimate is no part of what is declared: it changes with what is known of the machine.
    demand = spec.demand if spec.demand is not None and spec.demand.declared else None
    return replace(spec, profiles=(), inputs=(), demand=demand, alternate=None)
