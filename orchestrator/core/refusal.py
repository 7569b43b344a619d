"""What an Ollama server's words of refusal mean: is another try worth it, and when. Pure."""

from __future__ import annotations

import math
from typing import Literal

from msgspec import Struct

Outlook = Literal["soon", "later", "never"]
"""When to try again: it may pass in seconds; somebody has to act first; not as it is declared."""


class Refusal(Struct, frozen=True):
    """`reason` is a fixed word; `hint` what to do, where that is known."""

    reason: str
    outlook: Outlook
    hint: str = ""


_TOLD: tuple[tuple[str, Refusal], ...] = (
    ("no space left on device", Refusal("disk-full", "later", "free some space on its disk")),
    ("disk quota exceeded", Refusal("disk-full", "later", "free some space on its disk")),
    ("read-only file system", Refusal("store-unwritable", "later")),
    ("permission denied", Refusal("store-unwritable", "later", "mend the store's permissions")),
    ("file does not exist", Refusal("not-found", "never", "check its name and tag")),
    ("manifest unknown", Refusal("not-found", "never", "check its name and tag")),
    ("name unknown", Refusal("not-found", "never", "check its name and tag")),
    ("invalid model name", Refusal("not-found", "never", "check its name and tag")),
    ("unauthorized", Refusal("unauthorized", "never", "the registry wants a login")),
    ("access denied", Refusal("unauthorized", "never", "the registry wants a login")),
    (": 403:", Refusal("unauthorized", "never", "the registry wants a login")),
    ("http response to https client", Refusal("no-tls", "never", "say `insecure: true`")),
    ("insecure protocol", Refusal("no-tls", "never", "say `insecure: true`")),
    ("x509:", Refusal("bad-certificate", "never", "trust its certificate")),
    ("requires a newer version", Refusal("too-old", "never", "update Ollama")),
    ("requires mlx", Refusal("unsupported", "never")),
)


def refusal(text: str) -> Refusal:
    """Of a pull: what is not known to last is taken for something that passes."""
    # A status stands at the beginning or after a colon; a port may end in the same digits.
    lower = f": {text.lower()}"
    for words, meaning in _TOLD:
        if words in lower:
            return meaning
    return Refusal("pull-failed", "soon")


def build_refusal(text: str) -> Refusal:
    """Of a build: the same files fail the same way, unless it is the disk, or the network."""
    meaning = refusal(text)
    if meaning.reason in ("disk-full", "store-unwritable"):
        return meaning
    lower = text.lower()
    if "blob not found" in lower or any(words in lower for words in _PASSING):
        return Refusal("build-failed", "soon")
    return Refusal("build-failed", "never", meaning.hint)


_PASSING = (
    "digest mismatch",
    "dial tcp",
    "connection re",
    "eof",
    "timeout",
    "broken pipe",
    "no route to host",
)


def backoff(failures: int, *, first: float = 1.0, most: float = 60.0) -> float:
    """Seconds before the next try, after so many failures in a row."""
    return min(first * 2.0 ** max(failures - 1, 0), most)


TRIES = 5
"""Failures in a row, without a byte in between, after which it is said to have failed."""
LATER = 60.0
"""Seconds between tries of what failed for now."""


class Trial(Struct, frozen=True):
    """What came of the last tries. `retry_at` is infinite where only somebody's word helps."""

    failures: int
    retry_at: float
    gave_up: bool
    refusal: Refusal


def after_failure(last: Trial | None, why: Refusal, *, moved: bool, now: float) -> Trial:
    """One more failure; `moved`: some of it came before. `now` as in `retry_at`."""
    failures = 1 if last is None or moved else last.failures + 1
    if why.outlook == "never":
        return Trial(failures, math.inf, True, why)
    if why.outlook == "later" or failures >= TRIES:
        return Trial(failures, now + LATER, True, why)
    return Trial(failures, now + backoff(failures), False, why)
