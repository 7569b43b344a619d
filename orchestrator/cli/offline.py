"""What the store knows when no daemon answers: read only, checked against the process table."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator
from typing import Any

from msgspec.structs import replace

from orchestrator import __version__
from orchestrator.core.convergence import Convergence
from orchestrator.core.plan import Plan
from orchestrator.core.report import ProfileReport, instance_rows, status_document
from orchestrator.core.status import ALIVE, InstanceStatus, Observed, Phase
from orchestrator.core.union import unite
from orchestrator.runtime.files import is_stale
from orchestrator.runtime.identity import boot_clock, boot_id, read_stat
from orchestrator.runtime.ports import conflicting, listeners
from orchestrator.runtime.state import Store
from orchestrator.runtime.usage import UsageMeter
from orchestrator.settings import Settings


def status_without_daemon(settings: Settings) -> dict[str, Any]:
    """The status document, with `"daemon": null`."""
    with _store(settings) as store:
        applied = store.applied() if store is not None else None
        observed = _observed(store)
    files = applied.files if applied is not None else []
    desired = unite(files)[0]
    leaders = {name: s.process for name, s in observed.items() if s.process is not None}
    missing = [f"{name}: no daemon looks after it" for name in desired]
    rows = instance_rows(
        desired,
        observed,
        Plan(),
        now=boot_clock(),
        usage=UsageMeter().read(leaders),
        stale={name: is_stale(s.spec) for name, s in observed.items() if s.process is not None},
    )
    return status_document(
        version=__version__,
        daemon=None,
        profiles=[ProfileReport(f.name, f.file, f.revision, os.path.exists(f.file)) for f in files],
        rows=rows,
        state=Convergence(converged=False, settled=True, missing=tuple(missing)),
    ) | {"applied": 0}


def observed_without_daemon(settings: Settings) -> Observed:
    """What was last recorded, less the processes that have ended since."""
    with _store(settings) as store:
        return _observed(store)


def ports_without_daemon(settings: Settings) -> dict[str, int]:
    """Sticky ports, as recorded."""
    with _store(settings) as store:
        return store.ports() if store is not None else {}


@contextlib.contextmanager
def _store(settings: Settings) -> Generator[Store | None]:
    store = Store.open_to_read(settings.store_path)
    try:
        yield store
    finally:
        if store is not None:
            store.close()


def _observed(store: Store | None) -> Observed:
    if store is None:
        return {}
    return {name: _checked(status) for name, status in store.observed().items()}


def _checked(status: InstanceStatus) -> InstanceStatus:
    if status.phase not in ALIVE or _is_there(status):
        return status
    message = "ended while no daemon was running"
    return replace(status, phase=Phase.STOPPED, process=None, reason="", message=message)


def _is_there(status: InstanceStatus) -> bool:
    """Whether the process runs; of a server that somebody else runs, whether one listens there."""
    ref, endpoint = status.process, status.spec.endpoint
    if status.attached is not None:
        return bool(conflicting(endpoint.connect_host, endpoint.port, listeners()))
    stat = read_stat(ref.pid) if ref is not None and ref.boot_id == boot_id() else None
    return (
        ref is not None and stat is not None and stat.living and stat.start_ticks == ref.start_ticks
    )
