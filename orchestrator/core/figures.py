"""What the gateway tells of what it does: the shape in which it crosses to the daemon. Pure."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt


class _Told(BaseModel):
    # A gateway of another version may tell more.
    model_config = ConfigDict(extra="ignore", frozen=True)


class InstanceFigures(_Told):
    """Of one instance, since the gateway began; times are medians of the last requests, seconds,
    but for `used_at`, when it was used last, by the boot clock."""

    in_flight: NonNegativeInt = 0
    waiting: NonNegativeInt = 0
    requests: NonNegativeInt = 0
    failures: NonNegativeInt = 0
    bytes: NonNegativeInt = 0
    first_byte_s: NonNegativeFloat | None = None
    request_s: NonNegativeFloat | None = None
    used_at: NonNegativeFloat | None = None


class NameFigures(_Told):
    """Of one name that clients ask for, since the gateway began. `recent` is the share of the last
    requests that a fallback has served; None where they are too few to say."""

    requests: NonNegativeInt = 0
    fallbacks: NonNegativeInt = 0
    recent: NonNegativeFloat | None = None


class Figures(_Told):
    """`runs`: requests under way by the process that has them. `daemon` and `number`: of the table
    in force. `statuses`: answers by status."""

    daemon: str = ""
    number: NonNegativeInt = 0
    runs: dict[str, NonNegativeInt] = Field(default_factory=dict[str, NonNegativeInt])
    instances: dict[str, InstanceFigures] = Field(default_factory=dict[str, InstanceFigures])
    names: dict[str, NameFigures] = Field(default_factory=dict[str, NameFigures])
    clients: dict[str, NonNegativeInt] = Field(default_factory=dict[str, NonNegativeInt])
    """Requests by the name of the token that they came with."""
    statuses: dict[str, NonNegativeInt] = Field(default_factory=dict[str, NonNegativeInt])
    fallbacks: NonNegativeInt = 0
    retries: NonNegativeInt = 0

    def whole(self) -> dict[str, Any]:
        """Of all instances together."""
        rows = self.instances.values()
        return {
            "in_flight": sum(row.in_flight for row in rows),
            "waiting": sum(row.waiting for row in rows),
            "names": {name: one.model_dump() for name, one in self.names.items()},
            "clients": self.clients,
            "statuses": self.statuses,
            "fallbacks": self.fallbacks,
            "retries": self.retries,
        }
