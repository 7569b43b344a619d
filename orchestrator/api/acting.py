"""Routes that change what runs: sets of files, single instances, the end."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from orchestrator.api.answers import (
    Document,
    Refused,
    choice_in,
    error,
    flag,
    object_in,
    rejected,
    sources_in,
    words_in,
)
from orchestrator.api.operation import Operation, known_by, says, switch
from orchestrator.api.reach import Control
from orchestrator.control.applied import Rejected
from orchestrator.control.intents import VERBS, VerbName

_REJECTED = says("What is wrong, each with its place; nothing was changed.", known_by("Rejected"))
_DONE = says("Done.", known_by("Done"))


class Acting:
    """Posts intents; whether they come true is the reconciler's."""

    def __init__(self, control: Control) -> None:
        self._c = control

    def operations(self) -> list[Operation]:
        return [
            Operation(
                "POST",
                "/v1/apply",
                self.apply,
                "Makes these files the applied set (with `add`: these too), if all of it is right.",
                {200: says("Taken up.", known_by("Accepted")), 422: _REJECTED},
                body=known_by("Sources"),
            ),
            Operation(
                "POST",
                "/v1/remove",
                self.remove,
                "Takes profiles out of the applied set, by name or by path.",
                {
                    200: says("Taken out.", known_by("Removed")),
                    404: says("One of them is not applied.", known_by("Error")),
                },
                body={
                    "type": "object",
                    "required": ["profiles"],
                    "properties": {"profiles": {"type": "array", "items": {"type": "string"}}},
                },
            ),
            Operation(
                "POST",
                "/v1/instances/{name}/{verb}",
                self.act,
                "Starts, stops, restarts or kills one instance. Answers with what became of it, "
                "unless `wait=0`.",
                {
                    200: says("What became of it.", known_by("Outcome")),
                    404: says("No such instance, or verb.", known_by("Error")),
                },
                query=(
                    switch("wait", "0 answers at once; 1 where it is not said."),
                    switch("force", "1 also restarts what would not come up again."),
                ),
            ),
            Operation(
                "POST",
                "/v1/down",
                self.down,
                "Stops all instances, forgets the applied set, and ends the daemon.",
                {200: _DONE},
                body=_choice("keep_daemon", "The daemon stays, with nothing to do."),
            ),
            Operation(
                "POST",
                "/v1/daemon/stop",
                self.leave,
                "Ends the daemon. Instances go on, and what is applied is remembered.",
                {200: _DONE},
                body=_choice("instances", "Stop these too; they stay applied."),
            ),
            Operation(
                "POST",
                "/v1/models/suspect",
                self.suspect,
                "Files of models were found damaged: which instances look into it, and mend it.",
                {200: says("Who has them.", known_by("Suspects"))},
                body={
                    "type": "object",
                    "required": ["paths"],
                    "properties": {"paths": {"type": "array", "items": {"type": "string"}}},
                },
                about="models",
            ),
        ]

    async def apply(self, request: Request) -> Response:
        body = await object_in(request)
        add, force = choice_in(body, "add"), choice_in(body, "force")
        outcome = await self._c.applied.apply(sources_in(body), add=add, force=force)
        if isinstance(outcome, Rejected):
            return rejected(outcome.problems)
        return Document(outcome.as_json())

    async def remove(self, request: Request) -> Response:
        removed = await self._c.applied.remove(words_in(await object_in(request), "profiles"))
        return Document({"removed": list(removed), "number": self._c.applied.number})

    async def suspect(self, request: Request) -> Response:
        names = self._c.suspect(words_in(await object_in(request), "paths"))
        return Document({"instances": names})

    async def act(self, request: Request) -> Response:
        name, word = request.path_params["name"], request.path_params["verb"]
        verb: VerbName | None = next((known for known in VERBS if known == word), None)
        if verb is None:
            return error(404, "not-found", f"no such verb: {word}", f"one of {', '.join(VERBS)}")
        wait = flag(request, "wait", default=True)
        force = flag(request, "force")
        work = asyncio.ensure_future(self._c.intents.act(verb, name, wait=wait, force=force))
        outcome = await _unless_gone(request, work)
        if outcome is None:
            raise Refused(499, "gone", "whoever asked went away; it goes on")
        body = {
            "instance": outcome.instance,
            "ok": outcome.ok,
            "phase": outcome.phase,
            "message": outcome.message,
        }
        return Document(body)

    async def down(self, request: Request) -> Response:
        await self._c.down(choice_in(await object_in(request), "keep_daemon"))
        return Document({"ok": True})

    async def leave(self, request: Request) -> Response:
        await self._c.leave(choice_in(await object_in(request), "instances"))
        return Document({"ok": True})


def _choice(name: str, meaning: str) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {name: {"type": "boolean", "default": False, "description": meaning}},
    }


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
