"""Something moves wherever a person waits: work in a thread, and meanwhile what it changes."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Collection
from typing import TypeVar

from orchestrator.cli.client import Client
from orchestrator.cli.render import every_row
from orchestrator.errors import NoDaemonError
from orchestrator.settings import Settings

Result = TypeVar("Result")


def while_watching(
    settings: Settings, names: Collection[str], work: Callable[[], Result]
) -> Result:
    """The result of `work`; on a terminal, instances (`names`, or all) are shown as they move."""
    if not sys.stderr.isatty():
        return work()
    # Which takes 10 ms to load: nobody waits for it where nobody looks.
    from concurrent.futures import ThreadPoolExecutor

    from orchestrator.cli.progress import LiveProgress

    threads = ThreadPoolExecutor(1)
    future = threads.submit(work)
    shown = LiveProgress()
    # The daemon may end, for that may be what was asked for.
    with contextlib.suppress(NoDaemonError):
        for snapshot in Client(settings).snapshots(refresh_ms=100):
            rows = every_row(snapshot["status"])
            chosen = [row for row in rows if not names or row["name"] in names]
            shown.show({"status": {"instances": chosen}, "events": []})
            if future.done():
                break
    shown.close()
    threads.shutdown()
    return future.result()
