"""What is offered in place of an unknown word, and how much is said about one bad file at all.

Both are bounded, for a hostile profile may hold thousands of words, each unknown.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import islice

from orchestrator.core.problem import did_you_mean, listing

MAX_ISSUES = 200
"""More than anybody reads."""

_LONGEST_WORD = 64
_MOST_CANDIDATES = 200


def suggest(word: str, known: Collection[str], *, limit: int = 8) -> str:
    """`did you mean 'port'?`, else the first `limit` words that are known, else nothing."""
    if len(word) < _LONGEST_WORD:
        as_long = (other for other in known if abs(len(other) - len(word)) <= 3)
        alike = list(islice(as_long, _MOST_CANDIDATES))
        near = did_you_mean(word, alike)
        if not near and (plain := word.lower().replace("-", "_")) != word:
            near = did_you_mean(plain, alike)
        if near:
            return near
    return f"known: {listing(list(known), limit=limit)}" if known else ""
