"""One line for each request: who asked whom for what, and how it went. Never what was said."""

from __future__ import annotations

import json
import time

from orchestrator.gateway.call import Record
from orchestrator.gateway.message import Request

SHOWN = 200
"""Characters of a path, or of a name, that are shown."""


def line_of(record: Record, request: Request, *, now: float) -> str:
    """JSON on one line: control characters are escaped, whatever a client sends."""
    first = record.first_byte
    row = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "id": record.id,
        "method": request.method.decode("latin-1"),
        "path": request.path[:SHOWN],
        "client": record.client[:SHOWN],
        "model": record.model[:SHOWN],
        "instance": record.target,
        "status": record.status,
        "ms": _ms(now - record.began),
        "first_byte_ms": _ms(first - record.began) if first is not None else None,
        "waited_ms": _ms(record.waited),
        "bytes": record.sent,
        "retries": record.retries,
        "fallbacks": record.fallbacks,
    }
    if record.lost:
        row["lost"] = True
    return json.dumps(row, separators=(",", ":"))


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 2)
