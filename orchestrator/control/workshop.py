"""What all provisioners of one daemon share: turns, and what is remembered on disk."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, Callable

from orchestrator.core.provision import kept_by, same_name
from orchestrator.core.shared_store import in_use
from orchestrator.core.spec import Desired, Imported
from orchestrator.core.status import Observed
from orchestrator.runtime.digests import Digests
from orchestrator.runtime.made import MadeRecord
from orchestrator.runtime.store_files import TimesKept
from orchestrator.runtime.whole import WholeRecord

PULLS = 3
"""Pulls at once. More only share the same line."""


class Workshop:
    """`desired` is what is applied now, None while that is not known; `observed` what runs, which
    may be something else: what was rolled back, say."""

    def __init__(
        self,
        cache_dir: str,
        desired: Callable[[], Desired | None],
        observed: Callable[[], Observed] = dict,
    ) -> None:
        self.digests = Digests(os.path.join(cache_dir, "digests.json"))
        self.made = MadeRecord(os.path.join(cache_dir, "made.json"))
        self.whole = WholeRecord(os.path.join(cache_dir, "whole.json"))
        self.times = TimesKept()
        self.pulls = asyncio.Semaphore(PULLS)
        self._desired = desired
        self._observed = observed
        self._turns: dict[tuple[str, str], asyncio.Lock] = {}

    def taken(self, store: str, name: str) -> bool:
        """Whether somebody works on that model of that store right now."""
        lock = self._turns.get((store, same_name(name)))
        return lock is not None and lock.locked()

    @contextlib.asynccontextmanager
    async def turn(self, store: str, name: str) -> AsyncGenerator[None]:
        """Alone with one model of a store: two instances that share it do not both pull."""
        async with self._turns.setdefault((store, same_name(name)), asyncio.Lock()):
            yield

    def imported_files(self) -> list[str]:
        """Files that may be blobs of a store as well, by a link."""
        specs = (self._desired() or {}).values()
        models = [model for spec in specs if spec.holds for model in spec.holds.models]
        origins = [model.origin for model in models]
        imported = [origin.files for origin in origins if isinstance(origin, Imported)]
        return [file.path for files in imported for file in files]

    def wanted_elsewhere(self, store: str, name: str) -> bool:
        """Whether that model is for a server with that store by what is applied, or by what runs.

        True as well while it is not known what is applied.
        """
        desired = self._desired()
        if desired is None:
            return True
        return kept_by(name, store, in_use(desired, self._observed())) is not None
