"""How many connections there may be over TCP, and how long each may keep one waiting.

uvicorn bounds neither a request's head that never comes, nor an answer that is never read.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from orchestrator.api.answers import error

HEAD_WITHIN = 10.0
"""Seconds for the head of a request to be there, from the connection on or from the last answer."""

READ_WITHIN = 30.0
"""Seconds after which whoever does not read what is sent is dropped."""

MOST = 512
"""Connections at a time. One more makes the one go that has been waiting longest to say anything;
where all are busy, it is refused."""


class Protocol(H11Protocol):
    """HTTP on one connection, whose errors have the one shape."""

    def send_400_response(self, msg: str) -> None:
        held = len(self.conn.trailing_data[0])
        if held >= (self.config.h11_max_incomplete_event_size or 0) > 0:
            answer = error(431, "too-large", "the head of the request is too large")
        else:
            answer = error(400, "bad-request", msg)
        # In the middle of another answer there is no way to say more.
        with contextlib.suppress(h11.LocalProtocolError):
            self.transport.write(_raw(self.conn, answer.status_code, bytes(answer.body)))
        self.transport.close()


def _raw(conn: h11.Connection, status: int, body: bytes) -> bytes:
    headers = [
        ("content-type", "application/json"),
        ("content-length", str(len(body))),
        ("connection", "close"),
    ]
    events = (h11.Response(status_code=status, headers=headers), h11.Data(data=body))
    return b"".join(conn.send(event) or b"" for event in (*events, h11.EndOfMessage()))


class Crowd:
    """The connections of one listener that have said nothing yet, the oldest first."""

    def __init__(self) -> None:
        self.most = MOST
        self.silent: dict[BoundedProtocol, None] = {}

    def protocol(self) -> type[BoundedProtocol]:
        """The protocol of those that belong to it."""
        return type("Protocol", (BoundedProtocol,), {"crowd": self})


class BoundedProtocol(Protocol):
    """The same for a network: nobody keeps a connection for nothing."""

    crowd: Crowd
    _impatient: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if len(self.connections) > self.crowd.most and not self._make_room():
            body = bytes(error(503, "too-many", "too many connections", "try again").body)
            transport.write(_raw(self.conn, 503, body))
            transport.close()
        else:
            self._wait_for_a_head()

    def _make_room(self) -> bool:
        if not self.crowd.silent:
            return False
        next(iter(self.crowd.silent))._drop()
        return True

    def _drop(self) -> None:
        self.crowd.silent.pop(self, None)
        self.transport.abort()

    def _wait_for_a_head(self) -> None:
        self._be_patient()
        self.crowd.silent[self] = None
        self._impatient = self.loop.call_later(HEAD_WITHIN, self._drop)

    def _be_patient(self) -> None:
        self.crowd.silent.pop(self, None)
        if self._impatient is not None:
            self._impatient.cancel()
            self._impatient = None

    def handle_events(self) -> None:
        before = self.cycle
        super().handle_events()
        if self.cycle is not before and not self.cycle.response_complete:
            self._be_patient()

    def on_response_complete(self) -> None:
        if not self.transport.is_closing():
            # First: a request that came in already ends the waiting at once.
            self._wait_for_a_head()
        super().on_response_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread = self.loop.call_later(READ_WITHIN, self._drop)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_the_clock()

    def _stop_the_clock(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def connection_lost(self, exc: Exception | None) -> None:
        self._be_patient()
        self._stop_the_clock()
        super().connection_lost(exc)
