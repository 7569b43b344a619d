"""All connections of clients together: how many there may be, and what their requests may weigh."""

from __future__ import annotations

import contextlib
import resource
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.gateway.inbound import Inbound

SPARE = 64
"""File descriptors for anything but clients and what is asked for them."""

MOST = 16384
"""Connections, where the system allows for more."""

MOST_HELD = 512 << 20
"""Bytes of bodies that are there at a time, with what they are read into."""


class Clients:
    """The connections there are. `held` counts the bytes of requests whose answers have not begun,
    with what their bodies are read into."""

    def __init__(self, most: int = MOST, most_held: int = MOST_HELD) -> None:
        self.most = most
        self.most_held = most_held
        self.held = 0
        self.everyone: set[Inbound] = set()

    def admit(self, client: Inbound) -> bool:
        """Take one more, where there is room for it."""
        if len(self.everyone) >= self.most:
            return False
        self.everyone.add(client)
        return True

    def leave(self, client: Inbound) -> None:
        """It is gone, or was never taken."""
        self.everyone.discard(client)


def most_connections() -> int:
    """How many clients the system has descriptors for, each with a connection to its instance.

    Takes what the system allows before it counts: by default that is more than is given at first.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * MOST + SPARE
    if soft != resource.RLIM_INFINITY and soft < wanted:
        more = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (more, hard))
            soft = more
    if soft == resource.RLIM_INFINITY:
        return MOST
    return max(1, min(MOST, (soft - SPARE) // 2))
