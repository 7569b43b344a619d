"""What people ask for by hand: each is posted to the reconciler, then its outcome is awaited.

Nothing here changes a status. Every verb may be repeated: asked twice, it is done once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Literal

from msgspec import Struct

from orchestrator.control.bus import Bus
from orchestrator.control.reconciler import Reconciler
from orchestrator.core.event import Event, EventType
from orchestrator.core.problem import did_you_mean, listing
from orchestrator.core.prospect import Prospect, refusal
from orchestrator.core.rollback import ROLLED_BACK
from orchestrator.core.spec import InstanceSpec
from orchestrator.core.status import ALIVE, SERVING, InstanceStatus, Phase
from orchestrator.core.succession import as_seen, runs_of
from orchestrator.core.successor import base_of, is_aside, next_of
from orchestrator.errors import InputError

VerbName = Literal["start", "stop", "restart", "kill"]
VERBS: tuple[VerbName, ...] = ("start", "stop", "restart", "kill")

DOWN = frozenset({Phase.FAILED, Phase.BACKOFF})


class UnknownInstanceError(InputError):
    """Nothing that is declared, or still runs, bears that name."""

    reason = "not-found"


class RefusedError(InputError):
    """It would do harm, and no good."""

    reason = "refused"


class Outcome(Struct, frozen=True):
    """How an intent ended for one instance."""

    instance: str
    ok: bool
    phase: str
    message: str


class Intents:
    """The verbs for single instances."""

    def __init__(
        self,
        bus: Bus,
        reconciler: Reconciler,
        foresee: Callable[[InstanceSpec, InstanceStatus], Prospect] | None = None,
    ) -> None:
        """`foresee` looks at what a start would meet; without it, nothing is refused for that."""
        self._bus = bus
        self._reconciler = reconciler
        self._foresee = foresee

    def check(self, names: Iterable[str]) -> None:
        """Raises `UnknownInstanceError` for a name that nothing bears, declared or leaving."""
        observed = self._reconciler.observed.items()
        left = {name: status.spec for name, status in observed if not is_aside(name)}
        left |= {base_of(name): status.spec for name, status in observed if is_aside(name)}
        known = {**left, **(self._reconciler.desired or {})}
        for name in names:
            if name not in known:
                replicas = [one for one, spec in known.items() if spec.replica_of == name]
                near = did_you_mean(name, known)
                hint = near or f"instances: {listing(sorted(known)) or 'none'}"
                if replicas:
                    hint = f"it has replicas: {listing(replicas)}"
                raise UnknownInstanceError(f"unknown instance {name!r}", hint=hint)

    async def act(self, verb: VerbName, name: str, *, wait: bool, force: bool = False) -> Outcome:
        """Ask for it and, with `wait`, stay until it is so or has failed.

        Raises `RefusedError` for a restart that would only take away what runs, but with `force`.
        """
        self.check([name])
        if verb == "restart" and not force:
            await self._consider(name)
        before = self._reconciler.observed.get(name)
        self._post(verb, name, before)
        if not wait:
            return Outcome(name, True, before.phase.value if before else "pending", "asked for")
        if verb in ("stop", "kill"):
            return await self._until(verb, name, lambda _: self._is_down(name))
        old = before.start_id if before and verb == "restart" else ""

        def came_up(status: InstanceStatus | None) -> bool | None:
            coming = self._reconciler.observed.get(next_of(name))
            return _came_up(status, old) if status is None else _follows(status, coming, old)

        return await self._until(verb, name, came_up)

    async def _consider(self, name: str) -> None:
        status = self._reconciler.observed.get(name)
        spec = (self._reconciler.desired or {}).get(name)
        if self._foresee is None or status is None or spec is None:
            return
        # Nothing runs that could be lost: then nothing has to be looked at.
        if status.phase not in SERVING or not status.managed:
            return
        prospect = await asyncio.to_thread(self._foresee, spec, status)
        refused = refusal(status, prospect)
        if refused is not None:
            raise RefusedError(refused.message, hint=refused.hint)

    def _post(self, verb: VerbName, name: str, before: InstanceStatus | None) -> None:
        spec = (self._reconciler.desired or {}).get(name)
        if verb in ("stop", "kill"):
            data = {"hurry": verb == "kill"}
            self._bus.post(Event(EventType.HELD, name, reason=verb, data=data, spec=spec))
        elif before is None and spec is not None and spec.on_demand is not None:
            self._bus.post(Event(EventType.REDO, name, reason=verb, spec=spec))
        elif verb == "restart" or (before is not None and before.phase not in SERVING):
            self._bus.post(Event(EventType.REDO, name, reason=verb))
        else:
            self._bus.post(Event(EventType.RELEASED, name, reason=verb))

    def _is_down(self, name: str) -> bool | None:
        """With all that is beside it."""
        runs = runs_of(self._reconciler.observed, name)
        return None if any(status.phase in ALIVE for status in runs) else True

    async def _until(
        self, verb: VerbName, name: str, verdict: Callable[[InstanceStatus | None], bool | None]
    ) -> Outcome:
        """Look after every pass. The verdict is None for as long as it is open."""
        subscription = self._bus.subscribe()
        try:
            while True:
                # First a pass, for the intent was only just posted.
                await subscription.next()
                status = as_seen(name, self._reconciler.observed)
                decided = verdict(status)
                waiting = self._reconciler.plan.pending.get(name)
                if waiting is not None and self._reconciler.state.settled:
                    # Nothing is on its way that it could be waiting for.
                    return Outcome(name, False, "pending", waiting.message)
                if not decided and name not in (self._reconciler.desired or {}):
                    if status is not None and verb in ("stop", "kill"):
                        continue
                    return Outcome(name, False, "stopped", "no longer declared")
                if decided is not None:
                    phase = status.phase.value if status else "stopped"
                    return Outcome(name, decided, phase, _told(status))
        finally:
            self._bus.unsubscribe(subscription)


def _told(status: InstanceStatus | None) -> str:
    if status is None:
        return ""
    undone = status.rejected if not status.held else None
    return undone.message if undone is not None else status.message


def _follows(
    status: InstanceStatus, coming: InstanceStatus | None, old_start_id: str
) -> bool | None:
    """As `_came_up`, where what runs goes on until its successor is ready."""
    if status.start_id != old_start_id or status.redo or status.phase not in SERVING:
        return _came_up(status, old_start_id)
    failed = coming is not None and coming.phase in DOWN
    return False if failed or status.rejected is not None else None


def _came_up(status: InstanceStatus | None, old_start_id: str) -> bool | None:
    if status is None or (old_start_id and status.start_id == old_start_id):
        return None
    if status.phase is Phase.READY:
        return status.rejected is None
    if status.reason == ROLLED_BACK:
        # What was ready before is on its way: then it is known how all of it has ended.
        return None
    if status.held or status.reason == "exited":
        return False
    return False if status.phase in DOWN and not status.redo else None
