"""Circles among names that refer to each other: `needs` of instances, variables in variables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from graphlib import CycleError, TopologicalSorter


def find_cycles(graph: Mapping[str, Iterable[str]], *, limit: int = 20) -> list[list[str]]:
    """Circles in `graph` (name -> what it refers to), no two sharing a name, at most `limit`.

    Each reads `[a, b, a]`: a refers to b, b to a, and starts with the name that `graph` has
    first. Names that are no key of `graph` are passed over. Never recursive, however long a chain.
    """
    order = {name: position for position, name in enumerate(graph)}
    left = {name: [other for other in others if other in order] for name, others in graph.items()}
    found: list[list[str]] = []
    while len(found) < limit:
        try:
            TopologicalSorter(left).prepare()
        except CycleError as error:
            # Given as predecessor before successor, with the first name again at the end.
            circle: list[str] = list(reversed(error.args[1]))[:-1]
            start = circle.index(min(circle, key=order.__getitem__))
            found.append([*circle[start:], *circle[: start + 1]])
            gone = set(circle)
            left = {
                name: [other for other in others if other not in gone]
                for name, others in left.items()
                if name not in gone
            }
        else:
            break
    return found
