"""One request, from its name to the last byte of its answer: route, wait, send, relay, try others.

A request is sent once more, there or elsewhere, only while nothing of an answer has reached the
client. What a client sees after that is either whole, or ends with an error that says so.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from orchestrator.gateway import answers, early, form
from orchestrator.gateway.call import Call
from orchestrator.gateway.inbound import Inbound
from orchestrator.gateway.message import Headers, request_bytes
from orchestrator.gateway.ollama_ask import Asked, AskError, Json
from orchestrator.gateway.outbound import Head, LostError, Outbound, Pool
from orchestrator.gateway.reply import Reply
from orchestrator.gateway.room import (
    Choice,
    FullError,
    HopelessError,
    LateError,
    Room,
    Seat,
)
from orchestrator.gateway.table import Route, Table, Target

KEYS = (b"authorization", b"x-api-key")
"""Headers by which a client says its token."""

ATTEMPTS = 4
"""Times that one leg of a request is sent, to whoever serves it then."""

TRY_OTHERS = frozenset({502, 503, 504})
"""Answers that another instance, or the same one in a moment, may not give."""

AGAIN_AFTER = 5
"""Seconds that a client is told to wait where nobody knows better."""


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
        try:
            await self._serve(inbound, call)
        except AskError as error:
            wrong = _NextError(400, "bad-request", error.message, error.hint)
            self._refuse(inbound, call, wrong)

    async def _serve(self, inbound: Inbound, call: Call) -> None:
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
            seat = await self._seat(inbound, call, leg, more=more)
            try:
                if await self._ask(inbound, call, seat, leg, last=attempt + 1 == ATTEMPTS):
                    return
            finally:
                self.room.leave(seat)
            call.record.retried.append(seat.target.name)
        raise _NextError(502, "lost", f"{leg.name} has broken off {ATTEMPTS} times")

    async def _seat(self, inbound: Inbound, call: Call, leg: Route, *, more: bool) -> Seat:
        def wants(table: Table) -> Sequence[Choice]:
            # An edit may have changed what the name means while the request waited.
            return tuple(table.aims(table.route(leg.name) or leg))

        def starting() -> str:
            targets = [target for _, target in wants(self.room.table)]
            wakes = next((target.name for target in targets if target.wakes), "")
            return "" if any(target.serves for target in targets) else wakes

        wakes = starting()
        if more and not wakes and not any(t.serves for _, t in wants(self.room.table)):
            raise _unserved(leg, [target for _, target in wants(self.room.table)])
        loop = asyncio.get_running_loop()
        began = loop.time()
        taking = self.room.take(
            wants,
            client=call.record.client,
            priority=call.priority,
            deadline=leg.slow if more else None,
            light=call.light,
        )
        try:
            if wakes and early.has_comments(call):
                return await early.kept_open(inbound, call, self.room, taking, starting)
            return await taking
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
        asked = call.translated(target)
        data = _to_send(call, seat, asked)
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
            await self._relay(inbound, call, outbound, head, target, asked)
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
        self,
        inbound: Inbound,
        call: Call,
        outbound: Outbound,
        head: Head,
        target: Target,
        asked: Asked | None,
    ) -> None:
        if call.begun and not early.fits(head):
            call.record.target = target.name
            await early.fail_as_told(inbound, call, outbound, head, target.name)
            return
        reply = Reply(inbound, call, head, target, asked)

        def write(piece: bytes) -> None:
            reply.write(piece)
            if inbound.full:
                outbound.pause()

        inbound.on_writable = outbound.resume
        try:
            await outbound.relay(write)
        except LostError as lost:
            call.record.lost = True
            reply.broken(f"{target.name} broke off: {lost}")
        else:
            reply.end()
            await inbound.drained()
        finally:
            inbound.on_writable = _nothing

    def _refuse(self, inbound: Inbound, call: Call, error: _NextError) -> None:
        if call.begun:
            early.fail(inbound, call, error.status, error.code, error.message, error.hint)
            return
        call.record.status = error.status
        more: Headers = list(call.record.marks)
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


def _to_send(call: Call, seat: Seat, asked: Asked | None) -> bytes:
    """The request as this target is to see it."""
    target, request = seat.target, call.request
    more: Headers = [(b"x-request-id", call.record.id.encode())]
    # The gateway's own token is nobody else's.
    more += [(name, b"") for name in KEYS if request.header(name)]
    if target.key:
        more.append((b"authorization", b"Bearer " + target.key.encode()))
    path = call.path
    if asked is not None:
        path = asked.path
        more += [(b"accept", b""), (b"accept-encoding", b"")]
    body = _body(call, seat.aim.model, asked)
    if body is not request.body:
        request = replace(request, body=body, method=asked.method if asked else request.method)
    host, port = target.address
    authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return request_bytes(
        request, target=target.prefix.encode() + path, host=authority.encode(), more=more
    )


def _body(call: Call, model: str, asked: Asked | None) -> bytes:
    """What is sent: translated, or with the model called as it is called there, or as it came."""
    said = call.body
    if asked is not None:
        return _packed({**asked.body, "model": model or call.route.name}) if asked.body else b""
    if model and call.span is not None:
        return form.replaced(call.request.body, call.span, model)
    if model and said is not None and said.get("model") != model:
        return _packed({**said, "model": model})
    return call.request.body


def _packed(body: Json) -> bytes:
    try:
        return json.dumps(body).encode()
    except RecursionError:
        raise AskError("the request is nested too deeply") from None


def _nothing() -> None:
    """Nobody waits."""
