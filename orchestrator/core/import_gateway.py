"""The gateway of an imported profile: where a tool listened that routed requests by model."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from msgspec import Struct

from orchestrator.core.import_draft import Notes

USUAL_PORT = 8080
"""Where llama-swap and llama-server's router listen unless they are told otherwise."""

ON_DEMAND = "on-demand"
LOOPBACK = "127.0.0.1"


class Listening(Struct, frozen=True):
    """Where the gateway is to listen; port 0 is any."""

    host: str = LOOPBACK
    port: int = USUAL_PORT

    def keys(self) -> dict[str, Any]:
        """As the profile says it: what goes without saying is left out."""
        keys: dict[str, Any] = {"port": self.port or "auto"}
        return keys if self.host == LOOPBACK else {**keys, "host": self.host}


def together(names: Collection[str], tool: str, notes: Notes) -> None:
    """Note, where there are several, which of them are in memory at once."""
    if len(names) > 1:
        notes.changed(
            f"{tool} decides by number which of these are loaded at once; here it is memory that "
            "does: as many are as fit, and room is made by what was not used for longest",
            at=("instances",),
        )
