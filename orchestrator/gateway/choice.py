"""Which of those that could serve a request does. Pure, but for the count of whose turn it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from msgspec import Struct, field

from orchestrator.gateway.affinity import Key, rank
from orchestrator.gateway.table import Aim, Target

Choice = tuple[Aim, Target]
Load = Callable[[Target], float]
"""How busy a target is, of what it can take: 1 or more has no free slot."""


class Turns(Struct):
    """Chooses among aims: first the side, where weights divide a name, then a target in it.

    A side gets its share in the long run exactly (smooth weighted round robin); a session stays
    with its side. Inside, the least busy is chosen, and equals take turns; a key goes to the same
    target each time, for as long as that is worth it.
    """

    _owed: Counter[str] = field(default_factory=Counter[str])
    _turn: int = 0

    def choose(self, serving: Sequence[Choice], load: Load, key: Key | None) -> Choice | None:
        """One that has a free slot. None when there is none: then nothing is counted."""
        free = [one for one in serving if load(one[1]) < 1.0]
        if len(free) < 2:
            return free[0] if free else None
        weights = {aim.side: aim.weight for aim, _ in free}
        if len(weights) > 1:
            side = self._side(weights, key)
            free = [one for one in free if one[0].side == side]
            serving = [one for one in serving if one[0].side == side]
        if key is None:
            self._turn += 1
            free = [*free[self._turn % len(free) :], *free[: self._turn % len(free)]]
            return min(free, key=lambda one: load(one[1]))
        if key.firm:
            first = min(serving, key=lambda one: rank(key, one[1].name))
            if first in free:
                return first
        return min(free, key=lambda one: (load(one[1]), rank(key, one[1].name)))

    def _side(self, weights: Mapping[str, int], key: Key | None) -> str:
        if key is not None and key.session:
            return min(weights, key=lambda side: rank(key, side, weights[side]))
        for side, weight in weights.items():
            self._owed[side] += weight
        chosen = max(weights, key=lambda side: self._owed[side])
        self._owed[chosen] -= sum(weights.values())
        return chosen
