"""What a text costs to read, as it grows: a matter of shape, whatever the machine does besides."""

import time
from collections.abc import Callable

TIMES = 8
"""How much larger the large one is. What is quadratic costs 64 times as much."""


def assert_grows_with_its_length(work: Callable[[int], object], size: int) -> None:
    """`work(size)` costs at most a few times what its share of the size would make it cost.

    A ratio of CPU time within one process, so neither a slow machine nor coverage moves it. What is
    tiny is not compared: it is noise.
    """
    small = min(_cost(work, size // TIMES) for _ in range(3))
    assert _cost(work, size) < 3 * TIMES * max(small, 0.02)


def _cost(work: Callable[[int], object], size: int) -> float:
    began = time.process_time()
    work(size)
    return time.process_time() - began
