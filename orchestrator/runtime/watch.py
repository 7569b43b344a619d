"""Tells that applied files may have changed. Never says how: whoever asks compares contents.

The kernel's notices are waited for, at each place where a change to a path shows (`places.py`).
What does not notify (network shares, some mounts) is looked at on a slow timer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from orchestrator.runtime.places import Places, Stamp, places_of, stamp

RECHECK = 2.0
"""Seconds between looks at what may not notify."""

SURE = 0.1
"""Seconds after a change when it is told once more: the first look may have come in between two
writes that file times do not tell apart."""

QUIET = 0.01
"""Seconds without a notice after which a burst is over, at first."""

LONG_QUIET = 0.2
"""The same, for a burst that has gone on for long, or goes on after a change was told."""

SAME_BURST = 0.1
"""Seconds after a change was told in which another notice belongs to the same burst."""

LONGEST_BURST = 2.0
"""Seconds after which a burst that does not end is told nevertheless."""


class Watch:
    """Yields when something may have changed under `paths()`, which is asked anew each time.

    `due()` is the number of seconds after which a look is due in any case, None when none is.
    """

    def __init__(
        self, paths: Callable[[], list[str]], due: Callable[[], float | None] = lambda: None
    ) -> None:
        self._paths = paths
        self._due = due
        self._stirred = asyncio.Event()
        self._told = float("-inf")
        self.lack = ""
        """What the kernel lacks, so that some changes show on the slow timer alone; else empty."""

    def look_again(self) -> None:
        """The set of paths is another now."""
        self._stirred.set()

    async def changes(self) -> AsyncIterator[None]:
        """Forever. A burst is one change, or two: its beginning and its end."""
        # Slow to load, and of no use before the first instances are under way.
        from orchestrator.runtime.inotify import noticing

        seen: Stamp | None = None
        while True:
            paths = self._paths()
            # In a thread, here and below: a network mount that hangs must not hold up the loop.
            places = await asyncio.to_thread(places_of, paths)
            with noticing([place for place, *_ in places], self._stirred.set) as self.lack:
                # Places that changed before the watch stood made no notice: not sure of those yet.
                fresh, known, sure, due = not self.lack, None, True, None
                while self._paths() == paths:
                    now = await asyncio.to_thread(_look, paths, known)
                    if now is None:
                        break
                    changed = now != seen
                    if changed or not sure or due is not None:
                        seen = now
                        yield
                        if changed:
                            self._told = asyncio.get_running_loop().time()
                    sure, fresh, due = not (changed or fresh), False, self._due()
                    noticed = await self._stir(within=_soonest(paths, due, sure=sure))
                    if self.lack and sure and not noticed:
                        # By now the kernel may have some again.
                        break
                    known = places if noticed or not sure else None

    async def _stir(self, *, within: float | None) -> bool:
        """Until something happens, and that has come to an end; or false when the time is over."""
        try:
            async with asyncio.timeout(within):
                await self._stirred.wait()
        except TimeoutError:
            return False
        clock = asyncio.get_running_loop().time
        began = clock()
        quiet = LONG_QUIET if began - self._told < SAME_BURST else QUIET
        while self._stirred.is_set() and clock() - began < LONGEST_BURST:
            self._stirred.clear()
            await asyncio.sleep(quiet)
            # The longer it has gone on, the less a short silence means.
            quiet = min(LONG_QUIET, max(quiet, (clock() - began) / 2))
        return True


def _look(paths: list[str], known: Places | None) -> Stamp | None:
    """None when other places are to be watched than those `known`."""
    if known is not None and places_of(paths) != known:
        return None
    return stamp(paths)


def _soonest(paths: list[str], due: float | None, *, sure: bool) -> float | None:
    ends = [due, None if sure else SURE, RECHECK if paths else None]
    return min((end for end in ends if end is not None), default=None)
