"""Somebody who asks a gateway: whole answers, and streams that are read no faster than wanted."""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Generator
from typing import Any

PATIENCE = 60.0


def ask(port: int, model: str, path: str = "/v1/chat/completions", **more: Any) -> Any:
    """The answer as JSON, whatever its status."""
    with asked(port, model, path, **more) as answer:
        return json.load(answer)


def stream(port: int, model: str, path: str = "/v1/chat/completions", **more: Any) -> list[bytes]:
    """The lines of a stream, to its end."""
    with asked(port, model, path, stream=True, **more) as answer:
        return answer.read().splitlines()


@contextlib.contextmanager
def asked(
    port: int,
    model: str,
    path: str = "/v1/chat/completions",
    headers: dict[str, str] | None = None,
    **more: Any,
) -> Generator[http.client.HTTPResponse]:
    """An answer that has begun; the rest comes as it is read."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    said = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 8}
    body = json.dumps({"model": model, **said, **more})
    try:
        connection.request(
            "POST", path, body, {"Content-Type": "application/json", **(headers or {})}
        )
        answer = connection.getresponse()
        with answer:
            yield answer
    finally:
        connection.close()
