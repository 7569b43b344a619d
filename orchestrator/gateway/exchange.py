"""One request, from its name to the last byte of its answer: route, wait, send, relay, try others.

A request is sent once more, there or elsewhere, only while nothing of an answer has reached the
client. What a client sees after that is either whole, or ends with an error that says so.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from orchestrator.gateway import answers
from orchestrator.gateway.inbound import Inbound
from orchestrator.gateway.message import HOP_BY_HOP, Headers, Request, head_bytes, request_bytes
from orchestrator.gateway.outbound import Head, LostError, Outbound, Pool
from orchestrator.gateway.record import Record
from orchestrator.gateway.room import (
    Choice,
    FullError,
    HopelessError,
    LateError,
    Room,
    Seat,
)
from orchestrator.gateway.table import Route, Table, Target

ATTEMPTS = 4
"""Times that one leg of a request is sent, to whoever serves it then."""

TRY_OTHERS = frozenset({502, 503, 504})
"""Answers that another instance, or the same one in a moment, may not give."""

AGAIN_AFTER = 5
"""Seconds that a client is told to wait where nobody knows better."""


@dataclass(slots=True)
class Call:
    """A request whose route is known. `path` is what the instance is asked for."""

    request: Request
    route: Route
    path: bytes
    protocol: answers.Protocol
    record: Record
    body: dict[str, object] | None = None
    """The request's JSON, where it has a model that may have to be called otherwise."""
    priority: int = 0


class _NextError(Exception):
    """This leg has failed; the answer says how, in case there is no other."""

    def __init__(self, status: int, code: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.hint = status, code, message, hint


@dataclass(slots=True)
class Exchanges:
    """All that is under way."""

    room: Room
    pool: Pool = field(default_factory=Pool)

    async def serve(self, inbound: Inbound, call: Call) -> None:
        """Write the answer, whatever it is."""
        first: _NextError | None = None
        legs = list(self._legs(call.route))
        for at, leg in enumerate(legs):
            try:
                await self._leg(inbound, call, leg, more=at + 1 < len(legs))
                return
            except _NextError as error:
                first = first or error
                call.record.fallbacks += 1
        assert first is not None, "a route has at least one leg"
        self._refuse(inbound, call, first)

    def _legs(self, route: Route) -> Iterator[Route]:
        """The route, then what it falls back to, and so on; each once, so a circle ends."""
        seen: set[str] = set()
        ahead = [route]
        while ahead:
            one = ahead.pop(0)
            if one.name in seen:
                continue
            seen.add(one.name)
            yield one
            routes = (self.room.table.route(name) for name in one.fallback)
            ahead[:0] = [found for found in routes if found is not None]

    async def _leg(self, inbound: Inbound, call: Call, leg: Route, *, more: bool) -> None:
        for attempt in range(ATTEMPTS):
            seat = await self._seat(call, leg, more=more)
            try:
                if await self._ask(inbound, call, seat, leg, last=attempt + 1 == ATTEMPTS):
                    return
            finally:
                self.room.leave(seat)
            call.record.retried.append(seat.target.name)
        raise _NextError(502, "lost", f"{leg.name} has broken off {ATTEMPTS} times")

    async def _seat(self, call: Call, leg: Route, *, more: bool) -> Seat:
        def wants(table: Table) -> Sequence[Choice]:
            # An edit may have changed what the name means while the request waited.
            return tuple(table.aims(table.route(leg.name) or leg))

        if more and not any(target.serves for _, target in wants(self.room.table)):
            raise _unserved(leg, [target for _, target in wants(self.room.table)])
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            return await self.room.take(
                wants,
                client=call.record.client,
                priority=call.priority,
                deadline=leg.slow if more else None,
            )
        except HopelessError as error:
            raise _unserved(leg, error.targets) from None
        except FullError:
            message = f"{self.room.size} requests wait already"
            raise _NextError(429, "overloaded", message, "try again later") from None
        except LateError:
            if any(target.serves for _, target in wants(self.room.table)):
                message = f"every slot of {leg.name} was busy for too long"
                raise _NextError(429, "overloaded", message, "try again later") from None
            raise _unserved(leg, [target for _, target in wants(self.room.table)]) from None
        finally:
            call.record.waited += loop.time() - began

    async def _ask(
        self, inbound: Inbound, call: Call, seat: Seat, leg: Route, *, last: bool
    ) -> bool:
        """Send, and relay what comes. False when it is to be tried once more."""
        target = seat.target
        data = _to_send(call, seat)
        fresh = False
        while True:
            try:
                outbound = await self.pool.connect(target.address, tls=target.tls, fresh=fresh)
            except LostError:
                self.room.shun(target.name)
                return False
            try:
                head = await self._head(outbound, data, leg)
            except LostError:
                if outbound.used and not fresh:
                    # It was closed while it was idle: that says nothing of the instance.
                    fresh = True
                    continue
                self.room.shun(target.name)
                return False
            except BaseException:
                outbound.close()
                raise
            break
        if head.status in TRY_OTHERS and not last:
            outbound.close()
            self.room.shun(target.name)
            return False
        try:
            await self._relay(inbound, call, outbound, head, target)
        except BaseException:
            outbound.close()
            raise
        self.pool.give_back(target.address, outbound, tls=target.tls)
        return True

    async def _head(self, outbound: Outbound, data: bytes, leg: Route) -> Head:
        answer = outbound.ask(data)
        if leg.slow is None or not leg.fallback:
            return await answer
        try:
            async with asyncio.timeout(leg.slow):
                return await answer
        except TimeoutError:
            message = f"{leg.name} has not answered within {leg.slow:g} s"
            raise _NextError(504, "slow", message) from None

    async def _relay(
        self, inbound: Inbound, call: Call, outbound: Outbound, head: Head, target: Target
    ) -> None:
        record = call.record
        record.target, record.status = target.name, head.status
        write, end = self._writer(inbound, call, outbound, head, target)
        inbound.on_writable = outbound.resume
        try:
            await outbound.relay(write)
        except LostError as lost:
            record.lost = True
            self._break_off(inbound, call, head, f"{target.name} broke off: {lost}")
        else:
            end()
            await inbound.drained()
        finally:
            inbound.on_writable = _nothing

    def _writer(
        self, inbound: Inbound, call: Call, outbound: Outbound, head: Head, target: Target
    ) -> tuple[Callable[[bytes], None], Callable[[], None]]:
        """How a piece of the body goes to the client, and what comes after the last."""
        record, loop = call.record, asyncio.get_running_loop()
        headers: Headers = [one for one in head.headers if one[0] not in HOP_BY_HOP]
        headers += [
            (b"x-orchestrate-instance", target.name.encode()),
            (b"x-request-id", record.id.encode()),
        ]
        flow = record.watch(
            call.request.path, head.header(b"content-type"), head.header(b"content-encoding")
        )
        framing, chunked = _framing(call, head)
        inbound.write(head_bytes(head.status, [*headers, *framing]))

        def write(piece: bytes) -> None:
            if record.first_byte is None:
                record.first_byte = loop.time()
            record.sent += len(piece)
            flow.take(piece)
            if chunked:
                inbound.write_many([b"%x\r\n" % len(piece), piece, b"\r\n"])
            else:
                inbound.write(piece)
            if inbound.full:
                outbound.pause()

        def end() -> None:
            if chunked:
                inbound.write(b"0\r\n\r\n")

        return write, end

    def _break_off(self, inbound: Inbound, call: Call, head: Head, message: str) -> None:
        """The instance is gone in the middle: a stream is told, anything else is cut off."""
        if call.record.streamed and not head.header(b"content-length"):
            event = answers.error_event(call.protocol, message)
            if call.request.chunked_is_known:
                event = b"%x\r\n" % len(event) + event + b"\r\n0\r\n\r\n"
            inbound.write(event)
        else:
            inbound.abort()

    def _refuse(self, inbound: Inbound, call: Call, error: _NextError) -> None:
        call.record.status = error.status
        more: list[tuple[bytes, bytes]] = [(b"x-request-id", call.record.id.encode())]
        if error.status in (429, 503):
            more.append((b"retry-after", b"%d" % AGAIN_AFTER))
        inbound.write(
            answers.error(call.protocol, error.status, error.code, error.message, error.hint, *more)
        )


def _unserved(leg: Route, targets: Sequence[Target]) -> _NextError:
    """Why nobody serves it: the cause of the first that is down."""
    if not targets:
        return _NextError(503, "unavailable", f"nothing serves {leg.name} any more")
    down = next((one for one in targets if not one.serves), targets[0])
    why = ", ".join(word for word in (down.phase, down.reason) if word)
    said = f": {down.message}" if down.message else ""
    hint = f"orchestrate status {down.name}"
    return _NextError(503, down.reason or "unavailable", f"{down.name} is {why}{said}", hint)


def _to_send(call: Call, seat: Seat) -> bytes:
    """The request as this target is to see it."""
    target, request = seat.target, call.request
    more: Headers = [(b"x-request-id", call.record.id.encode())]
    if target.key:
        more.append((b"authorization", b"Bearer " + target.key.encode()))
    elif request.header(b"authorization"):
        # The gateway's own token is nobody else's.
        more.append((b"authorization", b""))
    if seat.aim.model and call.body is not None and call.body.get("model") != seat.aim.model:
        body = json.dumps({**call.body, "model": seat.aim.model}).encode()
        request = Request(
            request.method, request.target, request.headers, body, True, request.chunked_is_known
        )
    host, port = target.address
    authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return request_bytes(
        request, target=target.prefix.encode() + call.path, host=authority.encode(), more=more
    )


def _framing(call: Call, head: Head) -> tuple[Headers, bool]:
    """How the end of the answer is told, and whether that is by chunks."""
    length, headers = head.header(b"content-length"), Headers()
    chunked = not length and call.request.chunked_is_known and _has_body(call, head)
    if length:
        headers.append((b"content-length", length))
    elif chunked:
        headers.append((b"transfer-encoding", b"chunked"))
    elif _has_body(call, head):
        call.request.keep_alive = False
    if not call.request.keep_alive:
        headers.append((b"connection", b"close"))
    return headers, chunked


def _has_body(call: Call, head: Head) -> bool:
    return call.request.method != b"HEAD" and head.status not in (204, 304)


def _nothing() -> None:
    """Nobody waits."""
