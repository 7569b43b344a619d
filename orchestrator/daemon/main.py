"""One daemon for a state folder: takes the lock, opens the store, lives, and gives both back."""

from __future__ import annotations

import asyncio
import os

from orchestrator.daemon.life import Life
from orchestrator.daemon.options import Options
from orchestrator.errors import OrchestrateError
from orchestrator.runtime import descriptors, lock
from orchestrator.runtime.stall import StallWatch
from orchestrator.runtime.state import Store
from orchestrator.settings import Settings


class AlreadyRunningError(OrchestrateError):
    """Another daemon has this state folder; `pid` is its process, where known."""

    exit_code = 2
    reason = "already-running"

    def __init__(self, pid: int | None) -> None:
        super().__init__(
            f"a daemon (pid {pid}) already runs for this state folder",
            hint="`orchestrate daemon stop` ends it, or set another ORCHESTRATE_STATE_DIR",
        )
        self.pid = pid


def run(settings: Settings, options: Options) -> None:
    """Until told to end. Raises `AlreadyRunningError`, or what the first apply could not do."""
    descriptors.raise_limit()
    stall = StallWatch()
    with asyncio.Runner(loop_factory=stall.new_loop) as runner:
        runner.run(_run(settings, options, stall))


async def _run(settings: Settings, options: Options, stall: StallWatch) -> None:
    settings.prepare()
    held = lock.acquire(settings.lock_path)
    if held is None:
        raise AlreadyRunningError(lock.holder(settings.lock_path))
    try:
        store = Store.open(settings.store_path)
        try:
            life = Life(settings, options, store)
            with stall.watching(life.tell_of_a_stall):
                await life.live()
        finally:
            store.close()
    finally:
        os.close(held)
