"""What the gateway has done and is doing, in all and by instance, name and client: for `status`,
the page and metrics.

What clients can name without bounds is counted together: only names of the table have counts of
their own, and only clients whose tokens have names.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict, deque
from typing import Any

from msgspec import Struct, field

from orchestrator.gateway.record import Record
from orchestrator.gateway.rises import Rises
from orchestrator.gateway.room import Room

FIRST_BOUNDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
"""Seconds to a first token: a prompt that is in the cache takes the first, a long one minutes."""

TOOK_BOUNDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0)
"""Seconds of a whole request: an embedding takes the first, long texts minutes."""

KEPT = 200
"""Requests of each instance that medians are taken of, at most."""

RECENT = 60.0
"""Seconds for which a request counts in a median."""

SPEED = 10.0
"""Seconds over which tokens and requests per second are taken."""

LATELY = 300.0
"""Seconds over which shares are taken, of what failed or fell back."""

OTHER = "other"
"""Under this is counted what asks for no name of the table."""


class _Times:
    """How long something took: all of it in a histogram, the last ones as they are."""

    __slots__ = ("_last", "bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0
        self._last: deque[tuple[float, float]] = deque(maxlen=KEPT)

    def add(self, seconds: float, now: float) -> None:
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.total += seconds
        self._last.append((now, seconds))

    def told(self, name: str, now: float) -> dict[str, Any]:
        """The histogram, and the median and the 95th percentile of the last minute."""
        if not any(self.counts):
            return {}
        while self._last and self._last[0][0] < now - RECENT:
            self._last.popleft()
        last = sorted(seconds for _, seconds in self._last)
        found: dict[str, Any] = {name: {"counts": self.counts[:], "total": round(self.total, 6)}}
        if last:
            found[f"{name}_s"] = round(last[len(last) // 2], 4)
            found[f"{name}_p95_s"] = round(last[min(len(last) * 95 // 100, len(last) - 1)], 4)
        return found

    @property
    def recent(self) -> bool:
        return bool(self._last)


LAST = 100
ENOUGH = 10
"""How many of the last requests for a name say how often it falls back; fewer than so many say
nothing."""


class _Of(Struct):
    """All requests, or those of one instance. What is 0 is not told."""

    outcomes: Counter[str] = field(default_factory=Counter[str])
    failures: int = 0
    retries: int = 0
    fallbacks: int = 0
    sent: int = 0
    prompt: int = 0
    generated: int = 0
    first: _Times = field(default_factory=lambda: _Times(FIRST_BOUNDS))
    took: _Times = field(default_factory=lambda: _Times(TOOK_BOUNDS))

    @property
    def requests(self) -> int:
        return sum(self.outcomes.values())

    def add(self, record: Record, prompt: int, generated: int, now: float) -> None:
        self.outcomes[record.outcome] += 1
        self.failures += record.failed
        self.fallbacks += record.fell_back
        self.sent += record.sent
        self.prompt += prompt
        self.generated += generated
        if not record.target:
            return
        self.took.add(now - record.began, now)
        if record.streamed and record.first_byte is not None:
            self.first.add(record.first_byte - record.began, now)

    def told(self, now: float) -> dict[str, Any]:
        rows = {
            "requests": self.requests,
            "failures": self.failures,
            "retries": self.retries,
            "fallbacks": self.fallbacks,
            "bytes": self.sent,
            "prompt_tokens": self.prompt,
            "generated_tokens": self.generated,
            "outcomes": dict(self.outcomes),
        }
        times = self.first.told("first_token", now) | self.took.told("request", now)
        return {key: value for key, value in rows.items() if value} | times


class _Asked(Struct):
    """Requests for one name, or of one client. `last`: when each of the last ones was over, and
    whether a fallback has served it."""

    requests: int = 0
    failures: int = 0
    fallbacks: int = 0
    prompt: int = 0
    generated: int = 0
    last: deque[tuple[float, bool]] = field(
        default_factory=lambda: deque[tuple[float, bool]](maxlen=LAST)
    )

    def add(self, record: Record, prompt: int, generated: int, now: float) -> None:
        self.requests += 1
        self.failures += record.failed
        self.fallbacks += record.fell_back
        self.prompt += prompt
        self.generated += generated
        self.last.append((now, record.fell_back))

    def told(self, now: float) -> dict[str, Any]:
        seen = [fell for at, fell in self.last if at > now - LATELY]
        return {
            "requests": self.requests,
            "failures": self.failures,
            "fallbacks": self.fallbacks,
            "prompt_tokens": self.prompt,
            "generated_tokens": self.generated,
            "recent": round(sum(seen) / len(seen), 4) if len(seen) >= ENOUGH else None,
        }


class Figures(Struct):
    """Counts since the gateway began."""

    _whole: _Of = field(default_factory=_Of)
    _by: defaultdict[str, _Of] = field(default_factory=lambda: defaultdict[str, _Of](_Of))
    _names: defaultdict[str, _Asked] = field(
        default_factory=lambda: defaultdict[str, _Asked](_Asked)
    )
    _clients: defaultdict[str, _Asked] = field(
        default_factory=lambda: defaultdict[str, _Asked](_Asked)
    )
    _own: Counter[str] = field(default_factory=Counter[str])
    _open: set[Record] = field(default_factory=set[Record])
    _stirred_at: float = float("-inf")
    _told_at: float = 0.0
    _speed: Rises = field(default_factory=lambda: Rises(SPEED))
    _lately: Rises = field(default_factory=lambda: Rises(LATELY, SPEED))

    def begin(self, record: Record) -> None:
        """A request has come."""
        self._open.add(record)
        self._stirred_at = record.began

    def add(self, record: Record, now: float) -> None:
        """A request is over."""
        self._open.discard(record)
        self._stirred_at = now
        tokens = record.tokens()
        prompt, generated = tokens.prompt or 0, tokens.generated or 0
        self._whole.add(record, prompt, generated, now)
        if record.target:
            self._by[record.target].add(record, prompt, generated, now)
        else:
            self._own[str(record.status)] += 1
        for name in record.retried:
            self._whole.retries += 1
            self._by[name].retries += 1
        self._names[record.model or OTHER].add(record, prompt, generated, now)
        if record.named:
            self._clients[record.client].add(record, prompt, generated, now)

    @property
    def lively(self) -> bool:
        """Whether what is told may change at any moment: something was just before it was told
        last, or has been since."""
        was = self._stirred_at > self._told_at - SPEED
        return was or bool(self._open) or self._whole.took.recent

    @property
    def settles(self) -> bool:
        """Whether what is told still changes by itself, as time goes by."""
        return any(self._lately.risen(key) for key in _SHARES)

    def as_json(self, room: Room, now: float) -> dict[str, Any]:
        """What `core.figures` reads. Instances and names are those of the table in force."""
        self._measure(now)
        self._told_at = now
        waiting, in_flight = room.waiting_for(), room.in_flight()
        table, whole = room.table, self._whole
        return {
            "daemon": table.daemon,
            "number": table.number,
            "runs": {run: count for (_, run), count in room.under_way.items()},
            "bounds": {"first_token": FIRST_BOUNDS, "request": TOOK_BOUNDS},
            "whole": {
                **whole.told(now),
                "in_flight": in_flight.total(),
                "waiting": room.waiters,
                "tokens_s": round(sum(map(self._tokens_s, {*self._by, *table.targets})), 2),
                "requests_s": round(self._speed.rate(_REQUESTS), 2),
                "lately": {key: self._lately.risen(key) for key in _SHARES},
            },
            "instances": {
                name: {
                    **(self._by[name].told(now) if name in self._by else {}),
                    "in_flight": in_flight[name],
                    "waiting": waiting[name],
                    "used_at": room.used_at.get(name),
                    "tokens_s": self._tokens_s(name),
                }
                for name in table.targets
            },
            "names": {
                name: self._names[name].told(now)
                for name in dict.fromkeys((*table.names, *table.targets, OTHER))
                if name in self._names
            },
            "clients": {name: asked.told(now) for name, asked in self._clients.items()},
            "own": dict(self._own),
        }

    def _measure(self, now: float) -> None:
        """Note how far counts are, with what passes by at this moment."""
        counts = {name: of.generated for name, of in self._by.items()}
        for record in self._open:
            if record.target and record.flow is not None:
                counts[record.target] = counts.get(record.target, 0) + record.flow.events
        requests = self._whole.requests
        self._speed.note(now, {**counts, _REQUESTS: requests})
        shares = (requests, self._whole.failures, self._whole.fallbacks)
        self._lately.note(now, dict(zip(_SHARES, shares, strict=True)))

    def _tokens_s(self, name: str) -> float:
        return round(self._speed.rate(name), 2)


_REQUESTS = "/"
"""Beside instances; none is called so."""

_SHARES = ("requests", "failures", "fallbacks")
