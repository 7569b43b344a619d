"""One pulse for all that is looked at now and then.

To wake up costs an idle daemon more than most of what it then looks at: what is due at about the
same time is done on one beat.
"""

from __future__ import annotations

import math
import time

BEAT = 2.0
"""Seconds between two beats of the slow pulse."""

QUICKEST = 0.001
"""What has to be more exact than so many seconds keeps to no beat."""


def on_beat(at: float, tolerance: float) -> float:
    """The beat nearest to an instant of the monotonic clock, and no further than so many seconds.

    What may be off by less keeps to a quicker pulse, a half, a quarter... of the slow one.
    """
    if tolerance < QUICKEST:
        return at
    beat = BEAT
    while beat > 2 * tolerance:
        beat /= 2
    return beat * math.floor(at / beat + 0.5)


def until_beat(seconds: float, tolerance: float | None = None) -> float:
    """Seconds from now to the beat that is about `seconds` away: never less than half of them.

    By default it may come an eighth of the time too early or too late.
    """
    now = time.monotonic()
    off = seconds / 8 if tolerance is None else tolerance
    return max(on_beat(now + seconds, off) - now, seconds / 2)
