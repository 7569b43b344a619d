"""File descriptors: as many as the system allows, and never down to the last one.

Each instance costs its daemon one (a pidfd), and a few more for moments. With none left nothing
can be looked at any more, so what could be spared is not begun.
"""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Generator

SPARE = 32
"""What is kept free: for the API, for looking at processes, and for the store."""


_found: int | None = None
"""The soft limit before it was raised; None as long as it was not."""


def raise_limit() -> None:
    """Take what the system allows without asking: the soft limit is often as low as 1024.

    Where it may not be had (a hard limit above `fs.nr_open`), what there is has to do.
    """
    global _found
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        _found = soft


@contextlib.contextmanager
def as_found() -> Generator[None]:
    """A child that is started inside has the soft limit that we were started with.

    Many programs cannot use more (`select`), and some close all that they may have open, which
    takes for ever with a limit of 10^9. It is lowered for ourselves meanwhile, for a child may
    look at its limit at once; to no less than what is open, and some to spare. For one thread.
    """
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if _found is None:
        yield
        return
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(_found, highest + SPARE), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


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
