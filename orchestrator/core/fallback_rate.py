"""Whether too much of what clients ask for is served by a fallback. Pure.

The gateway counts, by name, over its last requests (`NameFigures.recent`); what is too much is the
profile's to say.
"""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.core.alerts import CALM
from orchestrator.core.figures import NameFigures
from orchestrator.core.gateway_spec import GatewaySpec

ALERT = "fallbacks"


def too_many(
    spec: GatewaySpec, names: Mapping[str, NameFigures], raised: Mapping[str, float]
) -> dict[str, float]:
    """The routes of which more than their `warn` goes to a fallback, with that percentage. `raised`
    are those of which it was so until now: about the limit it must not flutter."""
    found: dict[str, float] = {}
    for route in spec.routes:
        told = names.get(route.name)
        if route.warn is None or told is None or told.recent is None:
            continue
        limit = route.warn * (CALM if route.name in raised else 1.0)
        if told.recent * 100.0 > limit:
            found[route.name] = route.warn
    return found


def words(found: Mapping[str, float]) -> str:
    """For people: the same for as long as the same routes are meant, whatever the percentage."""
    said = [f"more than {warn:g}% of what asks for {name}" for name, warn in found.items()]
    return f"{', '.join(said)} is served by a fallback" if said else ""
