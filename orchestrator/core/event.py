"""Facts that happened: the one feed for status, store, progress lines, dashboard and log."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from typing import Any

from msgspec import Struct, field

from orchestrator.core.spec import InstanceSpec


class EventType(StrEnum):
    """Every kind of event. The first block moves a phase, the second is about the daemon."""

    STARTING = "starting"
    SPAWNED = "spawned"
    PROGRESS = "progress"
    READY = "ready"
    UNREADY = "unready"
    CONDEMNED = "condemned"
    STOPPING = "stopping"
    KILLING = "killing"
    EXITED = "exited"
    START_FAILED = "start-failed"
    ADOPTED = "adopted"
    HELD = "held"
    RELEASED = "released"
    REDO = "redo"
    UPDATED = "updated"
    FORGOTTEN = "forgotten"
    ATTACHED = "attached"
    DETACHED = "detached"
    MODEL = "model"
    MODEL_PROGRESS = "model-progress"
    LOOK = "look"
    LOOKED = "looked"
    HEALTH = "health"
    ALERT = "alert"
    ALERT_OVER = "alert-over"
    MENDED = "mended"
    PROMOTED = "promoted"
    WANTED = "wanted"
    IDLE = "idle"

    APPLIED = "applied"
    PROFILE_ERROR = "profile-error"
    PROFILE_OK = "profile-ok"
    CONVERGED = "converged"
    DAEMON_STARTED = "daemon-started"
    DAEMON_STOPPED = "daemon-stopped"
    SWEPT = "swept"
    STORE_ERROR = "store-error"
    STORE_OK = "store-ok"
    STALLED = "stalled"
    BUG = "bug"


TRANSIENT = frozenset(
    {EventType.PROGRESS, EventType.MODEL_PROGRESS, EventType.LOOK, EventType.LOOKED}
)
"""Kinds that are only ever progress."""

STEADY = "steady"
"""The reason of an event that says once more what is known."""

AGAIN = "again"
"""In the data of an event: another try of what waits, of which it was said already for what; or
what is known, in the words of this moment."""


class Event(Struct, frozen=True):
    """One fact. `instance` is empty for what concerns the daemon.

    `data` is plain JSON. `spec` is for the fold only and never leaves the process. The bus stamps
    `id` (rising, kept across daemons), `time` (wall clock, for people) and `at` (boot clock, for
    arithmetic).
    """

    type: EventType
    instance: str = ""
    reason: str = ""
    message: str = ""
    data: dict[str, Any] = field(default_factory=dict[str, Any])
    spec: InstanceSpec | None = None
    id: int = 0
    time: float = 0.0
    at: float = 0.0

    @property
    def transient(self) -> bool:
        """Shown live, but not worth keeping: progress, and what is still as it was."""
        return is_transient(self.type.value, self.reason, self.data)

    def as_json(self) -> dict[str, Any]:
        """The shape of `events --json` and of the SSE data."""
        return {
            "id": self.id,
            "time": timestamp(self.time),
            "instance": self.instance,
            "type": self.type.value,
            "reason": self.reason,
            "message": self.message,
            "data": self.data,
        }


def is_transient(kind: str, reason: str, data: Mapping[str, Any]) -> bool:
    """As `Event.transient`, for an event as JSON has it."""
    return kind in TRANSIENT or reason == STEADY or bool(data.get(AGAIN))


@lru_cache(maxsize=4096)
def timestamp(seconds: float) -> str:
    """Wall-clock seconds as `2026-01-01T00:00:00.123Z`."""
    moment = datetime.fromtimestamp(seconds, tz=UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
