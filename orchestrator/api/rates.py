"""How often one address may ask: each has a bucket that fills up again with time."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from time import monotonic

MOST_ADDRESSES = 4096


class Rates:
    """`burst` at once, then `each_second`."""

    def __init__(
        self, burst: float, each_second: float, clock: Callable[[], float] = monotonic
    ) -> None:
        self._burst = burst
        self._each_second = each_second
        self._clock = clock
        self._left: dict[str, tuple[float, float]] = {}

    def take(self, address: str) -> float:
        """One more from there. 0 when it may be, else the seconds until it may."""
        left = self._now(address)
        if left < 1:
            return (1 - left) / self._each_second
        self._put(address, left - 1)
        return 0.0

    def empty(self, address: str) -> float:
        """As `take`, but takes nothing."""
        left = self._now(address)
        return 0.0 if left >= 1 else (1 - left) / self._each_second

    def _now(self, address: str) -> float:
        left, at = self._left.get(whole(address), (self._burst, 0.0))
        return min(self._burst, left + (self._clock() - at) * self._each_second)

    def _put(self, address: str, left: float) -> None:
        key = whole(address)
        self._left.pop(key, None)
        while len(self._left) >= MOST_ADDRESSES:
            # Who has not asked for the longest time: its bucket is the fullest.
            del self._left[next(iter(self._left))]
        self._left[key] = (left, self._clock())


def whole(address: str) -> str:
    """What belongs to one: of IPv6 everybody has a /64 to ask from."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is None:
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(getattr(parsed, "ipv4_mapped", None) or parsed)
