"""A request as a server elsewhere is to see it, and what of its answer is no client's business.

Only OpenAI's protocol goes there; of the client only the body goes along, for what else it sent was
meant for this machine: names, cookies, and the token of the gateway.
"""

from __future__ import annotations

from orchestrator.gateway.message import Headers, Request, request_bytes
from orchestrator.gateway.ollama_ask import Json
from orchestrator.gateway.table import Target

SENT = frozenset({b"accept", b"accept-encoding", b"content-type", b"user-agent"})
"""The client's headers that go along."""

KEPT_BACK = frozenset({b"set-cookie", b"alt-svc", b"strict-transport-security"})
"""Headers of the answer that are about the cloud's own address."""

REFUSED = frozenset({401, 402, 403})
"""Answers that are about our key: the client can do nothing about them."""

KNOWN = frozenset(
    {
        "dimensions",
        "encoding_format",
        "frequency_penalty",
        "input",
        "messages",
        "model",
        "presence_penalty",
        "response_format",
        "seed",
        "stop",
        "stream",
        "stream_options",
        "temperature",
        "tools",
        "top_p",
    }
)
"""What OpenAI's protocol has, of what a llama-server can be asked."""

VERSION = b"/v1"


def speaks(path: bytes) -> bool:
    """Whether a path is OpenAI's."""
    return path.startswith(VERSION + b"/") and not path.startswith(b"/v1/messages")


def plain(body: Json) -> Json:
    """What was translated for a llama-server, without what only that one knows."""
    said = {key: value for key, value in body.items() if key in KNOWN}
    if "n_predict" in body and body["n_predict"] >= 0:
        said["max_tokens"] = body["n_predict"]
    return said


def to_send(request: Request, path: bytes, target: Target, *, request_id: bytes) -> bytes:
    """`target.prefix` stands where the client's path has `/v1`."""
    host, port = target.address
    named = f"[{host}]" if ":" in host else host
    usual = port == (443 if target.tls else 80)
    headers: Headers = [(name, value) for name, value in request.headers if name in SENT]
    sent = Request(
        request.method, request.target, headers, request.body, True, request.chunked_is_known
    )
    more: Headers = [(b"x-request-id", request_id)]
    if target.key:
        more.append((b"authorization", b"Bearer " + target.key.encode()))
    return request_bytes(
        sent,
        target=target.prefix.encode() + path.removeprefix(VERSION),
        host=(named if usual else f"{named}:{port}").encode(),
        more=more,
    )
