"""Routes between the gateway's process and the daemon: its table out, its figures in."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from msgspec import convert
from msgspec.json import schema_components
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from orchestrator.api.answers import Document, encoded, flag, object_in
from orchestrator.api.feeds import as_line
from orchestrator.api.operation import LINES, Answer, Operation, says, switch
from orchestrator.api.reach import Control
from orchestrator.core.event import Event, EventType
from orchestrator.core.figures import Figures
from orchestrator.errors import InputError

_, _DEFINED = schema_components((Figures,), ref_template="#/$defs/{name}")
_FIGURES = {**_DEFINED["Figures"], "$defs": _DEFINED}


class Gateway:
    """For the one gateway of this daemon, over the control socket: the table holds keys."""

    def __init__(self, control: Control) -> None:
        self._traffic = control.traffic
        self._bus = control.bus
        self._desired = lambda: control.reconciler.desired or {}

    def operations(self) -> list[Operation]:
        return [
            Operation(
                "GET",
                "/v1/gateway/table",
                self.table,
                "What the gateway serves: the names that clients may ask for, the instances behind "
                "each, and where these are. With `follow`, one more at every change.",
                {200: Answer("The table.", {"application/json": _OBJECT, LINES: _TEXT})},
                query=(switch("follow", "Go on, a line of JSON for each."),),
                local=True,
            ),
            Operation(
                "POST",
                "/v1/gateway/figures",
                self.figures,
                "The gateway tells what it does and has done.",
                {200: says("Heard.", _OBJECT)},
                body=_FIGURES,
                local=True,
            ),
            Operation(
                "POST",
                "/v1/gateway/want",
                self.want,
                "A request waits for an instance that is started on demand: it is to be started.",
                {200: says("Asked for, whether it runs already or not.", _OBJECT)},
                body=_WANT,
                local=True,
            ),
        ]

    async def table(self, request: Request) -> Response:
        if flag(request, "follow"):
            return StreamingResponse(self._lines(), media_type=LINES)
        return Document(self._traffic.table())

    async def _lines(self) -> AsyncGenerator[bytes]:
        async for table in self._traffic.tables():
            yield as_line(encoded(table))

    async def figures(self, request: Request) -> Response:
        try:
            told = convert(await object_in(request), Figures)
        except ValueError as wrong:
            raise InputError(f"these are no figures: {wrong}") from None
        self._traffic.take(told)
        return Document({"ok": True})

    async def want(self, request: Request) -> Response:
        name = (await object_in(request)).get("instance")
        spec = self._desired().get(name) if isinstance(name, str) else None
        if spec is None or spec.on_demand is None:
            raise InputError(f"no instance {str(name)[:100]!r} is started on demand")
        self._bus.post(Event(EventType.WANTED, spec.name, reason="request", spec=spec))
        return Document({"ok": True})


_OBJECT = {"type": "object"}
_WANT = {
    "type": "object",
    "required": ["instance"],
    "properties": {"instance": {"type": "string"}},
}
_TEXT = {"type": "string"}
