"""What is declared is resolved anew when the machine has changed in a way that bears on it.

Each look waits for events, compares levels, and asks the applied set to look again; what becomes
of that is the plan's to decide.
"""

from __future__ import annotations

from collections.abc import Coroutine, Iterator
from typing import Any

from orchestrator.control.applied import AppliedSet
from orchestrator.control.bus import Bus
from orchestrator.control.reconciler import Reconciler
from orchestrator.core.event import EventType
from orchestrator.core.promise import kept_promises
from orchestrator.core.status import lost_its_port


def looks(
    bus: Bus, reconciler: Reconciler, applied: AppliedSet
) -> Iterator[tuple[Coroutine[Any, Any, None], str]]:
    """Every look, with its name. Each goes on until it is cancelled."""
    yield _choose_ports_anew(bus, reconciler, applied), "choose ports anew"
    yield _find_promised_models(bus, reconciler, applied), "find promised models"


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
        awaited = {
            spec.awaits.model
            for spec in (reconciler.desired or {}).values()
            if spec.awaits is not None and not spec.awaits.kept
        }
        if awaited & kept_promises(reconciler.observed):
            await applied.refresh(anew=True)
        await subscription.next()
