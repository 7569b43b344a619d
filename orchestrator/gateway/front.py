"""What a path means: which model is asked for, or which list; and who may ask."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import unquote

from orchestrator.core.problem import did_you_mean
from orchestrator.core.problem import listing as listed
from orchestrator.gateway import answers, listing
from orchestrator.gateway.door import Door, is_preflight
from orchestrator.gateway.exchange import Call, Exchanges, Record
from orchestrator.gateway.inbound import Inbound
from orchestrator.gateway.message import Request, document, head_bytes
from orchestrator.gateway.room import Room
from orchestrator.gateway.table import Aim, Route

PRIORITIES = {b"high": 1, b"normal": 0, b"low": -1}
"""What `x-priority` may say."""

MAX_VALUES = 2_000_000
"""Values in the JSON of a request: each takes some hundred bytes while it is looked at."""

HEALTH = ("/health", "/healthz")
"""Whether it turns: asked by the daemon again and again, so not worth a line."""

LISTS = {
    "/v1/models": listing.openai,
    "/models": listing.openai,
    "/api/tags": listing.ollama,
}


_ID = re.compile(r"[!-~]{1,128}")


@dataclass(slots=True)
class Front:
    """Answers every request of every client. `told` is called with each when it is over."""

    room: Room
    exchanges: Exchanges
    told: Callable[[Record, Request], None]
    door: Door = field(default_factory=Door)

    def refusal(self, inbound: Inbound, request: Request) -> bytes | None:
        """The answer to a request that is not let in."""
        why = self.door.refusal(request, open_path=request.path in HEALTH)
        if why is None:
            return None
        record = _record(inbound, request)
        record.status = why.status
        self.told(record, request)
        marks = [(b"x-request-id", record.id.encode()), *self.door.marks(request)]
        return answers.error(answers.protocol_of(request.path), *why, *marks)

    async def answer(self, inbound: Inbound, request: Request) -> None:
        """Write the answer to one request."""
        record = _record(inbound, request)
        inbound.marks = self.door.marks(request)
        try:
            await self._answer(inbound, request, record)
        except asyncio.CancelledError:
            record.status = record.status or 499
            raise
        finally:
            if request.path not in HEALTH:
                self.told(record, request)

    async def _answer(self, inbound: Inbound, request: Request, record: Record) -> None:
        path = request.path
        if path in HEALTH:
            self._say(inbound, record, 200, {"status": "ok"})
            return
        if is_preflight(request):
            record.status = 204
            inbound.say(head_bytes(204, [(b"x-request-id", record.id.encode())]))
            return
        if request.method in (b"GET", b"HEAD") and path in LISTS:
            self._say(inbound, record, 200, LISTS[path](self.room.table))
            return
        call = self._call(inbound, request, record)
        if call is not None:
            await self.exchanges.serve(inbound, call)

    def _call(self, inbound: Inbound, request: Request, record: Record) -> Call | None:
        """Whom it goes to; None when it was refused."""
        if request.path.startswith("/instances/"):
            return self._to_instance(inbound, request, record)
        if request.method != b"POST":
            what = f"{request.method.decode('latin-1')} {request.path}"
            self._refuse(inbound, request, record, 404, "not-found", f"no such path: {what}")
            return None
        if has_too_many_values(request.body):
            message = "the body has too many values"
            self._refuse(inbound, request, record, 413, "too-large", message)
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
        path, mark, query = request.target.partition(b"?")
        _, _, name, *rest = path.split(b"/", 3)
        known = unquote(name.decode("latin-1"))
        if known not in self.room.table.targets:
            hint = f"one of: {listed(list(self.room.table.targets))}"
            message = f"no instance {known[:200]!r}"
            self._refuse(inbound, request, record, 404, "instance-not-found", message, hint)
            return None
        record.model = known
        route = Route(f"/instances/{known}", (Aim(known),))
        return Call(request, route, b"/" + b"".join(rest) + mark + query, "openai", record)

    def _known(self) -> str:
        return f"one of: {listed(list(self.room.table.names)) or 'none is declared'}"

    def _only_route(self) -> Route | None:
        """Where there is one name only, a client need not say it."""
        routes = list(self.room.table.names.values())
        return routes[0] if len(routes) == 1 else None

    def _say(self, inbound: Inbound, record: Record, status: int, body: object) -> None:
        record.status = status
        inbound.say(document(status, body, (b"x-request-id", record.id.encode())))

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
        mark = (b"x-request-id", record.id.encode())
        protocol = answers.protocol_of(request.path)
        inbound.say(answers.error(protocol, status, code, message, hint, mark))


def has_too_many_values(body: bytes) -> bool:
    """Whether the JSON could take many times the memory of its text."""
    return len(body) > MAX_VALUES and sum(map(body.count, (b",", b"[", b"{"))) > MAX_VALUES


def _record(inbound: Inbound, request: Request) -> Record:
    """A request begins. What it is called by its client is kept, where that can go anywhere."""
    given = request.header(b"x-request-id").decode("latin-1")
    known_as = given if _ID.fullmatch(given) else secrets.token_hex(8)
    return Record(asyncio.get_running_loop().time(), known_as, _client(inbound, request))


def _client(inbound: Inbound, request: Request) -> str:
    """Who is to be treated fairly: whoever says so, else who has the token, else the address."""
    said = request.header(b"x-client-id") or request.header(b"authorization")
    return said.decode("latin-1")[:200] if said else inbound.peer
