"""What is, at this moment, as one document: reads the owners' snapshots, changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from orchestrator.control.applied import AppliedSet
from orchestrator.control.attachment import ignored_settings
from orchestrator.control.reconciler import Reconciler
from orchestrator.core.report import instance_rows, status_document
from orchestrator.core.status import ALIVE
from orchestrator.runtime.files import is_stale
from orchestrator.runtime.identity import boot_clock
from orchestrator.runtime.usage import UsageMeter


class Overview:
    """Makes the status document. `describe` says who the daemon is, `notes` what ails it."""

    def __init__(
        self,
        *,
        version: str,
        reconciler: Reconciler,
        applied: AppliedSet,
        describe: Callable[[], dict[str, Any]],
        notes: Callable[[], list[str]],
    ) -> None:
        self._version = version
        self._reconciler = reconciler
        self._applied = applied
        self._describe = describe
        self._notes = notes
        self._meter = UsageMeter()

    def status(self) -> dict[str, Any]:
        """The document of `status --json`."""
        observed = self._reconciler.observed
        desired = self._reconciler.desired or {}
        leaders = {
            name: status.process for name, status in observed.items() if status.process is not None
        }
        foreign = {
            name: status.attached.pid
            for name, status in observed.items()
            if status.attached is not None and status.attached.pid is not None
        }
        stale = {
            name: is_stale(status.spec)
            for name, status in observed.items()
            if status.phase in ALIVE and status.managed
        }
        rows = instance_rows(
            desired,
            observed,
            self._reconciler.plan,
            now=boot_clock(),
            usage=self._meter.read(leaders, foreign),
            stale=stale,
        )
        warnings = [*self._applied.warnings(), *self._notes()]
        warnings += [
            f"{name} is attached to a server whose settings are its own: {ignored}"
            for name, status in observed.items()
            if not status.managed and (ignored := ignored_settings(status.spec))
        ]
        if self._reconciler.store_error:
            warnings.append(f"state cannot be saved: {self._reconciler.store_error}")
        document = status_document(
            version=self._version,
            daemon=self._describe(),
            profiles=self._applied.reports(),
            rows=rows,
            state=self._reconciler.state,
            warnings=warnings,
        )
        return {**document, "applied": self._reconciler.number}
