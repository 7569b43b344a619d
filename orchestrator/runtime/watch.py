"""Tells that applied files may have changed. Never says how: whoever asks compares contents.

The kernel's notices are waited for, at each place where a change to a path shows (`places.py`).
What does not notify (network shares, some mounts) is looked at on a slow timer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from msgspec import Struct
from msgspec.structs import replace

from orchestrator.runtime.beat import until_beat
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


class _Sight(Struct, frozen=True):
    """What is watched, how it looks, and where a change to it shows."""

    paths: list[str]
    stamp: Stamp
    places: Places


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
        self._noticed = float("-inf")
        self._told = float("-inf")
        self.lack = ""
        """What the kernel lacks, so that some changes show on the slow timer alone; else empty."""

    def look_again(self) -> None:
        """The set of paths is another now."""
        self._stirred.set()

    async def changes(self) -> AsyncIterator[None]:
        """Forever. A burst is one change, or two: its beginning and its end."""
        # Of no use before the first instances are under way.
        from orchestrator.runtime.inotify import Notices

        seen: Stamp | None = None
        sure, due = True, None
        with Notices(self._notice) as notices:
            sight = await self._look(None)
            self.lack, fresh = notices.watch(sight.places), True
            while True:
                changed = sight.stamp != seen
                if changed or not sure or due is not None:
                    seen = sight.stamp
                    yield
                    if changed:
                        self._told = _clock()
                # What changed before it was watched made no notice.
                sure, due = not (changed or fresh), self._due()
                noticed = await self._stir(within=_soonest(sight.paths, due, sure=sure))
                before, sight = sight, await self._look(None if noticed or not sure else sight)
                lacked, fresh = self.lack, notices.lost or sight.places != before.places
                if lacked or fresh:
                    # A kernel that had none left may have some again.
                    self.lack = notices.watch(sight.places)
                    fresh = fresh or not self.lack

    async def _look(self, known: _Sight | None) -> _Sight:
        """At everything; but only at whether files changed, if the rest is `known`."""
        paths = self._paths()
        if known is not None and known.paths == paths:
            return replace(known, stamp=await asyncio.to_thread(stamp, paths))
        # In a thread, as above: a network mount that hangs must not hold up the loop.
        return _Sight(paths, *await asyncio.to_thread(lambda: (stamp(paths), places_of(paths))))

    def _notice(self) -> None:
        self._noticed = _clock()
        self._stirred.set()

    async def _stir(self, *, within: float | None) -> bool:
        """Until something happens, and that has come to an end; or false when the time is over."""
        try:
            async with asyncio.timeout(within):
                await self._stirred.wait()
        except TimeoutError:
            return False
        began = _clock()
        least = LONG_QUIET if began - self._told < SAME_BURST else QUIET
        while (spent := _clock() - began) < LONGEST_BURST:
            # The longer it has gone on, the less a short silence means.
            quiet = min(LONG_QUIET, max(least, spent / 2))
            rest = self._noticed + quiet - _clock()
            if rest <= 0:
                break
            await asyncio.sleep(rest)
        self._stirred.clear()
        return True


def _clock() -> float:
    return asyncio.get_running_loop().time()


def _soonest(paths: list[str], due: float | None, *, sure: bool) -> float | None:
    recheck = until_beat(RECHECK, tolerance=RECHECK / 2) if paths else None
    ends = [due, None if sure else SURE, recheck]
    return min((end for end in ends if end is not None), default=None)
