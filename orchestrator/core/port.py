"""Which port an instance with `port: auto` gets. Sticky: the same one for as long as it may be."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from zlib import crc32

from msgspec import Struct, field

LOW, HIGH = 18000, 28000
"""Where automatic ports are taken from, `HIGH` excluded."""


class PortChooser(Struct):
    """Gives each name a port; `chosen` grows as it does.

    `held` are ports given earlier, by name. `taken` are those that somebody else listens on or
    that a profile names for another instance; `ephemeral` is the kernel's own range, ends
    included. `home` is the state folder: of two daemons on one machine, neither begins where the
    other does, for a port that is chosen is free for anybody until it is listened on.
    """

    held: Mapping[str, int]
    taken: Collection[int]
    ephemeral: tuple[int, int]
    home: str = ""
    chosen: dict[str, int] = field(default_factory=dict[str, int])

    def choose(self, name: str) -> int:
        """The port it had, if that is still free; else one that depends on name and home alone."""
        if name in self.chosen:
            return self.chosen[name]
        kept = self.held.get(name)
        others = {port for other, port in self.held.items() if other != name}
        used = {*self.taken, *self.chosen.values()}
        if kept is not None and kept not in used:
            port = kept
        else:
            port = next(port for port in self._candidates(name) if port not in used | others)
        self.chosen[name] = port
        return port

    def _candidates(self, name: str) -> Iterator[int]:
        seed = f"{self.home}\0{name}".encode("utf-8", "surrogateescape")
        start = crc32(seed) % (HIGH - LOW)
        low, high = self.ephemeral
        for step in range(HIGH - LOW):
            port = LOW + (start + step) % (HIGH - LOW)
            if not low <= port <= high:
                yield port
        # The kernel was given our whole range: then anything that it was not given will do.
        yield from (port for port in range(1024, 65536) if not low <= port <= high)
