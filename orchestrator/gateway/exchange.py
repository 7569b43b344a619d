"""One request, from its name to the last byte of its answer: route, wait, send, relay, try others.

A request is sent once more, there or elsewhere, only while nothing of an answer has reached the
client. What a client sees after that is either whole, or ends with an error that says so.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Coroutine, Iterator, Sequence
from typing import Any

from msgspec import Struct, field
from msgspec.structs import replace

from orchestrator.core.gateway_spec import Trigger
from orchestrator.gateway import answers, cloud, early, form
from orchestrator.gateway.affinity import Key, key_of
from orchestrator.gateway.call import Call
from orchestrator.gateway.choice import Choice
from orchestrator.gateway.inbound import Inbound
from orchestrator.gateway.message import Headers, request_bytes
from orchestrator.gateway.ollama_ask import Asked, AskError, Json
from orchestrator.gateway.outbound import Head, LostError, Outbound, Pool
from orchestrator.gateway.reply import Reply
from orchestrator.gateway.room import (
    FullError,
    HopelessError,
    LateError,
    Room,
    Seat,
    Wants,
)
from orchestrator.gateway.table import Route, Table, Target

ATTEMPTS = 4
"""Times that one leg of a request is sent, to whoever serves it then."""

TRY_OTHERS = frozenset({502, 503, 504})
"""Answers that another instance, or the same one in a moment, may not give."""

AGAIN_AFTER = 5.0
"""Seconds that a client is told to wait where nobody knows better."""

LONGEST = 60.0
"""Seconds that a client is told to wait at most."""


_NEVER: frozenset[str] = frozenset()


class _NextError(Exception):
    """This leg has failed for `reason`; the answer says how, in case there is no other."""

    def __init__(
        self,
        reason: Trigger,
        status: int,
        code: str,
        message: str,
        hint: str = "",
        *,
        again: float | None = None,
    ) -> None:
        super().__init__(message)
        self.reason, self.status, self.code = reason, status, code
        self.message, self.hint, self.again = message, hint, again


class _Leg(Struct):
    """One of the ways to serve a request. `falls` are the reasons for which there is another."""

    route: Route
    falls: frozenset[str]
    until: float | None = None
    """When it is slow, by the loop's clock."""


class Exchanges(Struct):
    """All that is under way."""

    room: Room
    pool: Pool = field(default_factory=Pool)

    async def serve(self, inbound: Inbound, call: Call) -> None:
        """Write the answer, whatever it is."""
        try:
            await self._serve(inbound, call)
        except asyncio.CancelledError:
            if call.begun and not inbound.gone:
                message = "the gateway ends before this was answered"
                early.fail(inbound, call, 503, "ended", message, "try again")
            raise

    async def _serve(self, inbound: Inbound, call: Call) -> None:
        failures: list[_NextError] = []
        routes = tuple(self._routes(call.route))
        for route in routes:
            falls = call.route.on if route is not routes[-1] else _NEVER
            try:
                await self._leg(inbound, call, _Leg(route, falls))
                return
            except AskError as error:
                wrong = _NextError("failing", 400, "bad-request", error.message, error.hint)
                failures = [wrong]
                break
            except _NextError as error:
                failures.append(error)
                if error.reason not in falls:
                    break
                call.record.fallbacks += 1
        self._refuse(inbound, call, failures)

    def _routes(self, route: Route) -> Iterator[Route]:
        """The route, then what it falls back to, and so on; each once, so a circle ends."""
        seen: set[str] = set()
        ahead = [route]
        while ahead:
            one = ahead.pop(0)
            if one.name in seen:
                continue
            seen.add(one.name)
            yield one
            routes = (self.room.table.leg(name) for name in one.fallback)
            ahead[:0] = [found for found in routes if found is not None]

    async def _leg(self, inbound: Inbound, call: Call, leg: _Leg) -> None:
        now = asyncio.get_running_loop().time()
        if leg.route.slow is not None and "slow" in leg.falls:
            leg.until = now + leg.route.slow
        lost, sent = "", True
        for attempt in range(ATTEMPTS):
            seat = await self._seat(inbound, call, leg)
            last = attempt + 1 == ATTEMPTS
            # A deed that is refused is not tried again, and what a look is told is what it wants to
            # know: the answer is the client's, and says nothing of whether others are served.
            final = last or call.light or not call.repeatable
            try:
                await self._ask(inbound, call, seat, leg, last=final)
                return
            except LostError as error:
                lost, sent = f"{seat.target.name}: {error}", error.sent
                self.room.shun(seat.target)
            finally:
                self.room.leave(seat)
            if last or seat.target.is_cloud or (sent and not call.repeatable):
                # What was sent may have been worked on: it is paid for, or done.
                break
            call.record.retried += (seat.target.name,)
        raise _NextError("failing", 502, "lost", lost)

    async def _seat(self, inbound: Inbound, call: Call, leg: _Leg) -> Seat:
        route = leg.route

        def meant(table: Table) -> Sequence[Choice]:
            # An edit may have changed what the name means while the request waited.
            return table.choices(table.leg(route.name) or route)

        def wants(table: Table) -> Sequence[Choice]:
            if "down" not in leg.falls:
                return meant(table)
            return tuple(one for one in meant(table) if one[1].serves or one[1].comes_soon)

        def starting() -> str:
            targets = [target for _, target in wants(self.room.table)]
            wakes = next((target.name for target in targets if target.wakes), "")
            return "" if any(target.serves for target in targets) else wakes

        wakes = starting()
        patience = route.slow if "overloaded" in leg.falls else None
        loop = asyncio.get_running_loop()
        began = loop.time()
        taking = self.room.take(
            wants,
            client=call.record.client,
            priority=call.priority,
            deadline=patience,
            light=call.light,
            key=_affinity(call, leg),
        )
        try:
            if wakes and early.has_comments(call):
                return await early.kept_open(inbound, call, self.room, taking, starting)
            return await taking
        except HopelessError:
            raise _unserved(leg, [target for _, target in meant(self.room.table)]) from None
        except FullError:
            raise self._overloaded(route, wants, "as many wait for it as may") from None
        except LateError:
            choices = meant(self.room.table)
            if any(target.serves for _, target in choices):
                why = "every slot of it was busy for too long"
                raise self._overloaded(route, wants, why) from None
            raise _unserved(leg, [target for _, target in choices]) from None
        finally:
            call.record.waited += loop.time() - began

    def _overloaded(self, route: Route, wants: Wants, why: str) -> _NextError:
        again = self.room.again_after(wants(self.room.table))
        message = f"{route.name}: {why}"
        return _NextError("overloaded", 429, "overloaded", message, "try again later", again=again)

    async def _ask(
        self, inbound: Inbound, call: Call, seat: Seat, leg: _Leg, *, last: bool
    ) -> None:
        """Send, and relay what comes. Raises `LostError` when it is to be tried once more."""
        target = seat.target
        asked = call.translated(target)
        if target.is_cloud and not cloud.speaks(asked.path if asked is not None else call.path):
            message = f"{target.name} is only asked in OpenAI's protocol"
            raise _NextError("failing", 503, "other-protocol", message)
        outbound, head = await self._in_time(
            self._answer(call, _to_send(call, seat, asked), target, leg), leg
        )
        try:
            _judge(target, head, leg, last=last)
            await self._relay(inbound, call, outbound, head, target, asked)
        except BaseException:
            outbound.close()
            raise
        self.pool.give_back(target.address, outbound, tls=target.tls, verified=target.is_cloud)

    async def _in_time(
        self, answer: Coroutine[Any, Any, tuple[Outbound, Head]], leg: _Leg
    ) -> tuple[Outbound, Head]:
        if leg.until is None:
            return await answer
        try:
            async with asyncio.timeout_at(leg.until):
                return await answer
        except TimeoutError:
            message = f"{leg.route.name} has not answered within {leg.route.slow:g} s"
            raise _NextError("slow", 504, "slow", message) from None

    async def _answer(
        self, call: Call, data: bytes, target: Target, leg: _Leg
    ) -> tuple[Outbound, Head]:
        """The head of the answer; where slowness counts, once the body has begun, too."""
        # What cannot be sent twice is not sent where nobody may read it any more.
        fresh = not call.repeatable
        while True:
            outbound = await self.pool.connect(
                target.address, tls=target.tls, verified=target.is_cloud, fresh=fresh
            )
            try:
                head = await outbound.ask(data)
                if leg.until is not None:
                    await outbound.begun()
                return outbound, head
            except LostError:
                if not outbound.used or fresh or target.is_cloud:
                    raise
                # It was closed while it was idle: that says nothing of the instance. A cloud keeps
                # it for longer than we do: if it ends, what was sent may have been worked on.
                fresh = True
            except BaseException:
                outbound.close()
                raise

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
            await early.fail_as_told(inbound, call, outbound, head, target.name)
            return
        reply = Reply(inbound, outbound, call, head, target, asked)
        # From here on it is the reply that ends it.
        call.begun = False
        inbound.on_writable = outbound.resume
        try:
            end = outbound.relay(reply.write)
            reply.begin()
            call.forget()
            inbound.weighs(len(call.request.body))
            await end
        except LostError as lost:
            call.record.lost = True
            reply.broken(f"{target.name} broke off: {lost}")
        except asyncio.CancelledError:
            if not inbound.gone:
                reply.broken("the gateway ends")
            raise
        else:
            reply.end()
        finally:
            inbound.on_writable = _nothing

    def _refuse(self, inbound: Inbound, call: Call, failures: Sequence[_NextError]) -> None:
        """Say what has failed first, and then all else that was tried."""
        first = failures[0]
        message = "; then ".join(dict.fromkeys(one.message for one in failures))
        hint = next((one.hint for one in failures if one.hint), "")
        if call.begun:
            early.fail(inbound, call, first.status, first.code, message, hint)
            return
        call.record.status = first.status
        more: Headers = list(call.record.marks)
        if first.status in (429, 503):
            again = AGAIN_AFTER if first.again is None else min(max(first.again, 1.0), LONGEST)
            more.append((b"retry-after", b"%d" % math.ceil(again)))
        inbound.say(answers.error(call.protocol, first.status, first.code, message, hint, *more))


def _affinity(call: Call, leg: _Leg) -> Key | None:
    """Worked out where there is a choice."""
    return key_of(call.request.headers, call.body) if len(leg.route.aims) > 1 else None


def _unserved(leg: _Leg, targets: Sequence[Target]) -> _NextError:
    """Why nobody serves it: the cause of the first that is down."""
    if not targets:
        message = f"nothing serves {leg.route.name} any more"
        return _NextError("down", 503, "unavailable", message)
    down = next((one for one in targets if not one.serves), targets[0])
    why = ", ".join(word for word in (down.phase, down.reason) if word)
    said = f": {down.message}" if down.message else ""
    hint = f"orchestrate status {down.name}"
    return _NextError(
        "down", 503, down.reason or "unavailable", f"{down.name} is {why}{said}", hint
    )


def _judge(target: Target, head: Head, leg: _Leg, *, last: bool) -> None:
    """Whether the answer is one for the client: else this raises what is to be done instead."""
    said = f"{target.name} has answered {head.status}"
    if target.is_cloud and head.status in cloud.REFUSED:
        hint = "look at its `key:`, and apply again"
        raise _NextError("failing", 502, "cloud-key", f"{said}: it refuses our key", hint)
    if head.status == 429 and "overloaded" in leg.falls:
        raise _NextError("overloaded", 429, "overloaded", said)
    if target.is_cloud:
        if head.status >= 500 and "failing" in leg.falls:
            raise _NextError("failing", 502, "lost", said)
    elif head.status in TRY_OTHERS:
        if not last:
            raise LostError(f"it has answered {head.status}")
        if "failing" in leg.falls:
            raise _NextError("failing", 502, "lost", said)


def _to_send(call: Call, seat: Seat, asked: Asked | None) -> bytes:
    """The request as this target is to see it."""
    target, request = seat.target, call.request
    more: Headers = [(b"x-request-id", call.record.id.encode())]
    if target.key:
        more.append((b"authorization", b"Bearer " + target.key.encode()))
    path = call.path
    if asked is not None:
        path = asked.path
        more += [(b"accept", b""), (b"accept-encoding", b"")]
    body = _body(call, seat.aim.model, asked, elsewhere=target.is_cloud)
    if body is not request.body:
        request = replace(request, body=body, method=asked.method if asked else request.method)
    if target.is_cloud:
        return cloud.to_send(request, path, target, request_id=call.record.id.encode())
    host, port = target.address
    authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return request_bytes(
        request, target=target.prefix.encode() + path, host=authority.encode(), more=more
    )


def _body(call: Call, model: str, asked: Asked | None, *, elsewhere: bool) -> bytes:
    """What is sent: translated, or with the model called as it is called there, or as it came."""
    said = call.body
    if asked is not None:
        whole = {**(asked.body or {}), "model": model or call.route.name}
        return _packed(cloud.plain(whole) if elsewhere else whole) if asked.body else b""
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
