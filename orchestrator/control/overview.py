"""What is, at this moment, as one document: reads the owners' snapshots, changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from orchestrator.control.applied import AppliedSet
from orchestrator.control.attachment import ignored_settings
from orchestrator.control.reconciler import Reconciler
from orchestrator.control.traffic import Traffic
from orchestrator.core.gateway_spec import GATEWAY
from orchestrator.core.report import Usage, instance_rows, status_document
from orchestrator.core.spec import FileIdentity, InstanceSpec
from orchestrator.core.status import ALIVE, InstanceStatus, ProcessRef
from orchestrator.runtime.files import is_stale
from orchestrator.runtime.identity import boot_clock
from orchestrator.runtime.usage import UsageMeter

FILES_EVERY = 1.0
"""Seconds between two looks at whether files of instances have changed."""

MEASURED_EVERY = 1.0
"""Seconds between two looks at what the same processes take: each costs a part of a millisecond for
every ten of them."""


class Overview:
    """Makes the status document. `describe` says who the daemon is, `notes` what ails it."""

    def __init__(
        self,
        *,
        version: str,
        reconciler: Reconciler,
        applied: AppliedSet,
        traffic: Traffic,
        describe: Callable[[], dict[str, Any]],
        notes: Callable[[], list[str]],
    ) -> None:
        self._version = version
        self._reconciler = reconciler
        self._applied = applied
        self._traffic = traffic
        self._describe = describe
        self._notes = notes
        self._meter = UsageMeter()
        self._usage: dict[str, Usage] = {}
        self._measured: tuple[dict[str, ProcessRef], dict[str, int]] = ({}, {})
        self._measures_again = 0.0
        self._stale: dict[str, tuple[InstanceSpec, bool]] = {}
        self._looks_again = 0.0

    def usage(self) -> dict[str, Usage]:
        """What each instance takes, by name; its CPU over the time since the last look, which is
        `MEASURED_EVERY` seconds ago at least while the processes are the same."""
        ours, theirs = processes(self._reconciler.observed.values())
        measured, now = (ours, theirs), boot_clock()
        if measured != self._measured or now >= self._measures_again:
            self._usage = self._meter.read(ours, theirs)
            self._measured, self._measures_again = measured, now + MEASURED_EVERY
        return self._usage

    def _stale_now(self) -> dict[str, bool]:
        """Whose files are others on disk now: looked at once a second, however many ask."""
        now = boot_clock()
        if now >= self._looks_again:
            self._stale, self._looks_again = {}, now + FILES_EVERY
        seen: dict[str, FileIdentity | None] = {}
        for name, status in self._reconciler.observed.items():
            known = self._stale.get(name)
            if status.phase not in ALIVE or not status.managed:
                self._stale.pop(name, None)
            elif known is None or known[0] is not status.spec:
                self._stale[name] = (status.spec, is_stale(status.spec, seen))
        return {name: stale for name, (_, stale) in self._stale.items()}

    def missing(self) -> list[str]:
        """What is not as declared, or not ready yet, a line each: nothing while converged.

        Reads no process table and no file: it may be asked after every pass.
        """
        state = self._reconciler.state
        invalid = [f"{one.file} is invalid" for one in self._applied.reports() if not one.ok]
        if state.converged or state.missing or invalid:
            return [*state.missing, *invalid]
        known = self._reconciler.desired is not None
        return ["it begins" if known else "it is not known what is applied: apply, or down"]

    def status(self) -> dict[str, Any]:
        """The document of `status --json`."""
        observed = self._reconciler.observed
        desired = self._reconciler.desired or {}
        rows = instance_rows(
            desired,
            observed,
            self._reconciler.plan,
            now=boot_clock(),
            usage=self.usage(),
            stale=self._stale_now(),
            requests=self._traffic.by_instance(),
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
            names=self._traffic.names() if GATEWAY in desired or GATEWAY in observed else (),
        )
        return {**document, "applied": self._reconciler.number}


def processes(
    observed: Iterable[InstanceStatus],
) -> tuple[dict[str, ProcessRef], dict[str, int]]:
    """The processes of ours, and the pids of servers that were attached to, by instance."""
    ours: dict[str, ProcessRef] = {}
    theirs: dict[str, int] = {}
    for status in observed:
        if status.process is not None:
            ours[status.name] = status.process
        elif status.attached is not None and status.attached.pid is not None:
            theirs[status.name] = status.attached.pid
    return ours, theirs
