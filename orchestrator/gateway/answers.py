"""Answers of the gateway's own, in the form that the client's protocol knows."""

from __future__ import annotations

import json
from typing import Literal

from orchestrator.gateway.message import Request, document

Protocol = Literal["openai", "anthropic", "ollama"]

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
}


def protocol_of(request: Request) -> Protocol:
    """What a client speaks that asks so."""
    path = request.path
    if path.startswith("/api/"):
        return "ollama"
    if path.startswith("/v1/messages") or request.header(b"anthropic-version"):
        return "anthropic"
    return "openai"


def error_body(protocol: Protocol, status: int, code: str, message: str, hint: str = "") -> object:
    """An error as clients of the protocol read it; the hint is a part of what people are shown."""
    text = f"{message} (hint: {hint})" if hint else message
    kind = _TYPES.get(status, "api_error")
    if protocol == "ollama":
        return {"error": text}
    if protocol == "anthropic":
        return {"type": "error", "error": {"type": kind, "message": text}}
    return {"error": {"message": text, "type": kind, "param": None, "code": code}}


def error(
    protocol: Protocol,
    status: int,
    code: str,
    message: str,
    hint: str = "",
    *more: tuple[bytes, bytes],
) -> bytes:
    """A whole answer."""
    return document(status, error_body(protocol, status, code, message, hint), *more)


def error_event(
    protocol: Protocol, message: str, status: int = 502, code: str = "lost", hint: str = ""
) -> bytes:
    """What ends a stream that cannot go on: a client that waits for more is told, not left."""
    error = error_body(protocol, status, code, message, hint)
    body = json.dumps(error, separators=(",", ":")).encode()
    if protocol == "ollama":
        return body + b"\n"
    event = b"event: error\n" if protocol == "anthropic" else b""
    return event + b"data: " + body + b"\n\n"
