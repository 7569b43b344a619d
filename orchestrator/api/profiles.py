"""Routes about profiles: which there are, what they say, what is wrong, edits and plans."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from orchestrator.api.answers import (
    Document,
    choice_in,
    error,
    object_in,
    rejected,
    sources_in,
    text_in,
)
from orchestrator.api.operation import Operation, known_by, says
from orchestrator.api.reach import Control
from orchestrator.control.applied import Rejected
from orchestrator.control.profile_files import ConflictError, ProfileFile
from orchestrator.control.resolution import Resolution

_UNKNOWN = says("There is no such profile.", known_by("Error"))
_OUTSIDE = says("It lies outside of the folders of profiles.", known_by("Error"))
_REJECTED = says("What is wrong, each with its place; nothing was changed.", known_by("Rejected"))
_SEVERAL = says("Several files are called so: name one by its path.", known_by("Error"))


class Profiles:
    """Asks the files and the applied set; a name is that of a file, or its whole path."""

    def __init__(self, control: Control) -> None:
        self._c = control

    def operations(self) -> list[Operation]:
        return [
            Operation(
                "POST",
                "/v1/validate",
                self.validate,
                "All that is wrong with files, or with a text that is not saved yet.",
                {
                    200: says("What is wrong, if anything.", known_by("Validation")),
                    404: _UNKNOWN,
                    409: _SEVERAL,
                },
                body={"anyOf": [known_by("Sources"), known_by("Draft")]},
                about="profiles",
            ),
            Operation(
                "POST",
                "/v1/plan",
                self.plan,
                "What applying these files would do, or saving that text; changes nothing.",
                {
                    200: says("The plan.", known_by("Plan")),
                    404: _UNKNOWN,
                    409: _SEVERAL,
                    422: _REJECTED,
                },
                body={"anyOf": [known_by("Sources"), known_by("Draft")]},
                about="profiles",
            ),
            Operation(
                "GET",
                "/v1/profiles",
                self.all,
                "The profiles that there are: which are applied, and which are right.",
                {200: says("As `orchestrate profiles --json`.", known_by("Profiles"))},
                about="profiles",
            ),
            Operation(
                "GET",
                "/v1/profiles/{name:path}",
                self.read,
                "What a profile says.",
                {
                    200: says("Its text.", known_by("ProfileText")),
                    403: _OUTSIDE,
                    404: _UNKNOWN,
                    409: _SEVERAL,
                },
                about="profiles",
            ),
            Operation(
                "PUT",
                "/v1/profiles/{name:path}",
                self.write,
                "Writes a profile, if the text is right and the file is still as `revision` says. "
                "An applied one is taken up like every edit.",
                {
                    200: says("Written.", known_by("Written")),
                    403: _OUTSIDE,
                    404: _UNKNOWN,
                    409: says(
                        "The file is not any more what was edited (`conflict`, with its present "
                        "`revision`), or several are called so.",
                        known_by("Conflict"),
                    ),
                    422: _REJECTED,
                },
                body=known_by("Edit"),
                about="profiles",
            ),
            Operation(
                "POST",
                "/v1/profiles/{name:path}/apply",
                self.apply,
                "Makes this profile the applied set; with `add`, this one too.",
                {
                    200: says("Taken up.", known_by("Accepted")),
                    404: _UNKNOWN,
                    409: _SEVERAL,
                    422: _REJECTED,
                },
                body=known_by("How"),
                about="profiles",
            ),
        ]

    async def validate(self, request: Request) -> Response:
        body = await object_in(request)
        for name in ("add", "force"):
            # As for a plan, though it makes no difference: the same body may be sent to both.
            choice_in(body, name)
        if "profile" in body:
            one, text = await self._draft(body)
            resolution = await self._c.profiles.checked(one, text)
        else:
            resolution = await self._c.profiles.resolved(sources_in(body))
        errors = [problem.shown() for problem in resolution.problems]
        return Document({"ok": not errors, "errors": errors, **_warnings(resolution)})

    async def plan(self, request: Request) -> Response:
        body = await object_in(request)
        add, force = choice_in(body, "add"), choice_in(body, "force")
        if "profile" in body:
            one, text = await self._draft(body)
            actions, resolution = await self._c.profiles.preview(one, text, add=add, force=force)
        else:
            actions, resolution = await self._c.applied.preview(
                sources_in(body), add=add, force=force
            )
        if resolution.problems:
            return rejected(resolution.problems)
        warnings = [warning.as_json() for warning in resolution.warnings]
        return Document({"actions": [action.as_json() for action in actions], "warnings": warnings})

    async def _draft(self, body: dict[str, Any]) -> tuple[ProfileFile, bytes]:
        word, text = text_in(body, "profile"), text_in(body, "text")
        return await self._c.profiles.one(word), _as_bytes(text)

    async def all(self, _request: Request) -> Response:
        return Document({"profiles": await self._c.profiles.rows()})

    async def read(self, request: Request) -> Response:
        said = await self._c.profiles.text(request.path_params["name"])
        body = {"name": said.name, "file": said.file, "text": said.text, "revision": said.revision}
        return Document(body)

    async def write(self, request: Request) -> Response:
        body = await object_in(request)
        text, revision = _as_bytes(text_in(body, "text")), text_in(body, "revision")
        try:
            saved = await self._c.profiles.save(request.path_params["name"], text, revision)
        except ConflictError as conflict:
            message = f"{conflict.file} was changed by somebody else in the meantime"
            hint = "read it again, and make the change there"
            return error(409, "conflict", message, hint, revision=conflict.revision)
        if saved.resolution.problems:
            return rejected(saved.resolution.problems)
        body = {"name": saved.name, "file": saved.file, "revision": saved.revision}
        return Document({**body, **_warnings(saved.resolution)})

    async def apply(self, request: Request) -> Response:
        body = await object_in(request)
        add, force = choice_in(body, "add"), choice_in(body, "force")
        one = await self._c.profiles.one(request.path_params["name"])
        outcome = await self._c.applied.apply([one.source], add=add, force=force)
        if isinstance(outcome, Rejected):
            return rejected(outcome.problems)
        return Document(outcome.as_json())


def _warnings(resolution: Resolution) -> dict[str, Any]:
    return {"warnings": [warning.shown() for warning in resolution.warnings]}


def _as_bytes(text: str) -> bytes:
    # Half a character is no UTF-8: the profile is refused for it, with its place.
    return text.encode("utf-8", "surrogatepass")
