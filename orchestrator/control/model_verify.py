"""Looks at the files of the models of one server now and then, and has mended what is damaged.

It looks at names, sizes and identities, which costs a `stat` for each blob. Which files those were
when they were last known to be whole is remembered on disk: one that is another file now, or was
written to, is read and compared with its digest. What was never seen before is taken for whole.
Only where the store's folder is known, so never for a server that was attached to.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from orchestrator.control.model_damage import damage_of, read_whole
from orchestrator.control.model_making import Making
from orchestrator.control.model_work import Bench
from orchestrator.core.spec import FileIdentity
from orchestrator.discovery.verify import Check, Fault, Glance, glance
from orchestrator.runtime.files import identity_of


class Verifying:
    """One look at a time. `nudge` is called when there is something to mend."""

    def __init__(
        self,
        bench: Bench,
        making: Making,
        suspected: set[str],
        *,
        nudge: Callable[[], None],
        bug: Callable[[str], None],
    ) -> None:
        self._bench = bench
        self._making = making
        self._suspected = suspected
        """Blobs that somebody says are damaged: whatever they look like, they are read."""
        self._nudge = nudge
        self._bug = bug
        self._last: float | None = None
        """When all of them were looked at last: not yet, by this daemon."""
        self._seen: set[str] = set()
        """Those that were looked at, ever."""
        self._bad: dict[str, tuple[FileIdentity, Fault]] = {}
        """Blobs that are not what their digest says, by path: they need not be read again."""
        self._task: asyncio.Task[None] | None = None

    async def end(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def begin(self, names: Sequence[str], interval: float | None) -> float | None:
        """Look if it is time to; seconds until it is.

        All are looked at as soon as there are some, and each when it has come: a change is seen
        by what was before it.
        """
        if self._bench.store is None or not names or (interval is None and not self._suspected):
            return None
        if self._task is not None and not self._task.done():
            return None
        left = 0.0
        if self._last is not None and interval is not None and not self._suspected:
            left = self._last + interval - time.monotonic()
        new = [name for name in names if name not in self._seen]
        if left > 0 and not new:
            return left
        work = self._guarded(new if left > 0 else names, all_of_them=left <= 0)
        self._task = asyncio.create_task(work, name="verify models")
        return interval

    async def _guarded(self, names: Sequence[str], *, all_of_them: bool) -> None:
        try:
            await self._look(names)
        except Exception as error:  # noqa: BLE001 - a task boundary: the bug becomes an event
            self._bug(f"verify: {error!r}")
        finally:
            self._seen.update(names)
            if all_of_them:
                self._last = time.monotonic()

    async def _look(self, names: Sequence[str]) -> None:
        store = self._bench.store
        assert store is not None, "only a store that is known is looked at"
        whole: dict[str, FileIdentity] = {}
        found = False
        suspected = frozenset(self._suspected)
        for name in names:
            seen = await asyncio.to_thread(glance, store, name)
            fault = seen.fault or await self._changed(seen, whole, suspected)
            if fault is not None and fault.reason != "unreadable" and not self._making.busy(name):
                self._making.is_damaged(name, await damage_of(fault))
                found = True
        self._suspected -= suspected
        self._bench.workshop.whole.add(whole)
        if found:
            self._nudge()

    async def _changed(
        self, seen: Glance, whole: dict[str, FileIdentity], suspected: frozenset[str]
    ) -> Fault | None:
        """What is wrong with a model's blobs that are not the files that they were, or are
        `suspected`. Those that are well are added to `whole`."""
        for check in seen.blobs:
            path, identity = check.path, seen.seen[check.path]
            known = whole.get(path) or self._bench.workshop.whole.find(path)
            changed = known is not None and known != identity
            if changed or (path in suspected and path not in whole):
                fault = await self._read(check, identity)
                if await asyncio.to_thread(identity_of, path) != identity:
                    # Somebody writes to it right now: the next look sees what has come of that.
                    continue
                if fault is not None:
                    self._bad[path] = (identity, fault)
                    return fault
            whole[path] = identity
        return None

    async def _read(self, check: Check, identity: FileIdentity) -> Fault | None:
        bad = self._bad.get(check.path)
        if bad is not None and bad[0] == identity:
            return bad[1]
        return await read_whole(check)
