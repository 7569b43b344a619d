"""The loop: fold what happened, plan, record, act. The only writer of what is observed.

One pass is one call of `step`, without an await: nothing changes under its feet. What it submits
it folds and commits first, so the next pass cannot plan the same start twice, and a daemon that
dies in between leaves a record behind every process.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable
from uuid import uuid4

from msgspec.structs import replace

from orchestrator.control.adoption import runs_as
from orchestrator.control.bus import Bus, NewDesired
from orchestrator.control.executor import Executor
from orchestrator.control.tally import Tally
from orchestrator.core.admission import Budget, BudgetNow
from orchestrator.core.convergence import Convergence, convergence
from orchestrator.core.drift import as_observed
from orchestrator.core.event import AGAIN, Event, EventType
from orchestrator.core.fold import fold
from orchestrator.core.on_demand import InUse
from orchestrator.core.plan import Action, Plan, Verb, make_plan
from orchestrator.core.preview import renewals
from orchestrator.core.report import instances_of
from orchestrator.core.spec import Desired, InstanceSpec
from orchestrator.core.status import ModelStatus, Observed, Phase
from orchestrator.core.succession import addressed
from orchestrator.core.successor import base_of, next_of, variants
from orchestrator.core.wording import how_many
from orchestrator.runtime.files import identity_of
from orchestrator.runtime.identity import boot_clock
from orchestrator.runtime.state import Store, StoreError

STORE_RETRY = 2.0
"""Seconds after which a commit that failed is tried again."""

MAX_ROUNDS = 8
"""Plans in one pass. Two suffice; more would be a plan that does not settle."""


class Reconciler:
    """Owns `desired` and `observed`; everybody else reads snapshots and posts events."""

    def __init__(
        self,
        *,
        bus: Bus,
        store: Store,
        observed: Observed,
        budget: BudgetNow | None = None,
        use: Callable[[], InUse | None] = lambda: None,
    ) -> None:
        """`use` says who of those that run on demand is at work, None where nobody knows."""
        self._bus = bus
        self._store = store
        self._budget = budget
        self._use = use
        self._executor: Executor | None = None
        self.desired: Desired | None = None
        """None until it is known what is applied: until then nothing is planned."""
        self.forced = False
        """What is declared is started whether it fits into memory or not."""
        self.number = 0
        """Which applied set `desired` and `state` are about."""
        self.observed = observed
        self.plan = Plan()
        self.state = Convergence(converged=False, settled=False)
        self.store_error = ""
        self.tally = Tally()
        self._unsaved: list[Event] = []
        self._waits: dict[str, str] = {}
        """What each instance waits for that could not be started for it, in words."""

    def attach(self, executor: Executor) -> None:
        """The executor and the reconciler know each other; this one comes first."""
        self._executor = executor

    def spec_in_force(self, name: str) -> InstanceSpec:
        """What an instance runs, with the live fields that are declared for it now."""
        status = self.observed[name]
        return status.spec

    def models_of(self, name: str) -> tuple[ModelStatus, ...]:
        """What is observed of the models of an instance."""
        status = self.observed.get(name)
        return status.models if status is not None else ()

    async def run(self) -> None:
        """Pass after pass, until cancelled."""
        while True:
            wake_at = self.step()
            if self.store_error:
                wake_at = min(wake_at or float("inf"), boot_clock() + STORE_RETRY)
            timeout = None if wake_at is None else max(wake_at - boot_clock(), 0.0)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._bus.posted()

    def step(self) -> float | None:
        """One pass. Returns when to look again (boot clock) though nothing happens."""
        began = time.perf_counter()
        events: list[Event] = []
        for item in self._bus.drain():
            if isinstance(item, NewDesired):
                events += self._take_up(item)
            else:
                self._fold(item, events)
        submitted: list[tuple[Action, str]] = []
        was_converged = self.state.converged
        self._plan_and_submit(events, submitted)
        if self.state.converged and not was_converged:
            names = instances_of(self.desired or {})
            idle = sum(name in self.state.at_rest for name in names)
            said = how_many(len(names) - idle, idle, len(names))
            note = Event(EventType.CONVERGED, message=said)
            self._fold(self._bus.stamp(note), events)
        self._save(events)
        # Recorded: from here on a crash leaves nothing behind that a new daemon cannot find.
        for action, start_id in submitted:
            self._act(action, start_id)
        self._have_looked([event.instance for event in events if event.type is EventType.LOOK])
        self._bus.publish(events)
        apart = self.desired is not None and not self.state.converged
        self.tally.passed(time.perf_counter() - began, apart_since=boot_clock() if apart else None)
        return self.plan.wake_at

    def _fold(self, event: Event, events: list[Event]) -> None:
        event = self._said_before(addressed(event, self.observed))
        status = self.observed.get(event.instance)
        if event.type is EventType.EXITED and status and status.phase is Phase.STOPPING:
            # Nothing that crashed: the timeline names what it was stopped for.
            ended = str(event.data.get("ended", event.message))
            event = replace(event, reason=status.reason, message=ended)
        self.observed = fold(self.observed, event)
        self.tally.fold(event, status, self.observed.get(event.instance))
        events.append(event)

    def _said_before(self, event: Event) -> Event:
        """The event, marked where it is one more try of what waits for the same thing as before.

        What waits for days for a port, or for a server to attach to, must not fill the timeline.
        """
        name, again = event.instance, False
        if event.type is EventType.START_FAILED and event.data.get("waits"):
            again = self._waits.get(name) == event.message
            self._waits[name] = event.message
        elif event.type is EventType.WANTED:
            status = self.observed.get(name)
            again = status is not None and not status.rests
        elif event.type is EventType.STARTING:
            again = name in self._waits and event.reason == "restart"
        elif event.type in _WAITED_ENOUGH:
            self._waits.pop(name, None)
        return replace(event, data={**event.data, AGAIN: True}) if again else event

    def _take_up(self, new: NewDesired) -> list[Event]:
        events: list[Event] = []
        self.desired = as_observed(new.desired, self.observed)
        self.number = new.number
        self.forced = new.forced
        self.state = Convergence(converged=False, settled=False)
        if new.event is not None:
            self._fold(new.event, events)
        self._recognise(events)
        if new.renew:
            for name, anew in renewals(new.desired, self.observed, only=new.only).items():
                kind = EventType.REDO if anew else EventType.RELEASED
                self._fold(self._bus.stamp(Event(kind, name, reason="apply")), events)
            for name in [name for name, known in self.observed.items() if known.has_models]:
                self._fold(self._bus.stamp(Event(EventType.LOOK, name, reason="apply")), events)
        return events

    def _recognise(self, events: list[Event]) -> None:
        """What was adopted by its mark alone is what is declared, if that is what it runs."""
        for name, status in list(self.observed.items()):
            declared = (self.desired or {}).get(base_of(name))
            process = status.process
            if declared is None or process is None or not status.guessed:
                continue
            spec = next((one for one in variants(declared) if runs_as(process, one)), None)
            if spec is not None:
                message = "recognised as what is declared"
                # The process is; which models it has is not known yet, and for the plan to see to.
                runs = replace(spec, name=name, holds=status.spec.holds)
                self._fold(
                    self._bus.stamp(Event(EventType.UPDATED, name, message=message, spec=runs)),
                    events,
                )

    def _as_on_disk(self, action: Action) -> Action:
        """A start reads its files as they are now, whenever they were looked at before."""
        assert action.spec is not None, "a start carries its spec"
        inputs = tuple(
            replace(file, identity=identity_of(file.path) or file.identity)
            for file in action.spec.inputs
        )
        spec = replace(action.spec, inputs=inputs)
        name = base_of(action.instance)
        declared = (self.desired or {}).get(name)
        if declared is not None and replace(action.spec, name=name) in variants(declared):
            self.desired = {**(self.desired or {}), name: replace(declared, inputs=inputs)}
        return replace(action, spec=spec)

    def _plan_and_submit(self, events: list[Event], submitted: list[tuple[Action, str]]) -> None:
        if self.desired is None:
            self.plan = Plan()
            return
        budget: Budget | None = None
        use: InUse | None = None
        for _ in range(MAX_ROUNDS):
            self.plan = make_plan(self.desired, self.observed, boot_clock(), budget, use)
            if budget is None and self._counts_memory():
                budget = self._budget(self.observed) if self._budget is not None else None
                use = self._use()
                self.plan = make_plan(self.desired, self.observed, boot_clock(), budget, use)
            for name in self.plan.forget:
                self._fold(self._bus.stamp(Event(EventType.FORGOTTEN, name)), events)
            for planned in self.plan.actions:
                action = self._as_on_disk(planned) if planned.verb is Verb.START else planned
                start_id = uuid4().hex[:16]
                if action.verb is Verb.PROMOTE:
                    # Which run takes over: no other one, whatever happens meanwhile.
                    start_id = self.observed[next_of(action.instance)].start_id
                    # What was read of memory is by names that mean other processes from now on.
                    budget = None
                self._fold(self._bus.stamp(_submission(action, start_id)), events)
                submitted.append((action, start_id))
            if not self.plan.actions:
                break
        self.state = convergence(self.desired, self.observed, self.plan)

    def _counts_memory(self) -> bool:
        """Whether the plan starts something of which it is known how much memory it takes."""
        if self._budget is None or self.forced:
            return False
        starts = (one.spec for one in self.plan.actions if one.verb is Verb.START)
        return any(spec is not None and spec.demand is not None for spec in starts)

    def _save(self, events: Iterable[Event]) -> None:
        self._unsaved += events
        try:
            self._store.save(self.observed, self._unsaved)
        except StoreError as error:
            # The instances go on: their marks in the process table stand in for the record.
            del self._unsaved[:-1000]
            if not self.store_error:
                message = f"state cannot be saved: {error}; instances are kept running"
                self._bus.post(Event(EventType.STORE_ERROR, message=message))
            self.store_error = str(error)
            return
        self._unsaved.clear()
        if self.store_error:
            self.store_error = ""
            self._bus.post(Event(EventType.STORE_OK, message="state is saved again"))

    def _have_looked(self, names: Iterable[str]) -> None:
        """Which models these have is looked at now, and not when it would be time to."""
        assert self._executor is not None, "attached before the first pass"
        for name in names:
            self._executor.provision(name)

    def _act(self, action: Action, start_id: str) -> None:
        assert self._executor is not None, "attached before the first pass"
        if action.verb is Verb.START:
            assert action.spec is not None, "a start carries its spec"
            self._executor.start(action.spec, start_id)
        elif action.verb in (Verb.STOP, Verb.REPLACE):
            status = self.observed[action.instance]
            grace = 0.0 if action.reason == "hung" else status.spec.stop.grace
            self._executor.stop(
                action.instance, start_id=status.start_id, grace=grace, drain=status.drain
            )
        elif action.verb is Verb.KILL:
            self._executor.kill(action.instance)
        elif action.verb is Verb.PROMOTE:
            self._executor.promote(action.instance)
        elif action.verb is Verb.UPDATE:
            self._executor.retune(action.instance)
        elif action.verb is Verb.PROVISION:
            self._executor.provision(action.instance)


_WAITED_ENOUGH = frozenset({EventType.SPAWNED, EventType.ATTACHED, EventType.FORGOTTEN})

_SUBMITS = {
    Verb.START: EventType.STARTING,
    Verb.STOP: EventType.STOPPING,
    Verb.REPLACE: EventType.STOPPING,
    Verb.KILL: EventType.KILLING,
    Verb.UPDATE: EventType.UPDATED,
    Verb.PROVISION: EventType.UPDATED,
    Verb.PROMOTE: EventType.PROMOTED,
}


def _submission(action: Action, start_id: str) -> Event:
    """The event that records an action before it is carried out."""
    data = {"start_id": start_id} if action.verb in (Verb.START, Verb.PROMOTE) else {}
    return Event(
        _SUBMITS[action.verb],
        action.instance,
        reason=action.reason,
        message=action.message,
        data=data,
        spec=action.spec,
    )
