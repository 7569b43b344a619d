"""The document that tells of every route: made from what is served, so that none is left out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from orchestrator.api.answers import MAX_BODY
from orchestrator.api.operation import JSON, Answer, Operation, Schema, known_by
from orchestrator.api.schemas import SCHEMAS
from orchestrator.control.intents import VERBS

_ABOUT = f"""\
What the daemon of `orchestrate` knows and does. Over the control socket whoever may open it may do
everything; over TCP a bearer token is needed, or the cookie that logging in gives. A request may
have {MAX_BODY >> 20} MiB. Errors are `{{"error": {{"code", "message", "hint"}}}}`.
"""

_ERROR = {JSON: known_by("Error")}

_REFUSALS = {
    400: Answer("The request is wrong: it says how.", _ERROR),
    401: Answer("Over TCP: the token is missing, or another.", _ERROR),
    403: Answer(
        "Over TCP: the name that is asked for, or the page that asks, is not ours.", _ERROR
    ),
    408: Answer("The request did not come in time.", _ERROR),
    413: Answer("The request is too large.", _ERROR),
    429: Answer("Over TCP: too many requests from one address, or too many wrong tokens.", _ERROR),
}
"""What any route may answer."""

_TO_LOGIN = 303
"""Over TCP a browser without the cookie is sent to the form."""


def document(operations: Iterable[Operation], version: str) -> dict[str, Any]:
    """OpenAPI 3.1."""
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        path = operation.path.replace(":path}", "}")
        paths.setdefault(path, {})[operation.method.lower()] = _told(operation, path)
    return {
        "openapi": "3.1.0",
        "info": {"title": "orchestrate", "version": version, "description": _ABOUT},
        "paths": paths,
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "cookie": {"type": "apiKey", "in": "cookie", "name": "orchestrate"},
            },
        },
        "security": [{"token": []}, {"cookie": []}],
    }


def _told(operation: Operation, path: str) -> dict[str, Any]:
    answers = {**_REFUSALS, **operation.answers}
    if operation.method == "GET" and not operation.open:
        answers.setdefault(_TO_LOGIN, Answer("Over TCP, to a browser without the cookie: log in."))
    told: dict[str, Any] = {
        "operationId": operation.endpoint.__name__.strip("_") + "_" + _words(path),
        "tags": [operation.about],
        "summary": operation.summary,
        "parameters": [*_of_the_path(path), *_of_the_query(operation)],
        "responses": {str(status): _response(answers[status]) for status in sorted(answers)},
    }
    if operation.body is not None:
        required = bool(_whole(operation.body).get("required", True))
        content = {JSON: {"schema": operation.body}}
        told["requestBody"] = {"required": required, "content": content}
    if operation.open:
        told["security"] = []
    return told


def _whole(schema: Schema) -> Schema:
    """A schema behind its name. Where it says nothing of `required`, it takes several shapes."""
    name = str(schema.get("$ref", "")).rpartition("/")[2]
    found = SCHEMAS[name] if name else schema
    return found if "anyOf" in found else {"required": [], **found}


def _words(path: str) -> str:
    return "_".join(part.strip("{}") for part in path.split("/") if part) or "page"


_WORD: Schema = {"type": "string", "minLength": 1}
_PLACES: dict[str, Schema] = {"verb": {"enum": list(VERBS)}}


def _of_the_path(path: str) -> list[dict[str, Any]]:
    names = [part.strip("{}") for part in path.split("/") if part.startswith("{")]
    return [
        {"name": name, "in": "path", "required": True, "schema": _PLACES.get(name, _WORD)}
        for name in names
    ]


def _of_the_query(operation: Operation) -> list[dict[str, Any]]:
    return [
        {"name": one.name, "in": "query", "schema": one.schema, "description": one.says}
        for one in operation.query
    ]


def _response(answer: Answer) -> dict[str, Any]:
    told: dict[str, Any] = {"description": answer.says}
    if answer.bodies:
        told["content"] = {kind: {"schema": schema} for kind, schema in answer.bodies.items()}
    return told
