"""The routes: each reads a snapshot or posts an intent, and says so as JSON.

Errors are `{"error": {"code", "message", "hint"}}` with the fitting status; a rejected apply adds
`errors`, one for each place in each file.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from orchestrator.api import feeds
from orchestrator.control.applied import AppliedSet, Rejected
from orchestrator.control.bus import Bus
from orchestrator.control.intents import VERBS, Intents
from orchestrator.control.overview import Overview
from orchestrator.control.reconciler import Reconciler
from orchestrator.core.problem import Problem
from orchestrator.errors import InputError, OrchestrateError
from orchestrator.runtime.logs import Logs
from orchestrator.runtime.state import AppliedSource, Store

MAX_BODY = 8 << 20


@dataclass(frozen=True, slots=True)
class Control:
    """All that the API may reach."""

    bus: Bus
    store: Store
    logs: Logs
    reconciler: Reconciler
    applied: AppliedSet
    intents: Intents
    overview: Overview
    suspect: Callable[[list[str]], list[str]]
    """Files of models were found damaged: the instances that look into it, and mend it."""
    down: Callable[[bool], Awaitable[None]]
    """Stop every instance and forget the applied set; True keeps the daemon."""
    leave: Callable[[bool], Awaitable[None]]
    """End the daemon; True stops the instances first, and remembers them all the same."""


def build(control: Control) -> Starlette:
    """The application."""
    routes = _Routes(control)
    return Starlette(
        routes=[
            Route("/healthz", routes.healthz),
            Route("/readyz", routes.readyz),
            Route("/v1/status", routes.status),
            Route("/v1/events", routes.events),
            Route("/v1/apply", routes.apply, methods=["POST"]),
            Route("/v1/plan", routes.plan, methods=["POST"]),
            Route("/v1/remove", routes.remove, methods=["POST"]),
            Route("/v1/models/suspect", routes.suspect, methods=["POST"]),
            Route("/v1/down", routes.down, methods=["POST"]),
            Route("/v1/daemon/stop", routes.leave, methods=["POST"]),
            Route("/v1/instances/{name}/logs", routes.logs),
            Route("/v1/instances/{name}/{verb}", routes.act, methods=["POST"]),
        ],
        exception_handlers={
            OrchestrateError: _refused,
            HTTPException: _not_served,
            Exception: _broken,
        },
    )


async def _refused(_request: Request, error: Exception) -> Response:
    assert isinstance(error, OrchestrateError)
    status = 400 if isinstance(error, InputError) else 500
    return _error(status, error.reason, error.message, error.hint)


async def _not_served(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = "not-found" if error.status_code == 404 else "bad-request"
    what = f"{request.method} {request.url.path}"
    return _error(error.status_code, code, f"{what}: {error.detail}")


async def _broken(_request: Request, error: Exception) -> Response:
    return _error(500, "bug", repr(error), "see the daemon's log: orchestrate logs --daemon")


class _Document(JSONResponse):
    """JSON in ASCII: the name of a file need not be text that UTF-8 can hold."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, separators=(",", ":")).encode("ascii")


def _error(status: int, code: str, message: str, hint: str = "", **more: object) -> _Document:
    body = {"error": {"code": code, "message": message, "hint": hint}, **more}
    return _Document(body, status_code=status)


def _rejected(problems: tuple[Problem, ...]) -> _Document:
    errors = [problem.as_json() for problem in problems]
    first = problems[0].message
    return _error(422, "bad-input", first, "nothing was changed", errors=errors)


async def _body(request: Request) -> dict[str, Any]:
    """The JSON object in the body, of bounded size. Raises `InputError`."""
    raw = b""
    async for chunk in request.stream():
        raw += chunk
        if len(raw) > MAX_BODY:
            raise InputError(f"the request has more than {MAX_BODY:,} bytes")
    try:
        body = json.loads(raw or b"{}")
    except (ValueError, RecursionError) as error:
        raise InputError(f"the request is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise InputError("the request is not a JSON object")
    return body  # pyright: ignore[reportUnknownVariableType]


def _sources(body: dict[str, Any]) -> list[AppliedSource]:
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(list[AppliedSource]).validate_python(body.get("sources"))
    except ValidationError as error:
        raise InputError(f"'sources' is not as expected: {error.errors()[0]['msg']}") from error


def _words(body: dict[str, Any], name: str) -> list[str]:
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(list[str]).validate_python(body.get(name), strict=True)
    except ValidationError as error:
        raise InputError(f"{name!r} is not a list of names") from error


class _Routes:
    def __init__(self, control: Control) -> None:
        self._c = control

    async def healthz(self, _request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(self, _request: Request) -> Response:
        status = self._c.overview.status()
        if status["converged"]:
            return _Document({"converged": True})
        return _Document({"converged": False, "missing": status["missing"]}, status_code=503)

    async def status(self, request: Request) -> Response:
        if not _flag(request, "follow"):
            return _Document(self._c.overview.status())
        after = _number(request, "after", self._c.bus.last_id)
        refresh = _number(request, "refresh_ms", 0) / 1000
        feed = feeds.snapshots(
            self._c.bus, self._c.store, self._c.overview, after=after, refresh=refresh
        )
        return StreamingResponse(feed, media_type="application/x-ndjson")

    async def events(self, request: Request) -> Response:
        last_seen = request.headers.get("last-event-id", "")
        after = int(last_seen) if _is_number(last_seen) else _number(request, "after", -1)
        instance = request.query_params.get("instance", "")
        recent = _number(request, "recent", 50)
        feed = feeds.events(
            self._c.bus,
            self._c.store,
            after=after,
            recent=recent,
            instance=instance,
            follow=_flag(request, "follow", default=True),
        )
        return StreamingResponse(feed, media_type="text/event-stream")

    async def apply(self, request: Request) -> Response:
        body = await _body(request)
        outcome = await self._c.applied.apply(
            _sources(body), add=bool(body.get("add")), force=bool(body.get("force"))
        )
        if isinstance(outcome, Rejected):
            return _rejected(outcome.problems)
        return _Document(outcome.as_json())

    async def plan(self, request: Request) -> Response:
        body = await _body(request)
        actions, resolution = await self._c.applied.preview(
            _sources(body), add=bool(body.get("add")), force=bool(body.get("force"))
        )
        if resolution.problems:
            return _rejected(resolution.problems)
        return _Document(
            {
                "actions": [action.as_json() for action in actions],
                "warnings": [warning.as_json() for warning in resolution.warnings],
            }
        )

    async def remove(self, request: Request) -> Response:
        removed = await self._c.applied.remove(_words(await _body(request), "profiles"))
        return _Document({"removed": list(removed), "number": self._c.applied.number})

    async def suspect(self, request: Request) -> Response:
        names = self._c.suspect(list(_words(await _body(request), "paths")))
        return _Document({"instances": names})

    async def act(self, request: Request) -> Response:
        name, verb = request.path_params["name"], request.path_params["verb"]
        if verb not in VERBS:
            return _error(404, "not-found", f"no such verb: {verb}", f"one of {', '.join(VERBS)}")
        wait = _flag(request, "wait", default=True)
        work = asyncio.ensure_future(self._c.intents.act(verb, name, wait=wait))
        outcome = await _unless_gone(request, work)
        if outcome is None:
            return Response(status_code=499)
        body = {
            "instance": outcome.instance,
            "ok": outcome.ok,
            "phase": outcome.phase,
            "message": outcome.message,
        }
        return _Document(body)

    async def logs(self, request: Request) -> Response:
        name = request.path_params["name"]
        status = self._c.reconciler.observed.get(name)
        if status is None:
            self._c.intents.check([name])
        pid = status.process.pid if status is not None and status.process is not None else None
        lines = _number(request, "lines", 200)
        back = _number(request, "previous", 0)
        feed = feeds.log(
            self._c.logs, name, pid=pid, lines=lines, back=back, follow=_flag(request, "follow")
        )
        return StreamingResponse(feed, media_type="text/plain; charset=utf-8")

    async def down(self, request: Request) -> Response:
        keep = bool((await _body(request)).get("keep_daemon"))
        await self._c.down(keep)
        return _Document({"ok": True})

    async def leave(self, request: Request) -> Response:
        await self._c.leave(bool((await _body(request)).get("instances")))
        return _Document({"ok": True})


async def _unless_gone(request: Request, work: asyncio.Future[Any]) -> Any:
    """The result, or None when the client left first: then nobody waits any more."""
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        return await work if work.done() else None
    finally:
        gone.cancel()
        work.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _flag(request: Request, name: str, *, default: bool = False) -> bool:
    value = request.query_params.get(name)
    return default if value is None else value not in ("", "0", "false")


def _number(request: Request, name: str, default: int) -> int:
    value = request.query_params.get(name, "")
    if not value:
        return default
    if not _is_number(value):
        raise InputError(f"{name}={value} is not a whole number")
    return int(value)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 15
