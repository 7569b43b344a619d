"""Durations, sizes and limits as people write them, read and written back.

Every `parse_*` raises ValueError with a message that says what was expected and what came
instead; the caller knows the place.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from orchestrator.core.nodes import shown

LONGEST_DURATION = 366 * 86400.0
"""Seconds. More is a slip of the pen, and would overflow timers further on."""

_SECONDS = (86400.0, 3600.0, 60.0, 1.0, 0.001)
# Each unit at most once, the largest first; something must be there.
_DURATION = re.compile(
    "(?=.)"
    + "".join(
        rf"(?:([0-9]+(?:\.[0-9]+)?)\s*{unit}\s*)?" for unit in ("d", "h", "m(?!s)", "s", "ms")
    )
)
_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?")
_LIMIT = re.compile(r"([0-9]{1,6})\s+in\s+(\S.*)")
_SIZE = re.compile(r"([0-9]{1,30}(?:\.[0-9]{1,30})?)\s*([A-Za-z]*)")
_PERCENT = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,6})?)\s*%")
_DECIMAL = {"": 1, "B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_BINARY = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_BYTES = _DECIMAL | _BINARY


class Limit(NamedTuple):
    """At most `times` within `window` seconds."""

    times: int
    window: float


def parse_duration(value: object) -> float:
    """Seconds of `10s`, `1m30s`, `500ms`, `2h`, `1d`; a plain number is seconds already."""
    seconds = _seconds(value)
    if seconds is None:
        raise ValueError(f"expected a duration such as 10s, got {shown(value)}")
    if seconds > LONGEST_DURATION:
        raise ValueError(f"expected a duration of at most 366d, got {shown(value)}")
    return seconds


def _seconds(value: object) -> float | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        # An int too large for a float is compared before it is converted.
        return float(min(value, 10**12)) if value >= 0 else None
    if not isinstance(value, str) or len(value) > 60:
        return None
    text = value.strip()
    if _NUMBER.fullmatch(text):
        return float(text)
    match = _DURATION.fullmatch(text)
    if match is None:
        return None
    parts = zip(match.groups(), _SECONDS, strict=True)
    # Rounded to nanoseconds, or 1m0.1s would not be what 60.1 is.
    return round(math.fsum(float(number) * unit for number, unit in parts if number), 9)


def format_duration(seconds: float) -> str:
    """`1m30s`, `500ms`, `0s`: to the millisecond, below one second to the microsecond."""
    if seconds < 0:
        return "-" + format_duration(-seconds)
    if not math.isfinite(seconds):
        return "forever"
    if seconds < 1:
        millis = round(seconds * 1000, 3)
        return "0s" if millis == 0 else "1s" if millis >= 1000 else f"{millis:g}ms"
    rest, words = round(seconds * 1000), ""
    for unit, millis in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000)):
        count, rest = divmod(rest, millis)
        words += f"{count}{unit}" if count else ""
    return f"{words}{rest / 1000:g}s" if rest or not words else words


def parse_limit(value: object) -> Limit:
    """`5 in 10m`: at most five times in ten minutes. Both are above zero."""
    match = _LIMIT.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None or int(match[1]) == 0:
        raise ValueError(f"expected a limit such as 5 in 10m, got {shown(value)}")
    window = parse_duration(match[2])
    if window == 0:
        raise ValueError(f"expected a limit over more than no time, got {shown(value)}")
    return Limit(int(match[1]), window)


def parse_size(value: object) -> int:
    """Bytes of `6GiB`, `512MB`, `1.5 GiB`; a plain number is bytes already."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"expected a size such as 6GiB, got {shown(value)}")
    number, unit = match.groups()
    if unit not in _BYTES:
        raise ValueError(_unknown_unit(unit, value))
    return int(number) * _BYTES[unit] if number.isdecimal() else round(float(number) * _BYTES[unit])


def _unknown_unit(unit: str, value: object) -> str:
    letter = unit[:1].upper()
    if letter and letter in "KMGT":
        return f"expected a size in {letter}iB or {letter}B, got {shown(value)}"
    return f"expected a size such as 6GiB, got {shown(value)}"


def format_size(count: int) -> str:
    """`21.9MiB`: binary units, one decimal where it says something."""
    amount, word = float(count), "B"
    for unit in _BINARY:
        # Below 1023.95 only, or rounding would print 1024.0 of the smaller unit.
        if abs(amount) < 1023.95:
            break
        amount, word = amount / 1024, unit
    return f"{amount:.1f}".removesuffix(".0") + word


def parse_percent(value: object) -> float:
    """`80%` as 80.0: percent of one core, so more than 100 may be meant."""
    match = _PERCENT.fullmatch(value.strip()) if isinstance(value, str) else None
    percent = float(match[1]) if match else 0.0
    if percent <= 0:
        raise ValueError(f"expected a percentage such as 80%, got {shown(value)}")
    return percent
