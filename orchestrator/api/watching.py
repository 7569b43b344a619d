"""Routes that look: whether it lives, what is, what happens, what instances say."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from orchestrator.api import feeds
from orchestrator.api.answers import Document, flag, is_number, number
from orchestrator.api.operation import (
    EVENT,
    LINES,
    SSE,
    TEXT,
    Answer,
    Operation,
    Parameter,
    count,
    known_by,
    says,
    switch,
)
from orchestrator.api.reach import Control
from orchestrator.api.snapshots import Snapshots
from orchestrator.core.successor import base_of, family

MOST_LINES = 100_000
LONGEST_WAIT = 3600
STILL_THERE = 5.0
"""Seconds between two looks at whether whoever waits for readiness is still there."""


class Watching:
    """Reads snapshots; changes nothing."""

    def __init__(self, control: Control) -> None:
        self._c = control
        self._snapshots = Snapshots(control.overview, control.reconciler)
        self._feeds = feeds.Feeds(control.bus, control.store, self._snapshots)

    def document(self) -> dict[str, Any]:
        """The status as everybody is shown it."""
        return self._snapshots.document()

    def operations(self) -> list[Operation]:
        return [
            Operation(
                "GET",
                "/healthz",
                self.healthz,
                "Whether the loop turns.",
                {200: says("It does.", kind=TEXT)},
                open=True,
            ),
            Operation(
                "GET",
                "/readyz",
                self.readyz,
                "Whether all that is declared is ready. With `wait`, the answer comes as soon as "
                "it is, and after so many seconds in any case.",
                {
                    200: says("Converged.", known_by("Readiness")),
                    503: says("Not yet, and what is missing.", known_by("Readiness")),
                },
                query=(count("wait", "Seconds to wait for it; at most an hour."),),
                open=True,
            ),
            Operation(
                "GET",
                "/v1/status",
                self.status,
                "What is: the document of `orchestrate status --json`. With `follow`, one more at "
                "every change, each with the events since the last: a line of JSON each, or "
                "server-sent events named `status` if that is what the client accepts.",
                {200: Answer("The status.", _STATUS)},
                query=(
                    switch("follow", "Go on, one snapshot for each burst of events."),
                    count("after", "With `follow`: begin with the events after this id."),
                    count("refresh_ms", "With `follow`: also every so many milliseconds."),
                ),
            ),
            Operation(
                "GET",
                "/v1/events",
                self.events,
                "The timeline, and what comes. `Last-Event-ID` resumes after that event. A reader "
                "that does not keep up is dropped, and misses nothing if it resumes.",
                {200: says("Events, as they come.", EVENT, kind=SSE)},
                query=(
                    count("after", "Begin after the event of this id."),
                    count("recent", "Else with so many of the last; 50 where it is not said."),
                    Parameter("instance", {"type": "string"}, "Of this instance alone."),
                    switch("follow", "0 ends after what is stored; 1 where it is not said."),
                ),
            ),
            Operation(
                "GET",
                "/v1/instances/{name}/logs",
                self.logs,
                "What an instance itself says.",
                {
                    200: says("Its output, as it wrote it.", kind=TEXT),
                    404: says("There is no such instance.", known_by("Error")),
                },
                query=(
                    count("lines", "So many of the last lines; 200 where it is not said."),
                    count("previous", "Of so many runs before this one."),
                    switch("follow", "Go on with what is added, over restarts too."),
                ),
            ),
        ]

    async def healthz(self, _request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(self, request: Request) -> Response:
        seconds = number(request, "wait", 0, most=LONGEST_WAIT)
        missing = self._c.overview.missing()
        if missing and seconds:
            await self._converged(request, seconds)
            missing = self._c.overview.missing()
        body = {"converged": not missing, "missing": missing}
        return Document(body, status_code=503 if missing else 200)

    async def _converged(self, request: Request, seconds: float) -> None:
        """Until all is ready, or the time is over, or nobody waits any more."""
        subscription = self._c.bus.subscribe()
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    while self._c.overview.missing():
                        with contextlib.suppress(TimeoutError):
                            async with asyncio.timeout(STILL_THERE):
                                await subscription.next()
                        if self._c.bus.over or await request.is_disconnected():
                            break
        finally:
            self._c.bus.unsubscribe(subscription)

    async def status(self, request: Request) -> Response:
        after = number(request, "after", self._c.bus.last_id)
        refresh = number(request, "refresh_ms", 0) / 1000
        if not flag(request, "follow"):
            return Response(self._snapshots.json(), media_type="application/json")
        streamed = SSE in request.headers.get("accept", "")
        frame = feeds.as_sse if streamed else feeds.as_line
        feed = self._feeds.snapshots(
            after=after, refresh=refresh and max(refresh, 0.1), frame=frame
        )
        return StreamingResponse(feed, media_type=SSE if streamed else LINES)

    async def events(self, request: Request) -> Response:
        last_seen = request.headers.get("last-event-id", "")
        asked = number(request, "after", -1)
        feed = self._feeds.events(
            after=int(last_seen) if is_number(last_seen) else asked,
            recent=number(request, "recent", 50),
            instance=request.query_params.get("instance", ""),
            follow=flag(request, "follow", default=True),
        )
        return StreamingResponse(feed, media_type=SSE)

    async def logs(self, request: Request) -> Response:
        name = request.path_params["name"]
        # That of a successor which has failed stays for whoever asks for it.
        self._c.intents.check([base_of(name) if name in family(name) else name])
        status = self._c.reconciler.observed.get(name)
        pid = status.process.pid if status is not None and status.process is not None else None
        feed = feeds.log(
            self._c.logs,
            self._c.bus,
            name,
            pid=pid,
            lines=number(request, "lines", 200, most=MOST_LINES),
            back=number(request, "previous", 0),
            follow=flag(request, "follow"),
        )
        return StreamingResponse(feed, media_type="text/plain; charset=utf-8")


_STATUS = {
    "application/json": known_by("Status"),
    LINES: {"type": "string"},
    SSE: EVENT,
}
