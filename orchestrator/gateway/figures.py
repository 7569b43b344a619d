"""What the gateway has done and is doing, by instance: for `status`, the page and metrics."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

from orchestrator.gateway.call import Record
from orchestrator.gateway.room import Room

KEPT = 200
"""Requests of each instance that the times are taken of."""

RECENT = 100
RECENT_FOR = 300.0
ENOUGH = 10
"""How many of the last requests for a name, within how many seconds, say how often it falls back;
fewer than so many say nothing."""


@dataclass(slots=True)
class _Of:
    """One instance's."""

    requests: int = 0
    failures: int = 0
    sent: int = 0
    first_bytes: deque[float] = field(default_factory=lambda: deque[float](maxlen=KEPT))
    seconds: deque[float] = field(default_factory=lambda: deque[float](maxlen=KEPT))


@dataclass(slots=True)
class _Named:
    """Of one name that clients ask for. `last`: when each of the last requests was over, and
    whether a fallback has served it."""

    requests: int = 0
    fallbacks: int = 0
    last: deque[tuple[float, bool]] = field(
        default_factory=lambda: deque[tuple[float, bool]](maxlen=RECENT)
    )

    def add(self, now: float, *, fell: bool) -> None:
        self.requests += 1
        self.fallbacks += fell
        self.last.append((now, fell))

    def as_json(self, now: float) -> dict[str, Any]:
        seen = [fell for at, fell in self.last if at > now - RECENT_FOR]
        recent = round(sum(seen) / len(seen), 4) if len(seen) >= ENOUGH else None
        return {"requests": self.requests, "fallbacks": self.fallbacks, "recent": recent}


@dataclass(slots=True)
class Figures:
    """Counts since the gateway began."""

    _names: dict[str, _Named] = field(default_factory=dict[str, _Named])
    _clients: Counter[str] = field(default_factory=Counter[str])
    _by: dict[str, _Of] = field(default_factory=dict[str, _Of])
    _statuses: Counter[str] = field(default_factory=Counter[str])
    _fallbacks: int = 0
    _retries: int = 0

    def add(self, record: Record, now: float) -> None:
        """A request is over."""
        self._statuses[str(record.status)] += 1
        self._fallbacks += bool(record.fallbacks and record.target)
        self._retries += record.retries
        if record.named:
            self._clients[record.client] += 1
        if record.model:
            fell = bool(record.fallbacks and record.target)
            self._names.setdefault(record.model, _Named()).add(now, fell=fell)
        if not record.target:
            return
        one = self._by.setdefault(record.target, _Of())
        one.requests += 1
        one.failures += record.lost or record.status >= 500
        one.sent += record.sent
        one.seconds.append(now - record.began)
        if record.first_byte is not None:
            one.first_bytes.append(record.first_byte - record.began)

    def as_json(self, room: Room, now: float) -> dict[str, Any]:
        """Counts, and medians in seconds; `in_flight` and `waiting` as they are now."""
        waiting, in_flight = room.waiting_for(), room.in_flight()
        names = {*self._by, *in_flight, *waiting} & set(room.table.targets)
        return {
            "daemon": room.table.daemon,
            "number": room.table.number,
            "runs": {run: count for (_, run), count in room.under_way.items()},
            "names": {
                name: one.as_json(now)
                for name, one in self._names.items()
                if name in room.table.names
            },
            "clients": dict(self._clients),
            "statuses": dict(self._statuses),
            "fallbacks": self._fallbacks,
            "retries": self._retries,
            "instances": {
                name: _row(self._by.get(name, _Of()))
                | {
                    "in_flight": in_flight[name],
                    "waiting": waiting[name],
                    "used_at": room.used_at.get(name),
                }
                for name in sorted(names)
            },
        }


def _row(of: _Of) -> dict[str, Any]:
    return {
        "requests": of.requests,
        "failures": of.failures,
        "bytes": of.sent,
        "first_byte_s": _median(of.first_bytes),
        "request_s": _median(of.seconds),
    }


def _median(values: deque[float]) -> float | None:
    return round(sorted(values)[len(values) // 2], 4) if values else None
