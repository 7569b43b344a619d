"""File descriptors: as many as the system allows, and never down to the last one.

Each instance costs its daemon one (a pidfd), and a few more for moments. With none left nothing
can be looked at any more, so what could be spared is not begun.
"""

from __future__ import annotations

import os
import resource

SPARE = 32
"""What is kept free: for the API, for looking at processes, and for the store."""


def raise_limit() -> None:
    """Take what the system allows without asking: the soft limit is often as low as 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def limit() -> int:
    """How many this process may have open."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def are_scarce(processes: int) -> bool:
    """True when only what is to be spared is left. Each of the `processes` that are watched may be
    asked something at any moment, which takes one more."""
    most = limit()
    if most == resource.RLIM_INFINITY:
        return False
    return len(os.listdir("/proc/self/fd")) + processes > most - SPARE
