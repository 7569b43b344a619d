"""One line for each request: who asked whom for what, and how it went. What was said is left out,
unless the profile asks for it.

Lines go out a few times a second: to write each by itself would cost more than to make it.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from typing import Any

from msgspec import Struct, field

from orchestrator.gateway.message import Request
from orchestrator.gateway.record import Record

SHOWN = 200
"""Characters of a path, or of a name, that are shown."""

CONTENT = 4096
"""Characters of what was asked that are shown, where that is wanted."""

FLUSH = 0.25
"""Seconds that a line may wait for others."""

MUCH = 64 << 10
"""Characters that are written without waiting for more."""

_encode = json.JSONEncoder(separators=(",", ":")).encode


class AccessLog(Struct):
    """`fd` is the gateway's own output, which is its log as that of any instance. `requests`: `all`
    of them, `errors` or `off`; `content`: with what was asked."""

    fd: int = 2
    requests: str = "all"
    content: bool = False
    _lines: list[str] = field(default_factory=list[str])
    _size: int = 0
    _timer: asyncio.TimerHandle | None = None

    def put(self, record: Record, request: Request, now: float) -> None:
        """A request is over; `now` is of the loop's clock."""
        bad = record.failed or record.gone or record.status >= 400
        if self.requests == "off" or (self.requests == "errors" and not bad):
            return
        line = line_of(record, request, now=now, at=time.time(), content=self.content)
        self._lines.append(line)
        self._size += len(line)
        if self._size >= MUCH:
            self.flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH, self.flush)

    def flush(self) -> None:
        """Write what waits. What cannot be written, on a full disk, is lost: requests go on."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        lines, self._lines, self._size = self._lines, [], 0
        data = memoryview("".join(f"{line}\n" for line in lines).encode("ascii"))
        try:
            while data:
                data = data[os.write(self.fd, data) :]
        except OSError:
            return


def line_of(
    record: Record, request: Request, *, now: float, at: float, content: bool = False
) -> str:
    """JSON on one line: control characters are escaped, whatever a client sends. `at` is the wall
    clock's `now`."""
    first, tokens = record.first_byte, record.tokens()
    row: dict[str, Any] = {
        "time": _clock(at),
        "id": record.id,
        "client": record.client[:SHOWN],
        "method": request.method.decode("latin-1"),
        "path": request.path[:SHOWN],
        "model": record.model[:SHOWN],
        "instance": record.target,
        "status": record.status,
        "ms": _ms(now - record.began),
        "first_byte_ms": _ms(first - record.began) if first is not None else None,
        "waited_ms": _ms(record.waited),
        "prompt_tokens": tokens.prompt,
        "generated_tokens": tokens.generated,
        "bytes": record.sent,
        "retries": record.retries,
        "fallbacks": record.fallbacks,
    }
    if record.lost:
        row["lost"] = True
    if record.gone:
        row["gone"] = True
    if content:
        # The beginning of a character that was cut in two is left out.
        row["content"] = request.body[: 4 * CONTENT].decode("utf-8", "ignore")[:CONTENT]
    return _encode(row)


_second: tuple[int, str] = (-1, "")
"""The last second that was spelled: most lines are of the same."""


def _clock(at: float) -> str:
    global _second
    whole = int(at)
    if _second[0] != whole:
        _second = (whole, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole)))
    return f"{_second[1]}.{int((at - whole) * 1000):03d}Z"


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 2)
