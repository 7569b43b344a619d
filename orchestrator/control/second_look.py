"""What is declared is resolved anew when the machine has changed in a way that bears on it.

Each look waits for events, compares levels, and asks the applied set to look again; what becomes
of that is the plan's to decide.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator, Mapping
from typing import Any

from orchestrator.control.applied import AppliedSet
from orchestrator.control.bus import Bus
from orchestrator.control.reconciler import Reconciler
from orchestrator.core.event import Event, EventType
from orchestrator.core.promise import kept_promises
from orchestrator.core.status import InstanceStatus, Phase, lost_its_port
from orchestrator.runtime import oom, ports
from orchestrator.runtime.marks import mark_of

LOOK_EVERY = 0.5
"""Seconds between looks at what failed instances hang on; nothing is looked at while none has."""


def looks(
    bus: Bus, reconciler: Reconciler, applied: AppliedSet
) -> Iterator[tuple[Coroutine[Any, Any, None], str]]:
    """Every look, with its name. Each goes on until it is cancelled."""
    yield _choose_ports_anew(bus, reconciler, applied), "choose ports anew"
    yield _find_promised_models(bus, reconciler, applied), "find promised models"
    yield _find_mended(bus, reconciler), "find what is mended"


async def _choose_ports_anew(bus: Bus, reconciler: Reconciler, applied: AppliedSet) -> None:
    """An automatic port that a stranger took in the meantime is given up for another."""
    subscription = bus.subscribe()
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
    subscription = bus.subscribe()
    while True:
        kept = kept_promises(reconciler.observed)
        specs = (reconciler.desired or {}).values()
        # One that was there, where it cannot be read, and has vanished is brought anew: perhaps
        # to where it can be found.
        if any(s.awaits is not None and s.awaits.kept != (s.awaits.model in kept) for s in specs):
            await applied.refresh(anew=True)
        await subscription.next()


async def _find_mended(bus: Bus, reconciler: Reconciler) -> None:
    """What failed for a file, for memory or for a port is told when that is otherwise."""
    subscription = bus.subscribe()
    before: Mapping[str, str] = {}
    while True:
        hanging = [status for status in reconciler.observed.values() if _hangs(status)]
        if not hanging:
            before = {}
            await subscription.next()
            continue
        # In a thread: a network mount that hangs must not hold up the loop.
        now = await asyncio.to_thread(_marks, hanging)
        for status in hanging:
            if what := await asyncio.to_thread(_what_is_mended, status, now, before):
                data = {"start_id": status.start_id}
                bus.post(Event(EventType.MENDED, status.name, message=what, data=data))
        before = now
        await asyncio.sleep(LOOK_EVERY)
        subscription.pending()


def _hangs(status: InstanceStatus) -> bool:
    """True for what something that can be looked at would bring another try."""
    if status.held:
        return False
    failed = status.phase is Phase.FAILED and status.mending is not None
    return failed or _waits_for_port(status)


def _waits_for_port(status: InstanceStatus) -> bool:
    # One that chooses its port chooses another.
    taken = status.phase is Phase.BACKOFF and status.reason == "port-taken"
    return taken and not status.spec.auto_port


def _marks(hanging: list[InstanceStatus]) -> dict[str, str]:
    paths = {file.path for one in hanging if one.mending for file in one.mending.files}
    return {path: mark_of(path) for path in paths}


def _what_is_mended(
    status: InstanceStatus, now: Mapping[str, str], before: Mapping[str, str]
) -> str:
    """What is otherwise than when it failed, for people; empty when all is as it was."""
    if _waits_for_port(status):
        endpoint = status.spec.endpoint
        free = not ports.conflicting(endpoint.host, endpoint.port, ports.listeners())
        return f"port {endpoint.port} is free" if free else ""
    assert status.mending is not None, "it hangs on something"
    for file in status.mending.files:
        mark = now[file.path]
        # What still changes from look to look is being written: it is waited for.
        if mark != file.mark and mark == before.get(file.path):
            return f"{file.path} has changed since it failed"
    needed = status.mending.memory
    if needed and oom.available(status.mending.groups) >= needed:
        return f"{needed / 2**20:,.0f} MiB are available again"
    return ""
