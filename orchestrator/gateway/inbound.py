"""A client's connection: whole requests in, an answer out, one after the other."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import sys
import termios
import traceback
from collections.abc import Callable
from typing import Protocol, cast

from orchestrator.gateway import answers
from orchestrator.gateway.clients import Clients
from orchestrator.gateway.message import Request, marked
from orchestrator.gateway.reading import Reading

WRITE_AHEAD = 256 << 10
"""Bytes that wait for a slow client before its instance is made to wait."""

PIPELINED = 16
"""Requests that a client may send before it has its answers."""

READS = 30.0
"""Seconds in which a request must be whole, and one more for each `SLOWEST` bytes of it."""

SLOWEST = 16 << 10

IDLE = 120.0
"""Seconds after which a connection that asks nothing is closed."""

STALLS = 60.0
"""Seconds for which a client may take nothing of what waits for it."""

LINGERS = 2.0
"""Seconds that a client gets to read why it was refused, while what it still sends is dropped:
closing at once would take the answer away from it."""


class Answers(Protocol):
    """Who answers."""

    def refusal(self, request: Request, peer: str) -> bytes | None:
        """The last answer on a connection whose request is not let in; its body is not there."""
        ...

    async def answer(self, inbound: Inbound, request: Request) -> None:
        """Write the whole answer."""
        ...


class Inbound(asyncio.Protocol):
    """One of `clients`; what it asks is answered by `front`."""

    # There are thousands of them.
    __slots__ = (
        "_bodiless",
        "_clients",
        "_front",
        "_full_since",
        "_held",
        "_last",
        "_left",
        "_loop",
        "_reading",
        "_retired",
        "_silent",
        "_since",
        "_task",
        "_transport",
        "_waiting",
        "_weight",
        "_writable",
        "closing",
        "on_writable",
        "peer",
    )

    def __init__(self, front: Answers, clients: Clients) -> None:
        self._front = front
        self._clients = clients
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._reading: Reading | None = None
        self._waiting: tuple[Request, ...] = ()
        self._task: asyncio.Task[None] | None = None
        self._retired = False
        self._last = b""
        self._writable: asyncio.Future[None] | None = None
        self._since = self._loop.time()
        self._full_since = 0.0
        self._left = 0
        self._held = 0
        self._weight = 0
        self._silent = True
        self._bodiless = False
        self.closing = False
        """Nothing is read any more."""
        self.on_writable: Callable[[], None] = _nothing
        self.peer = ""
        """The client's address."""

    @property
    def gone(self) -> bool:
        """The client has left: what is written goes nowhere."""
        return self._transport is None or self._transport.is_closing()

    @property
    def full(self) -> bool:
        """More is written than the client takes; `on_writable` is called when that has passed."""
        return self._writable is not None

    def look(self, now: float) -> None:
        """Close what is slow on purpose, or asleep."""
        if self._stalls(now) or (self._task is None and now - self._since > self._limit()):
            self.abort()

    def _stalls(self, now: float) -> bool:
        """Whether it takes nothing of what waits for it. The system's buffer may hold what a slow
        one takes in minutes, and meanwhile ours does not move: so both are looked at."""
        if self._writable is None or self._transport is None:
            return False
        left = self._transport.get_write_buffer_size() + in_system(self._transport)
        if left < self._left:
            self._full_since = now
        self._left = left
        return now - self._full_since > STALLS

    def _limit(self) -> float:
        if self.closing:
            return STALLS
        arrived = self._reading.arrived if self._reading is not None else 0
        return READS + arrived / SLOWEST if arrived else IDLE

    # --- the transport ---------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=WRITE_AHEAD)
        self.peer = str((transport.get_extra_info("peername") or [""])[0])
        if not self._clients.admit(self):
            message, hint = "there are too many connections", "try again later"
            self.closing = True
            self.say(answers.error("openai", 503, "overloaded", message, hint))
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 (its name is asyncio's)
        self._clients.leave(self)
        self._transport = None
        self._waiting = ()
        self._drop()
        self._release(self._held)
        self.resume_writing()
        if self._task is not None:
            # Whoever generates for nobody is stopped: its connection is closed with the task.
            self._task.cancel()

    def pause_writing(self) -> None:
        self._writable = self._loop.create_future()
        self._full_since = self._loop.time()
        self._left = 0

    def resume_writing(self) -> None:
        waiter, self._writable = self._writable, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
        self.on_writable()

    def data_received(self, data: bytes) -> None:
        if self.closing:
            return
        if self._reading is None:
            self._reading = Reading(self, self._clients)
        self._reading.feed(data)

    # --- what is read ----------------------------------------------------------------------

    def begun(self) -> None:
        if self._task is None:
            self._since = self._loop.time()

    def refusal(self, request: Request) -> bytes | None:
        return self._front.refusal(request, self.peer)

    def go_on(self) -> None:
        # In the middle of another answer it cannot be said: the client goes on by itself.
        if self._task is None:
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def take(self, request: Request) -> None:
        self._held += len(request.body)
        if len(self._waiting) >= PIPELINED:
            protocol, message = answers.protocol_of(request), "one request after the other, please"
            self.refuse(answers.error(protocol, 429, "too-many-requests", message))
            return
        self._waiting += (request,)
        if self._task is None:
            self._task = self._loop.create_task(self._work())

    def refuse(self, answer: bytes) -> None:
        """What is wrong with the connection itself ends it, once what was asked is answered."""
        if self.closing:
            return
        self.closing = True
        self._last = marked(answer, [(b"connection", b"close")])
        if self._reading is not None:
            self._reading.give_up()
        if self._task is None:
            self._part()

    def _drop(self) -> None:
        """What is there of a request is not needed, nor what has read it."""
        if self._reading is not None:
            self._reading.give_up()
            self._reading = None

    # --- the answers -----------------------------------------------------------------------

    async def _work(self) -> None:
        try:
            while self._waiting:
                request, self._waiting = self._waiting[0], self._waiting[1:]
                await self._answer(request)
                if not request.keep_alive or self._retired:
                    self.closing = True
                    self.close()
                    return
                # An answer that is not taken is the last that waits.
                await self.drained()
        finally:
            self._task = None
            self._since = self._loop.time()
        if self._last:
            self._part()

    async def _answer(self, request: Request) -> None:
        self._silent, self._bodiless = True, request.method == b"HEAD"
        self._weight = len(request.body)
        if self._reading is not None and self._reading.idle:
            # An answer may take hours, and a parser is a third of what a connection takes.
            self._reading = None
        try:
            await self._front.answer(self, request)
        except asyncio.CancelledError:
            if self._silent and not self.gone:
                protocol, again = answers.protocol_of(request), (b"retry-after", b"1")
                message = "the gateway ends before this was answered"
                self.say(answers.error(protocol, 503, "ended", message, "try again", again))
            raise
        except Exception as error:  # noqa: BLE001 - a task boundary: the bug is told
            traceback.print_exception(error)
            if not self._silent:
                self.abort()
                return
            request.keep_alive = False
            message = f"the gateway has a bug: {error!r}"
            self.say(answers.error(answers.protocol_of(request), 500, "bug", message))
        finally:
            self.weighs(0)

    def weighs(self, size: int) -> None:
        """So many bytes are taken by the request that is answered."""
        self._release(self._weight - size)
        self._weight = size

    def _release(self, size: int) -> None:
        size = min(size, self._held)
        self._held -= size
        self._clients.held -= size

    def _part(self) -> None:
        """Say the last word, and let the client read it."""
        self._bodiless = False
        self.say(self._last)
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write_eof()
            self._loop.call_later(LINGERS, self.abort)

    # --- for whoever answers ---------------------------------------------------------------

    def say(self, answer: bytes) -> None:
        """Send the beginning of an answer, or the whole of one that is there already: then no body
        goes to a client that wants none."""
        if self._bodiless:
            answer = answer[: answer.index(b"\r\n\r\n") + 4]
        self.write(answer)

    def write(self, data: bytes) -> None:
        """Send; never waits (see `drained`)."""
        self._silent = False
        if self._transport is not None:
            self._transport.write(data)

    def write_many(self, pieces: list[bytes]) -> None:
        if self._transport is not None:
            self._transport.writelines(pieces)

    async def retire(self) -> None:
        """Take no request any more, and wait for the answer to what is under way."""
        self._retired = True
        if self._task is None:
            self.closing = True
            self.close()
        else:
            await asyncio.wait({self._task})

    async def drained(self) -> None:
        """Until the client has taken most of what was written."""
        if self._writable is not None:
            await self._writable

    async def end(self) -> None:
        """Break off what is under way, which tells the client, and close."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        self.close()

    def close(self) -> None:
        """After what is written."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """At once: an answer that cannot be finished must not look finished."""
        if self._transport is not None:
            with contextlib.suppress(OSError):
                self._transport.abort()


def in_system(transport: asyncio.Transport) -> int:
    """Bytes that were written, and that the other side has not taken yet."""
    sock = transport.get_extra_info("socket")
    try:
        raw = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4))
    except OSError:
        return 0
    return int.from_bytes(raw, sys.byteorder)


def _nothing() -> None:
    """Nobody waits."""
