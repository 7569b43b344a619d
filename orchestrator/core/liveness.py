"""What an inference probe found, judged: is the server well, slow or down? Pure."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

REFUSES = frozenset({501})
"""Of the statuses from 500 on: it works, and will not do what was asked."""

LOADS = 503
"""It works, and says so itself: not now."""


class Outcome(Struct, frozen=True):
    """How one probe went. `status` is HTTP's, None when no answer came within `seconds`.

    `wanted` is what was asked for, `said` the server's own word on an error. `busy` tells by what
    it is known that the server works on something else; empty where nothing shows that.
    """

    seconds: float
    status: int | None
    wanted: str = "a token"
    said: str = ""
    busy: str = ""


class Verdict(Struct, frozen=True):
    """`kind` for machines, `message` for people. `counts`: it may mean that the server hangs."""

    kind: Literal["healthy", "slow", "down"]
    message: str
    counts: bool = False


def judge(outcome: Outcome, *, slow: float) -> Verdict:
    """A server that is known to work is never down, however long it takes."""
    after = f"after {outcome.seconds:.2g} s"
    status = outcome.status
    if outcome.busy:
        return Verdict("slow", f"busy: no answer {after}, {outcome.busy}")
    if status is None:
        return Verdict("down", f"no answer {after}, asked for {outcome.wanted}", counts=True)
    answer = f"answers {status}" + (f": {outcome.said}" if outcome.said else "")
    if status == LOADS:
        return Verdict("down", answer)
    if status >= 500 and status not in REFUSES:
        return Verdict("down", answer, counts=True)
    # One that will not be asked in this way is as well as can be told from here.
    message = f"{outcome.wanted} {after}" if status == 200 else f"refuses the probe: {answer}"
    return Verdict("slow" if outcome.seconds >= slow else "healthy", message)
