"""What is seen in the middle of a save is not believed: a file that is away, empty, or just being
written is looked at again, and counts as it is only when it stays so."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from msgspec import Struct

GONE_AFTER = 2.0
"""Seconds after which a file that is away or empty is meant to be: an editor that moves the old
one aside, or cuts it and writes anew, is through by then."""

WRITTEN_AFTER = 10.0
"""Seconds after which a file counts as it is though somebody has it open for writing, if nothing
was written meanwhile."""

LOOK_AGAIN = 0.5
"""Seconds between looks: the end of a save makes no notice on every file system."""


class Glimpse(Struct, frozen=True):
    """A file at one look. `revision` tells its contents from others.

    `written` is true when somebody has it open for writing, `bare` when it is away or empty.
    """

    path: str
    revision: str
    written: bool = False
    bare: bool = False


class InBetween:
    """Files that may be in the middle of a save, and since when they look as they do."""

    def __init__(self) -> None:
        self._since: dict[str, tuple[Glimpse, float]] = {}

    @property
    def paths(self) -> list[str]:
        """Files that are waited for, newcomers included."""
        return list(self._since)

    def sift(self, glimpses: Iterable[Glimpse], now: float) -> frozenset[str]:
        """Those of the files that are not to be believed yet; `now` is an instant in seconds.

        What is not among `glimpses` is waited for no more.
        """
        self._since = {
            glimpse.path: (glimpse, since) for glimpse, since in self._waiting(glimpses, now)
        }
        return frozenset(self._since)

    def _waiting(self, glimpses: Iterable[Glimpse], now: float) -> Iterator[tuple[Glimpse, float]]:
        for glimpse in glimpses:
            known, since = self._since.get(glimpse.path, (None, now))
            if known != glimpse:
                since = now
            patience = WRITTEN_AFTER if glimpse.written else GONE_AFTER if glimpse.bare else 0.0
            if now - since < patience:
                yield glimpse, since
