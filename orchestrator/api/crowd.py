"""How many connections there may be over TCP, and how long each may keep one waiting.

uvicorn bounds neither a request's head that never comes, nor an answer that is never read.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from orchestrator.api.answers import error

HEAD_WITHIN = 10.0
"""Seconds for the head of a request to be there, from the connection on or from the last answer."""

READ_WITHIN = 30.0
"""Seconds after which whoever does not read what is sent is dropped."""

MOST = 512
"""Connections at a time. One more makes a stranger go: one that has not shown the token, for what
it asks now. Where there is none, it is refused."""

KNOWN = "orchestrate.known"
"""In the scope of a request: to be called when whoever asks is let in by the token."""


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
    """The connections of one listener, and those among them that may have to make room."""

    def __init__(self) -> None:
        self.most = MOST
        self.strangers: dict[BoundedProtocol, None] = {}
        """They have said nothing yet, or ask for what is open to all; the oldest first."""

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
        if not self.crowd.strangers:
            return False
        next(iter(self.crowd.strangers))._drop()
        return True

    def _drop(self) -> None:
        self._is_known()
        self.transport.abort()

    def _is_known(self) -> None:
        self.crowd.strangers.pop(self, None)

    def _wait_for_a_head(self) -> None:
        self._be_patient()
        self._is_known()
        self.crowd.strangers[self] = None
        self._impatient = self.loop.call_later(HEAD_WITHIN, self._drop)

    def _be_patient(self) -> None:
        if self._impatient is not None:
            self._impatient.cancel()
            self._impatient = None

    def handle_events(self) -> None:
        before = self.cycle
        super().handle_events()
        if self.cycle is not before and not self.cycle.response_complete:
            self._be_patient()
            # The application has this very scope, and does not run before we return.
            cast(dict[str, Any], self.scope)[KNOWN] = self._is_known

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
        self._is_known()
        self._stop_the_clock()
        super().connection_lost(exc)
