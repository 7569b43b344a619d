"""Routes by which a browser comes in: the form, links that work once, and where to find them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from orchestrator.api.access import Access, address_of
from orchestrator.api.answers import Document, Refused, bytes_in, error
from orchestrator.api.keys import COOKIE, COOKIE_LASTS, Keys
from orchestrator.api.operation import HTML, JSON, Answer, Operation, Parameter, known_by, says
from orchestrator.api.static import login_page
from orchestrator.errors import InputError

MOST = 4096
"""Bytes of what is sent to log in."""

FORM = "application/x-www-form-urlencoded"

_WRONG = "That is not the token."
_EXPIRED = "This link was used already, or is too old."


class Login:
    """`open_door` makes sure that the API is served over TCP, and says at which URL."""

    def __init__(self, keys: Keys, open_door: Callable[[], str], access: Callable[[], Access]):
        self._keys = keys
        self._open_door = open_door
        self._access = access

    def operations(self) -> list[Operation]:
        came_in = Answer("It is right: sets the cookie, and leads to the page.")
        return [
            Operation(
                "GET",
                "/login",
                self.form,
                "The form that asks for the token; with `code`, a link that works once.",
                {
                    200: says("The form.", kind=HTML),
                    303: came_in,
                    401: says("The link is used or too old; the form.", kind=HTML),
                },
                query=(Parameter("code", {"type": "string"}, "From `orchestrate dashboard`."),),
                open=True,
                about="page",
            ),
            Operation(
                "POST",
                "/login",
                self.log_in,
                "Takes the token, as JSON or from the form, and sets a cookie that stands for it.",
                {
                    200: says("It is right: sets the cookie.", known_by("Done")),
                    303: came_in,
                    401: Answer(
                        "It is not; for a form, the form again.",
                        {JSON: known_by("Error"), HTML: {"type": "string"}},
                    ),
                },
                body=known_by("Token"),
                open=True,
                about="page",
            ),
            Operation(
                "POST",
                "/v1/dashboard",
                self.dashboard,
                "A link to the page that works once. Begins to serve it on loopback, if it is not "
                "served yet. Only over the control socket.",
                {200: says("Open it within five minutes.", known_by("Link"))},
                local=True,
                about="page",
            ),
        ]

    async def form(self, request: Request) -> Response:
        code = request.query_params.get("code")
        if code is None:
            return login_page()
        address = address_of(request.scope)
        if self._keys.take_code(code):
            return self._let_in(RedirectResponse("/", 303), request)
        return self._access().failed(address) or login_page(_EXPIRED)

    async def log_in(self, request: Request) -> Response:
        address, form = address_of(request.scope), _is_form(request)
        if refusal := self._access().locked(address):
            return refusal
        word = _word_in(await bytes_in(request, limit=MOST), form=form)
        if self._keys.is_token(word.strip()):
            answer = RedirectResponse("/", 303) if form else Document({"ok": True})
            return self._let_in(answer, request)
        if refusal := self._access().failed(address):
            return refusal
        return login_page(_WRONG) if form else error(401, "unauthorized", _WRONG)

    def _let_in(self, answer: Response, request: Request) -> Response:
        # What a proxy says of itself only ever makes it stricter.
        outside = request.headers.get("x-forwarded-proto", "") == "https"
        answer.set_cookie(
            COOKIE,
            self._keys.cookie(),
            max_age=COOKIE_LASTS,
            httponly=True,
            samesite="strict",
            secure=outside,
        )
        return answer

    async def dashboard(self, _request: Request) -> Response:
        url = self._open_door()
        return Document({"url": f"{url}/login?code={self._keys.new_code()}"})


def _is_form(request: Request) -> bool:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower() == FORM


def _word_in(raw: bytes, *, form: bool) -> str:
    """The token that was sent. Raises `InputError` and `Refused`."""
    if form:
        try:
            fields = parse_qs(raw.decode("utf-8", "replace"), max_num_fields=8)
        except ValueError as wrong:
            raise Refused(400, "bad-input", "that is not what the form sends") from wrong
        return fields.get("token", [""])[0]
    try:
        body: Any = json.loads(raw or b"{}")
    except (ValueError, RecursionError) as wrong:
        raise InputError(f"the request is not JSON: {wrong}") from wrong
    token: Any = body.get("token") if isinstance(body, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    if not isinstance(token, str):
        raise InputError("'token' is missing, or not a text")
    return token
