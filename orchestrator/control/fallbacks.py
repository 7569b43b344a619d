"""Tells when what clients ask for is served by fallbacks too often, and when that has passed.

What the gateway has counted is compared with what its row of the status says already, so each is
told once, whichever daemon began with it.
"""

from __future__ import annotations

from orchestrator.control.bus import Bus
from orchestrator.control.reconciler import Reconciler
from orchestrator.core.event import Event, EventType
from orchestrator.core.fallback_rate import ALERT, too_many, words
from orchestrator.core.figures import Figures
from orchestrator.core.gateway_spec import GATEWAY


class Fallbacks:
    """One for the daemon."""

    def __init__(self, bus: Bus, reconciler: Reconciler) -> None:
        self._bus = bus
        self._reconciler = reconciler
        self._over: dict[str, float] = {}
        self._posted = ("", "")
        """The run that was told of last, and the words: the reconciler may not have heard yet."""

    def take(self, figures: Figures) -> None:
        """The gateway has counted."""
        status = self._reconciler.observed.get(GATEWAY)
        spec = (self._reconciler.desired or {}).get(GATEWAY)
        if status is None or spec is None or spec.gateway is None:
            return
        self._over = too_many(spec.gateway, figures.names, self._over)
        message = words(self._over)
        known = next((one.message for one in status.alerts if one.kind == ALERT), "")
        if message == known or (status.start_id, message) == self._posted:
            return
        self._posted = (status.start_id, message)
        kind = EventType.ALERT if message else EventType.ALERT_OVER
        data = {"start_id": status.start_id, "alert": ALERT}
        said = message or f"no longer: {known}"
        self._bus.post(Event(kind, GATEWAY, reason=ALERT, message=said, data=data))
