"""The status, made once for however many ask for it at the same time."""

from __future__ import annotations

from time import monotonic
from typing import Any

from orchestrator.api.answers import encoded
from orchestrator.control.overview import Overview
from orchestrator.control.reconciler import Reconciler

KEPT = 0.1
"""Seconds that one is shown again while nothing was planned anew: memory and CPU are not measured
more often either."""


class Snapshots:
    """Any pass of the reconciler makes a new one necessary."""

    def __init__(self, overview: Overview, reconciler: Reconciler) -> None:
        self._overview = overview
        self._reconciler = reconciler
        self._made_of: object = None
        self._until = 0.0
        self._document: dict[str, Any] = {}
        self._bytes = b""

    def document(self) -> dict[str, Any]:
        """As `status --json`; not to be changed."""
        self._renew()
        return self._document

    def json(self) -> bytes:
        """The same as it is sent."""
        self._renew()
        if not self._bytes:
            self._bytes = encoded(self._document)
        return self._bytes

    def _renew(self) -> None:
        # Every pass makes a plan of its own, and kept here it cannot be mistaken for a later one.
        plan = self._reconciler.plan
        if plan is self._made_of and monotonic() < self._until:
            return
        self._document, self._bytes = self._overview.status(), b""
        self._made_of, self._until = plan, monotonic() + KEPT
