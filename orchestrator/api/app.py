"""The application: every route by its subject, and one shape for all errors.

Each route reads a snapshot or posts an intent, and says so as JSON.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Match, Route
from starlette.types import Scope

from orchestrator import __version__
from orchestrator.api import static
from orchestrator.api.acting import Acting
from orchestrator.api.answers import Document, Refused, broken, not_served, refused
from orchestrator.api.gateway import Gateway
from orchestrator.api.login import Login
from orchestrator.api.machine import Machine
from orchestrator.api.metrics import Metrics
from orchestrator.api.openapi import document
from orchestrator.api.operation import TEXT, Answer, Operation, Parameter, says
from orchestrator.api.profiles import Profiles
from orchestrator.api.reach import Control
from orchestrator.api.watching import Watching
from orchestrator.errors import OrchestrateError

_ANY = {"type": "string"}


def operations(control: Control, login: Login) -> list[Operation]:
    """All that is served, in the order in which it is told of."""
    watching = Watching(control)
    metrics = Metrics(
        document=watching.document,
        reconciler=control.reconciler,
        traffic=control.traffic,
        budget=control.budget,
    )
    found = [
        *watching.operations(),
        *Acting(control).operations(),
        *Profiles(control).operations(),
        *Machine(control).operations(),
        *Gateway(control).operations(),
        *login.operations(),
        Operation(
            "GET",
            "/metrics",
            metrics.answer,
            "For Prometheus.",
            {200: says("Its text format, or OpenMetrics where that is accepted.", kind=TEXT)},
            query=(Parameter("relay", _ANY, "1: with the metrics of the engines themselves."),),
        ),
        *(_of_the_page(route) for route in static.routes() if isinstance(route, Route)),
    ]
    return [*found, _told_by(found)]


def build(served: Sequence[Operation]) -> Starlette:
    """The application over the control socket; over TCP, `Access` stands before it."""
    by_path = sorted(served, key=lambda one: (one.path, one.method))
    routes = [_route(path, list(some)) for path, some in groupby(by_path, lambda one: one.path)]
    # What has fewer open places in it goes first: the others would take it for themselves.
    routes.sort(key=lambda route: (route.path.count("{"), -len(route.path)))
    made = Starlette(
        routes=routes,
        exception_handlers={
            OrchestrateError: refused,
            Refused: refused,
            ClientDisconnect: _gone,
            HTTPException: not_served,
            Exception: broken,
        },
    )
    # A path is what it is: nobody is sent elsewhere for a slash.
    made.router.redirect_slashes = False
    return made


class _Whole(Route):
    """The first that has the path decides, whatever the method: it says which it takes."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, inner = super().matches(scope)
        return (Match.FULL if match is Match.PARTIAL else match), inner


def _route(path: str, served: Iterable[Operation]) -> Route:
    """One route for a path, whatever methods it takes: it says which, if asked by another."""
    by_method = {one.method: one.endpoint for one in served}

    async def endpoint(request: Request) -> Response:
        if request.method != "HEAD":
            return await by_method[request.method](request)
        answer = await by_method["GET"](request)
        # What is streamed has no end, and nothing of it is wanted.
        return Response(headers=answer.headers) if isinstance(answer, StreamingResponse) else answer

    return _Whole(path, endpoint, methods=list(by_method))


def _of_the_page(route: Route) -> Operation:
    answers = {
        200: Answer("A file of the page.", dict.fromkeys(static.KINDS, _ANY)),
        304: Answer("The one that the browser has."),
        404: says("There is no such file.", kind=TEXT),
    }
    return Operation("GET", route.path, route.endpoint, "The page.", answers, about="page")


def _told_by(served: Sequence[Operation]) -> Operation:
    async def openapi(_request: Request) -> Response:
        return Document(document([*served, itself], __version__))

    itself = Operation(
        "GET",
        "/openapi.json",
        openapi,
        "This document.",
        {200: says("OpenAPI 3.1.", {"type": "object"})},
    )
    return itself


async def _gone(_request: Request, _error: Exception) -> Response:
    """Whoever asked went away before all was said: nobody reads this."""
    return Response(status_code=408)
