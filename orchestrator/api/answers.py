"""How every route reads a question and answers it: bounded JSON in, one shape of error out."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

from msgspec import convert
from msgspec.json import encode
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from orchestrator.control.applied import NotAppliedError
from orchestrator.control.intents import UnknownInstanceError
from orchestrator.control.profile_files import OutsideError, UnknownProfileError
from orchestrator.core.encoding import is_utf8
from orchestrator.core.problem import Problem
from orchestrator.errors import InputError, OrchestrateError
from orchestrator.runtime.state import AppliedSource

MAX_BODY = 4 << 20
"""Bytes of a request: a profile of 1 MiB fits, however it is escaped."""

BODY_WITHIN = 30.0
"""Seconds in which a body has to be there."""

SWALLOWED = 128 << 20
"""Bytes of a body that is too large, yet read and thrown away: many a client reads no answer before
all is sent."""

MAX_NUMBER = 10**15 - 1


class Document(JSONResponse):
    """JSON in ASCII: the name of a file need not be text that UTF-8 can hold."""

    def render(self, content: Any) -> bytes:
        return encoded(content)


def encoded(content: Any) -> bytes:
    """JSON as it is sent."""
    # Ten times as quick, and nearly always in ASCII of its own accord.
    with contextlib.suppress(UnicodeEncodeError):
        if (raw := encode(content)).isascii():
            return raw
    return json.dumps(content, separators=(",", ":")).encode("ascii")


class Refused(Exception):
    """An answer that ends a request early. `code` is a fixed word."""

    def __init__(self, status: int, code: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.hint = status, code, message, hint


def error(status: int, code: str, message: str, hint: str = "", **more: object) -> Document:
    """The one shape of all errors."""
    body = {"error": {"code": code, "message": message, "hint": hint}, **more}
    return Document(body, status_code=status)


def rejected(problems: tuple[Problem, ...]) -> Document:
    """What is wrong with files, each with its place; nothing was changed."""
    errors = [problem.as_json() for problem in problems]
    first = problems[0].message
    return error(422, "bad-input", first, "nothing was changed", errors=errors)


async def object_in(request: Request, *, limit: int = MAX_BODY) -> dict[str, Any]:
    """The JSON object in the body. Raises `Refused` and `InputError`."""
    raw = await bytes_in(request, limit=limit)
    try:
        body = json.loads(raw or b"{}")
    except (ValueError, RecursionError) as wrong:
        raise InputError(f"the request is not JSON: {wrong}") from wrong
    if not isinstance(body, dict):
        raise InputError("the request is not a JSON object")
    return body  # pyright: ignore[reportUnknownVariableType]


async def bytes_in(request: Request, *, limit: int = MAX_BODY) -> bytes:
    """The body, of bounded size, within a bounded time. Raises `Refused`."""
    too_large = Refused(413, "too-large", f"the request has more than {limit:,} bytes")
    said = request.headers.get("content-length", "")
    length = int(said) if is_number(said) else 0
    try:
        async with asyncio.timeout(BODY_WITHIN):
            if length > limit:
                if length <= SWALLOWED:
                    async for _ in request.stream():
                        pass
                raise too_large
            raw = bytearray()
            async for chunk in request.stream():
                raw += chunk
                if len(raw) > limit:
                    raise too_large
            return bytes(raw)
    except TimeoutError as slow:
        message = f"the request was not there within {BODY_WITHIN:.0f} s"
        raise Refused(408, "too-slow", message) from slow


def sources_in(body: dict[str, Any]) -> list[AppliedSource]:
    """What `apply`, `plan` and `validate` name. Raises `InputError`."""
    try:
        found = convert(body.get("sources"), list[AppliedSource])
    except ValueError as wrong:
        raise InputError(f"'sources' is not as expected: {wrong}") from wrong
    for source in found:
        texts = (source.path, source.cwd, *source.env, *source.env.values())
        if not all(map(is_utf8, texts)):
            raise InputError("'sources' is not as expected: a text that UTF-8 cannot hold")
        for path in (source.path, source.cwd):
            if not path.startswith("/") or "\0" in path:
                raise InputError(f"{path!r} is not an absolute path")
    return found


def words_in(body: dict[str, Any], name: str) -> list[str]:
    """A list of names or paths. Raises `InputError`."""
    words: Any = body.get(name)
    if not isinstance(words, list) or not all(isinstance(one, str) for one in words):  # pyright: ignore[reportUnknownVariableType]
        raise InputError(f"{name!r} is not a list of names")
    return words  # pyright: ignore[reportUnknownVariableType]


def text_in(body: dict[str, Any], name: str) -> str:
    """A string that must be there. Raises `InputError`."""
    value: Any = body.get(name)
    if not isinstance(value, str):
        raise InputError(f"{name!r} is missing, or not a text")
    return value


def choice_in(body: dict[str, Any], name: str) -> bool:
    """True or false; false where it is left out. Raises `InputError`."""
    value: Any = body.get(name, False)
    if not isinstance(value, bool):
        raise InputError(f"{name!r} is neither true nor false")
    return value


def flag(request: Request, name: str, *, default: bool = False) -> bool:
    """`?follow`, `?follow=1`, `?follow=0`. Raises `InputError`."""
    value = request.query_params.get(name)
    if value is None:
        return default
    if value in ("", "1", "true"):
        return True
    if value in ("0", "false"):
        return False
    raise InputError(f"{name}={value} is neither 1 nor 0")


def number(request: Request, name: str, default: int, *, most: int = MAX_NUMBER) -> int:
    """A whole number of the query; more than `most` counts as that. Raises `InputError`."""
    value = request.query_params.get(name)
    if value is None:
        return default
    if not is_number(value):
        raise InputError(f"{name}={value} is not a whole number")
    return min(int(value), most)


def is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 15


_STATUSES: tuple[tuple[type[OrchestrateError], int], ...] = (
    (UnknownProfileError, 404),
    (UnknownInstanceError, 404),
    (NotAppliedError, 404),
    (OutsideError, 403),
    (InputError, 400),
)


async def refused(_request: Request, wrong: Exception) -> Response:
    """What was asked cannot be done, and why."""
    if isinstance(wrong, Refused):
        return error(wrong.status, wrong.code, wrong.message, wrong.hint)
    assert isinstance(wrong, OrchestrateError)
    known = (status for kind, status in _STATUSES if isinstance(wrong, kind))
    status = next(known, 500)
    if isinstance(wrong, UnknownProfileError) and wrong.ambiguous:
        status = 409
    return error(status, wrong.reason, wrong.message, wrong.hint)


async def not_served(request: Request, wrong: Exception) -> Response:
    """No such route, or not by this method."""
    assert isinstance(wrong, HTTPException)
    code = "not-found" if wrong.status_code == 404 else "bad-request"
    what = f"{request.method} {request.url.path}"
    answer = error(wrong.status_code, code, f"{what}: {wrong.detail}", "GET /openapi.json")
    answer.headers.update(wrong.headers or {})
    return answer


async def broken(_request: Request, wrong: Exception) -> Response:
    """A bug of ours."""
    return error(500, "bug", repr(wrong), "see the daemon's log: orchestrate logs --daemon")
