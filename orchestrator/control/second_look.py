"""What is declared is resolved anew when the machine has changed in a way that bears on it.

Each look waits for events, compares levels, and asks the applied set to look again; what becomes
of that is the plan's to decide. A look that fails says so, and goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Mapping
from functools import partial
from typing import Any

from orchestrator.control.applied import AppliedSet
from orchestrator.control.bus import Bus
from orchestrator.control.guard import going_on
from orchestrator.control.reconciler import Reconciler
from orchestrator.core.event import Event, EventType
from orchestrator.core.promise import kept_promises
from orchestrator.core.status import InstanceStatus, Observed, Phase, lost_its_port
from orchestrator.runtime import oom, ports
from orchestrator.runtime.marks import mark_of

LOOK_EVERY = 0.5
"""Seconds between looks at what failed instances hang on; nothing is looked at while none has."""


def looks(
    bus: Bus, reconciler: Reconciler, applied: AppliedSet
) -> Iterable[tuple[Coroutine[Any, Any, None], str]]:
    """Every look, with its name. Each goes on until it is cancelled."""
    for look, name in (
        (partial(_choose_ports_anew, bus, reconciler, applied), "choose ports anew"),
        (partial(_find_promised_models, bus, reconciler, applied), "find promised models"),
        (partial(_find_mended, bus, reconciler), "find what is mended"),
    ):
        yield going_on(look, name, bus), name


async def _choose_ports_anew(bus: Bus, reconciler: Reconciler, applied: AppliedSet) -> None:
    """An automatic port that a stranger took in the meantime is given up for another."""
    with bus.listening() as subscription:
        # One may have failed before anybody listened here.
        failed = list(reconciler.observed)
        while True:
            observed = reconciler.observed
            if any(lost_its_port(observed[name]) for name in failed if name in observed):
                await applied.refresh(anew=True)
            failed = [
                event.instance
                for event in await subscription.next()
                if event.type is EventType.START_FAILED
            ]


async def _find_promised_models(bus: Bus, reconciler: Reconciler, applied: AppliedSet) -> None:
    """A model that a llama-server waits for is looked for once its Ollama instance has it."""
    with bus.listening() as subscription:
        before: set[tuple[str, str, bool]] = set()
        while True:
            kept = kept_promises(reconciler.observed)
            # One that was there, where it cannot be read, and has vanished is brought anew: perhaps
            # to where it can be found.
            other = {
                (spec.name, awaited.model, awaited.model in kept)
                for spec in (reconciler.desired or {}).values()
                if (awaited := spec.awaits) is not None and awaited.kept != (awaited.model in kept)
            }
            # What resolving did not change once, it changes no more until something else does.
            if other - before:
                await applied.refresh(anew=True)
            before = other
            await subscription.next()


async def _find_mended(bus: Bus, reconciler: Reconciler) -> None:
    """What failed for a file, for memory or for a port is told when that is otherwise."""
    with bus.listening() as subscription:
        looking = _Looking()
        while True:
            hanging = [status for status in reconciler.observed.values() if _hangs(status)]
            if not hanging:
                looking = _Looking()
                await subscription.next()
                continue
            # In a thread: a network mount that hangs must not hold up the loop.
            for event in await asyncio.to_thread(looking.look, hanging, reconciler.observed):
                bus.post(event)
            await asyncio.sleep(LOOK_EVERY)
            subscription.pending()


def _hangs(status: InstanceStatus) -> bool:
    """True for what something that can be looked at would bring another try."""
    if status.held:
        return False
    never = status.spec.restart.policy == "never"
    failed = status.phase is Phase.FAILED and status.mending is not None and not never
    return failed or _waits_for_port(status)


def _waits_for_port(status: InstanceStatus) -> bool:
    # One that chooses its port chooses another.
    taken = status.phase is Phase.BACKOFF and status.reason == "port-taken"
    return taken and not status.spec.auto_port


class _Looking:
    """Levels, from one look to the next: only what lasts for two looks counts."""

    def __init__(self) -> None:
        self._marks: Mapping[str, str] = {}
        self._taken: frozenset[str] = frozenset()
        """Those whose port was seen taken."""
        self._roomy: frozenset[str] = frozenset()
        """Those for which there was enough memory."""
        self._promised: dict[str, tuple[str, int]] = {}
        """By the instance that was let go for it: the run that had failed, and so many bytes."""

    def look(self, hanging: list[InstanceStatus], observed: Observed) -> list[Event]:
        """What is mended. Reads files and tables: not for the event loop."""
        paths = {file.path for one in hanging if one.mending for file in one.mending.files}
        marks = {path: mark_of(path) for path in paths}
        found = self._freed_ports([one for one in hanging if _waits_for_port(one)])
        failed = [one for one in hanging if not _waits_for_port(one)]
        for status in failed:
            if what := self._changed(status, marks):
                found.append(_mended(status, what))
        self._marks = marks
        told = {event.instance for event in found}
        return [*found, *self._room([one for one in failed if one.name not in told], observed)]

    def _freed_ports(self, waiting: list[InstanceStatus]) -> list[Event]:
        listeners = ports.listeners() if waiting else []
        taken = {
            status.name
            for status in waiting
            if ports.conflicting(status.spec.endpoint.host, status.spec.endpoint.port, listeners)
        }
        found = [
            _mended(status, f"port {status.spec.endpoint.port} is free")
            for status in waiting
            # What is not seen taken is kept for another reason: only time tells when that is over.
            if status.name in self._taken and status.name not in taken
        ]
        self._taken = frozenset(taken)
        return found

    def _changed(self, status: InstanceStatus, marks: Mapping[str, str]) -> str:
        assert status.mending is not None, "it hangs on something"
        for file in status.mending.files:
            mark = marks[file.path]
            # What still changes from look to look is being written: it is waited for.
            if mark != file.mark and mark == self._marks.get(file.path):
                return f"{file.path} has changed since it failed"
        return ""

    def _room(self, failed: list[InstanceStatus], observed: Observed) -> list[Event]:
        """The first for which there is memory, at this look and the last."""
        self._promised = {
            name: (run, needed)
            for name, (run, needed) in self._promised.items()
            if name in observed and _is_coming(observed[name], run)
        }
        # Whoever was let go has not taken its memory yet: it is not there for another.
        spoken_for = sum(needed for _, needed in self._promised.values())
        roomy: set[str] = set()
        found: list[Event] = []
        for status in failed:
            assert status.mending is not None, "it hangs on something"
            needed = status.mending.memory
            if not needed or status.name in self._promised:
                continue
            if oom.available(status.mending.groups) - spoken_for < needed:
                continue
            roomy.add(status.name)
            if status.name in self._roomy and not found:
                self._promised[status.name] = (status.start_id, needed)
                told = f"{needed / 2**20:,.0f} MiB are available again"
                found.append(_mended(status, told, memory=True))
        # Of the others each has to see that there is room beside this one.
        self._roomy = frozenset() if found else frozenset(roomy)
        return found


def _is_coming(status: InstanceStatus, run: str) -> bool:
    """True from when it is let go after that run until it is ready, or has failed once more."""
    if status.start_id == run:
        return status.phase in (Phase.FAILED, Phase.BACKOFF)
    return status.phase is Phase.STARTING


def _mended(status: InstanceStatus, what: str, *, memory: bool = False) -> Event:
    data = {"start_id": status.start_id, **({"memory": True} if memory else {})}
    return Event(EventType.MENDED, status.name, message=what, data=data)
