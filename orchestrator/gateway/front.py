"""What a path means: which model is asked for, or which list; and who may ask."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
from collections.abc import Callable, Mapping
from typing import Any, cast
from urllib.parse import unquote

from msgspec import Struct, field

from orchestrator.core.problem import did_you_mean
from orchestrator.core.problem import listing as listed
from orchestrator.gateway import answers, form, listing
from orchestrator.gateway.call import Call
from orchestrator.gateway.door import Door, Refused, is_preflight
from orchestrator.gateway.exchange import Exchanges
from orchestrator.gateway.inbound import Inbound
from orchestrator.gateway.message import Request, document, text
from orchestrator.gateway.ollama_ask import Json
from orchestrator.gateway.record import Record
from orchestrator.gateway.room import Room
from orchestrator.gateway.table import Aim, Route, Table

HEALTH = ("/health", "/healthz")
"""Whether it turns: asked by the daemon again and again, so not worth a line."""

OPEN = ("/", *HEALTH)
"""What is answered without a token: nothing of it is anybody's."""

MAX_VALUES = 2_000_000
"""Values in the JSON of a request: each takes some hundred bytes while it is looked at."""

A_VALUE = 64
"""Bytes that each of them is taken for, beside those of the text."""

_ID = re.compile(r"[!-~]{1,128}")
"""What a request may be called by its client."""

SHOWN = 200
"""Characters of a name that are shown, and compared with others to find the nearest: a name may be
as long as a body, and to compare that takes minutes."""

GREETING = "Ollama is running"
"""What clients of Ollama look for at `/` before they ask for anything."""

LISTS: Mapping[str, Callable[[Table], Json]] = {
    "/v1/models": listing.openai,
    "/models": listing.openai,
    "/api/tags": listing.tags,
    "/api/ps": listing.running,
    "/api/version": listing.version,
}

SHORT = frozenset(
    {
        "/chat/completions",
        "/completions",
        "/embeddings",
        "/rerank",
        "/reranking",
        "/responses",
    }
)
"""Paths below `/v1` that llama-server knows without it, too."""

OLLAMA = frozenset({"/api/chat", "/api/generate", "/api/embed", "/api/embeddings", "/api/show"})
"""Paths of Ollama's that name a model and change nothing."""

CHANGING = (
    "/api/pull",
    "/api/push",
    "/api/create",
    "/api/copy",
    "/api/delete",
    "/api/blobs",
)


class RefusedError(Exception):
    """The request goes nowhere; `why` is the answer."""

    def __init__(self, status: int, code: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.why = Refused(status, code, message, hint)


def _nobody(_record: Record) -> None:
    """Nobody wants to know."""


class Front(Struct):
    """Answers every request of every client. `begun` is called with each as it comes, `told` when
    it is over."""

    room: Room
    exchanges: Exchanges
    told: Callable[[Record, Request], None]
    door: Door = field(default_factory=Door)
    begun: Callable[[Record], None] = _nobody

    def refusal(self, request: Request, peer: str) -> bytes | None:
        """The answer to a request from the address `peer` that is not let in."""
        why = self.door.refusal(request, is_open=request.path in OPEN)
        if why is None:
            return None
        record = self._record(request)
        record.client, record.status = peer, why.status
        self.told(record, request)
        return answers.error(answers.protocol_of(request), *why, *record.marks)

    async def answer(self, inbound: Inbound, request: Request) -> None:
        """Write the answer to one request that was let in."""
        record = self._record(request)
        record.client = inbound.peer
        if request.path in HEALTH:
            self._say(inbound, record, {"status": "ok"})
            return
        self.begun(record)
        try:
            call = self._answer(inbound, request, record)
            if call is not None:
                await self.exchanges.serve(inbound, call)
        except RefusedError as error:
            self._refuse(inbound, request, record, error.why)
        except asyncio.CancelledError:
            record.status, record.gone = record.status or 499, True
            raise
        finally:
            self.told(record, request)

    def _record(self, request: Request) -> Record:
        """A request begins. What its client calls it is kept, where that can go anywhere."""
        given = request.header(b"x-request-id").decode("latin-1")
        known_as = given if _ID.fullmatch(given) else secrets.token_hex(8)
        record = Record(asyncio.get_running_loop().time(), known_as)
        record.marks = [(b"x-request-id", known_as.encode()), *self.door.marks(request)]
        return record

    def _answer(self, inbound: Inbound, request: Request, record: Record) -> Call | None:
        """Answer what is answered here; else what an instance is to be asked. Raises
        `RefusedError`."""
        path = request.path
        looks = request.method in (b"GET", b"HEAD")
        if is_preflight(request):
            record.status = 204
            inbound.say(text(204, "", *record.marks, *self.door.allowances(request)))
        elif looks and path == "/":
            record.status = 200
            inbound.say(text(200, GREETING, *record.marks))
        elif looks and (said := self._list(request)) is not None:
            self._say(inbound, record, said)
        else:
            return self._call(inbound, request, record)
        return None

    def _list(self, request: Request) -> Json | None:
        """What there is, or one of it, where that is what the path asks for."""
        table, path = self.room.table, request.path
        protocol = answers.protocol_of(request)
        if path.startswith("/v1/models/"):
            route = self._route(unquote(path.removeprefix("/v1/models/")))
            of = listing.anthropic_model if protocol == "anthropic" else listing.model
            return of(table, route)
        if path == "/v1/models" and protocol == "anthropic":
            return listing.anthropic(table)
        return LISTS[path](table) if path in LISTS else None

    def _call(self, inbound: Inbound, request: Request, record: Record) -> Call | None:
        if request.header(b"upgrade").lower() == b"websocket":
            message = "websockets are not passed on"
            raise RefusedError(400, "no-websockets", message, "ask with POST and `stream: true`")
        visitor = self.door.visitor(request, inbound.peer)
        record.client, record.named = visitor.client, visitor.named
        if request.path.startswith("/instances/"):
            call = self._to_instance(request, record)
        else:
            call = self._to_model(request, record)
            if call.body is not None:
                # It may wait for long, and take many times the memory of its text.
                inbound.weighs(len(request.body) + A_VALUE * _values(request.body))
        if request.path == "/api/show":
            only_ollama = [t.engine == "ollama" for _, t in self.room.table.aims(call.route)]
            if not all(only_ollama):
                said = listing.show(self.room.table, call.route)
                self._say(inbound, record, said)
                return None
            call.route = Route(call.route.name, call.route.aims)
        call.priority = visitor.priority
        return call

    def _to_model(self, request: Request, record: Record) -> Call:
        """Whom it goes to by the model that it asks for."""
        _check_path(request)
        body: Json | None = None
        span = None
        kind = request.header(b"content-type")
        if kind[:20].lower().startswith(b"multipart/form-data"):
            span = form.model_span(kind, request.body)
            said: object = form.value(request.body, span) if span is not None else None
        else:
            body = _json(request)
            said = body.get("model") or body.get("name")
        model = said if isinstance(said, str) else ""
        route = self._route(model) if model else self._only_route()
        record.model = route.name
        return Call(
            request,
            route,
            request.target,
            answers.protocol_of(request),
            record,
            body,
            span=span,
            asked_as=model or route.name,
        )

    def _to_instance(self, request: Request, record: Record) -> Call:
        """`/instances/NAME/...` is the instance's own `/...`."""
        path, mark, query = request.target.partition(b"?")
        _, _, name, *rest = path.split(b"/", 3)
        known = unquote(name.decode("latin-1"))
        targets = [one for one in self.room.table.targets.values() if not one.is_cloud]
        meant = [one for one in targets if known and known in (one.name, one.replica_of)]
        aims = tuple(Aim(one.name) for one in meant)
        if not aims:
            hint = f"one of: {listed([one.name for one in targets])}"
            raise RefusedError(404, "instance-not-found", f"no instance {known[:SHOWN]!r}", hint)
        record.model = known
        route = Route(f"/instances/{known}", aims)
        call = Call(request, route, b"/" + b"".join(rest) + mark + query, "openai", record)
        call.light = request.method in (b"GET", b"HEAD")
        return call

    def _route(self, name: str) -> Route:
        route = self.room.table.route(name)
        if route is None:
            shown = name[:SHOWN]
            hint = did_you_mean(shown, self.room.table.names) or self._known()
            raise RefusedError(404, "model-not-found", f"no model {shown!r}", hint)
        return route

    def _known(self) -> str:
        return f"one of: {listed(list(self.room.table.names)) or 'none is declared'}"

    def _only_route(self) -> Route:
        """Where there is one name only, a client need not say it."""
        routes = list(self.room.table.names.values())
        if len(routes) != 1:
            raise RefusedError(400, "no-model", "the request names no model", self._known())
        return routes[0]

    def _say(self, inbound: Inbound, record: Record, body: Json) -> None:
        record.status = 200
        inbound.say(document(200, body, *record.marks))

    def _refuse(self, inbound: Inbound, request: Request, record: Record, why: Refused) -> None:
        record.status = why.status
        protocol = answers.protocol_of(request)
        inbound.say(
            answers.error(protocol, why.status, why.code, why.message, why.hint, *record.marks)
        )


def _check_path(request: Request) -> None:
    """Raises `RefusedError` for what no model is asked by."""
    path = request.path
    if path.startswith(CHANGING):
        message = f"{path} is not offered: which models there are is declared in the profile"
        raise RefusedError(403, "declared", message, "edit the profile, and `orchestrate apply` it")
    known = path in OLLAMA or path in SHORT or path.startswith("/v1/")
    if request.method != b"POST" or not known:
        what = f"{request.method.decode('latin-1')} {path[:200]}"
        hint = "" if known else "what an engine offers beside is under /instances/NAME/..."
        raise RefusedError(404, "not-found", f"no such path: {what}", hint)


def _json(request: Request) -> Json:
    if len(request.body) > MAX_VALUES and _values(request.body) > MAX_VALUES:
        raise RefusedError(413, "too-large", "the body has too many values")
    try:
        parsed: Any = json.loads(request.body)
    except (ValueError, RecursionError) as error:
        raise RefusedError(400, "bad-json", f"the body is not JSON: {error}") from None
    if not isinstance(parsed, dict):
        raise RefusedError(400, "bad-json", "the body is JSON, but no object")
    return cast("Json", parsed)


def _values(body: bytes) -> int:
    """How many values a JSON text may have at most, by its commas and brackets."""
    return sum(map(body.count, (b",", b"[", b"{")))
