"""How a model of an Ollama server is asked for a token without changing how long it stays. Pure.

Every request says, or leaves as it was said before, how many seconds the model stays in memory
after it. To say nothing would begin these seconds anew with each probe: nothing would ever leave
memory. To name the seconds that are left keeps the moment at which it leaves, but is also what
the next request that names none would get: so that is put right by the probe that follows it.
"""

from __future__ import annotations

import math

from msgspec import Struct
from msgspec.structs import replace

from orchestrator.core.residency import FOREVER, Loaded


class Hold(Struct, frozen=True):
    """What the last probe of a model left behind: its expiry at `until` (wall clock).

    It is to leave at `leaves`: a probe that took its time moved the expiry, and the next one moves
    it back. `told` is for how many seconds that probe said that it stays, infinite when it said
    nothing; `full` for how many others want it to.
    """

    until: float
    leaves: float
    told: float = math.inf
    full: float | None = None


class Terms(Struct, frozen=True):
    """How to ask: `keep_alive` in seconds, -1 for ever, None to say nothing of it."""

    keep_alive: float | None = None
    restores: bool = False


def terms(model: Loaded, hold: Hold | None, *, now: float, interval: float) -> Terms | None:
    """None: it is about to leave, and not to be asked any more."""
    if model.expires_at == FOREVER:
        return Terms(-1)
    left = model.expires_at - now
    if hold is None or left < 0:
        # Past its time and still there: somebody is using it.
        return Terms()
    if model.expires_at == hold.until:
        # The probe after this one must come in time to put right what this one says.
        left = hold.leaves - now
        return Terms(left) if left >= 2 * interval else None
    if left <= hold.told < math.inf:
        return Terms(hold.full, restores=True)
    return Terms()


def held(asked: Terms, hold: Hold | None, *, before: Loaded, after: Loaded, now: float) -> Hold:
    """What to remember of a model that was asked on those terms; `before` and `after` as shown.

    As long as others use it nothing of it changes, whatever was said.
    """
    until = after.expires_at
    if asked.keep_alive is not None and not asked.restores:
        leaves = hold.leaves if hold else until
        return Hold(until, leaves, asked.keep_alive, hold.full if hold else None)
    in_use = until == before.expires_at or before.expires_at < now
    if in_use:
        return replace(hold or Hold(until, until), until=until, leaves=until)
    return Hold(until, until, full=until - now)
