"""What a path means: which model is asked for, or which list; and who may ask."""

from __future__ import annotations

import asyncio
import hmac
import json
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast
from urllib.parse import unquote

from orchestrator.core.problem import did_you_mean
from orchestrator.core.problem import listing as listed
from orchestrator.gateway import answers, listing
from orchestrator.gateway.exchange import Call, Exchanges
from orchestrator.gateway.inbound import Inbound
from orchestrator.gateway.message import Request, document
from orchestrator.gateway.record import Record
from orchestrator.gateway.room import Room
from orchestrator.gateway.table import Aim, Route

PRIORITIES = {b"high": 1, b"normal": 0, b"low": -1}
"""What `x-priority` may say."""

HEALTH = ("/health", "/healthz")
"""Whether it turns: asked by the daemon again and again, so not worth a line."""

LISTS = {
    "/v1/models": listing.openai,
    "/models": listing.openai,
    "/api/tags": listing.ollama,
}


@dataclass(slots=True)
class Front:
    """Answers every request of every client. `begun` is called with each as it comes, `told` when
    it is over."""

    room: Room
    exchanges: Exchanges
    begun: Callable[[Record], None]
    told: Callable[[Record, Request], None]
    token: str = ""

    async def answer(self, inbound: Inbound, request: Request) -> None:
        """Write the answer to one request."""
        loop = asyncio.get_running_loop()
        client, who = _client(inbound, request)
        record = Record(loop.time(), _id(request.header(b"x-request-id")), client, who)
        if request.path in HEALTH:
            self._say(inbound, record, 200, {"status": "ok"})
            return
        self.begun(record)
        try:
            await self._answer(inbound, request, record)
        except asyncio.CancelledError:
            record.status, record.gone = record.status or 499, True
            raise
        finally:
            self.told(record, request)

    async def _answer(self, inbound: Inbound, request: Request, record: Record) -> None:
        path = request.path
        if not self._may(request):
            hint = "send it as `Authorization: Bearer ...`, or as `x-api-key`"
            self._refuse(inbound, request, record, 401, "unauthorized", "no valid token", hint)
            return
        if request.method in (b"GET", b"HEAD") and path in LISTS:
            self._say(inbound, record, 200, LISTS[path](self.room.table))
            return
        call = self._call(inbound, request, record)
        if call is not None:
            await self.exchanges.serve(inbound, call)

    def _may(self, request: Request) -> bool:
        if not self.token:
            return True
        bearer = request.header(b"authorization")
        given = bearer[7:] if bearer[:7].lower() == b"bearer " else request.header(b"x-api-key")
        return hmac.compare_digest(given.strip(), self.token.encode())

    def _call(self, inbound: Inbound, request: Request, record: Record) -> Call | None:
        """Whom it goes to; None when it was refused."""
        if request.path.startswith("/instances/"):
            return self._to_instance(inbound, request, record)
        if request.method != b"POST":
            what = f"{request.method.decode('latin-1')} {request.path}"
            self._refuse(inbound, request, record, 404, "not-found", f"no such path: {what}")
            return None
        try:
            parsed: object = json.loads(request.body)
        except (ValueError, RecursionError) as error:
            message = f"the body is not JSON: {error}"
            self._refuse(inbound, request, record, 400, "bad-json", message)
            return None
        body = cast("dict[str, object]", parsed) if isinstance(parsed, dict) else {}
        model = body.get("model")
        if not isinstance(model, str) or not model:
            route = self._only_route()
            if route is None:
                message = "the request names no model"
                self._refuse(inbound, request, record, 400, "no-model", message, self._known())
                return None
        else:
            route = self.room.table.route(model)
        if route is None:
            hint = did_you_mean(str(model), self.room.table.names) or self._known()
            message = f"no model {str(model)[:200]!r}"
            self._refuse(inbound, request, record, 404, "model-not-found", message, hint)
            return None
        record.model = route.name
        return Call(
            request,
            route,
            request.target,
            answers.protocol_of(request.path),
            record,
            body,
            PRIORITIES.get(request.header(b"x-priority").lower(), 0),
        )

    def _to_instance(self, inbound: Inbound, request: Request, record: Record) -> Call | None:
        """`/instances/NAME/...` is the instance's own `/...`."""
        _, _, name, *rest = request.target.split(b"/", 3)
        known = unquote(name.partition(b"?")[0].decode("latin-1"))
        if known not in self.room.table.targets:
            hint = f"one of: {listed(list(self.room.table.targets))}"
            message = f"no instance {known[:200]!r}"
            self._refuse(inbound, request, record, 404, "instance-not-found", message, hint)
            return None
        record.model = known
        route = Route(f"/instances/{known}", (Aim(known),))
        return Call(request, route, b"/" + b"".join(rest), "openai", record)

    def _known(self) -> str:
        return f"one of: {listed(list(self.room.table.names)) or 'none is declared'}"

    def _only_route(self) -> Route | None:
        """Where there is one name only, a client need not say it."""
        routes = list(self.room.table.names.values())
        return routes[0] if len(routes) == 1 else None

    def _say(self, inbound: Inbound, record: Record, status: int, body: object) -> None:
        record.status = status
        inbound.write(document(status, body, (b"x-request-id", record.id.encode("latin-1"))))

    def _refuse(
        self,
        inbound: Inbound,
        request: Request,
        record: Record,
        status: int,
        code: str,
        message: str,
        hint: str = "",
    ) -> None:
        record.status = status
        mark = (b"x-request-id", record.id.encode("latin-1"))
        protocol = answers.protocol_of(request.path)
        inbound.write(answers.error(protocol, status, code, message, hint, mark))


def _id(given: bytes) -> str:
    """The client's own, where it can stand in a header and in a line; else one of ours."""
    text = given.decode("latin-1")
    return text if _SANE.fullmatch(text) else secrets.token_hex(8)


_SANE = re.compile(r"[!-~]{1,128}")


def _client(inbound: Inbound, request: Request) -> tuple[str, str]:
    """Who is to be treated fairly: whoever says so, else who has the token, else the address; and
    what of that may be shown."""
    called = request.header(b"x-client-id").decode("latin-1")[:200]
    token = request.header(b"authorization").decode("latin-1")[:200]
    return called or token or inbound.peer, called or inbound.peer
