"""How far counts have risen lately, whatever they were before."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping


class Rises:
    """Of counts that only rise, over the last `span` seconds. `step`: seconds between two marks
    that are kept, so that a long span needs few."""

    def __init__(self, span: float, step: float = 0.0) -> None:
        self._span, self._step = span, step
        self._marks: deque[tuple[float, Mapping[str, int]]] = deque()
        self._now: tuple[float, Mapping[str, int]] = (0.0, {})

    def note(self, now: float, counts: Mapping[str, int]) -> None:
        """The counts of now; `now` is in seconds of any clock that only rises. While nobody noted
        anything, nothing rose."""
        marks = self._marks
        if marks and now - self._now[0] > self._span:
            marks.clear()
            marks.append((now, self._now[1]))
        self._now = (now, counts)
        if not marks or now - marks[-1][0] >= self._step:
            marks.append(self._now)
        while len(marks) > 1 and marks[0][0] < now - self._span:
            marks.popleft()

    def risen(self, key: str) -> int:
        """By how much it has risen within the span."""
        if not self._marks:
            return 0
        # What was corrected downwards did not rise.
        return max(self._now[1].get(key, 0) - self._marks[0][1].get(key, 0), 0)

    def rate(self, key: str) -> float:
        """The same for each second."""
        if not self._marks:
            return 0.0
        # Within less than a second it would say more than is known.
        return self.risen(key) / max(self._now[0] - self._marks[0][0], 1.0)
