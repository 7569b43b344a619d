"""Asking a gateway as a program would, and looking at what comes back."""

from __future__ import annotations

import http.client
import json
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.look import status
from tests.world import World

PATIENCE = 30.0


@dataclass(frozen=True)
class Answer:
    """What came, whole."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        return self.json["error"]

    @property
    def by(self) -> str:
        """Which instance gave it."""
        return self.headers.get("x-orchestrate-instance", "")


def completion(model: str = "a", *, tokens: int = 4, **more: Any) -> bytes:
    body = {"model": model, "prompt": "hot", "max_tokens": tokens, **more}
    return json.dumps(body).encode()


def endless(model: str = "a", *, stream: bool = True) -> bytes:
    """More than is ever waited for."""
    return completion(model, tokens=1_000_000, ignore_eos=True, stream=stream)


def ask(
    port: int,
    body: bytes | None = None,
    path: str = "/v1/completions",
    method: str = "",
    **headers: str,
) -> Answer:
    """One request on a connection of its own."""
    with asked(port, body, path, method, **headers) as answer:
        return Answer(answer.status, _headers(answer), answer.read())


@contextmanager
def asked(
    port: int,
    body: bytes | None = None,
    path: str = "/v1/completions",
    method: str = "",
    **headers: str,
) -> Generator[http.client.HTTPResponse]:
    """The same while its answer comes; leaving it closes the connection."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        connection.request(method or ("GET" if body is None else "POST"), path, body, named)
        answer = connection.getresponse()
        with answer:
            yield answer
    finally:
        connection.close()


def _headers(answer: http.client.HTTPResponse) -> dict[str, str]:
    return {name.lower(): value for name, value in answer.getheaders()}


def gateway(world: World) -> dict[str, Any]:
    """Its row of the status."""
    row = status(world)["gateway"]
    assert row is not None, "a gateway is declared"
    return row


def lines(world: World) -> list[dict[str, Any]]:
    """Its access log."""
    said = world.run("logs", "gateway", "-n", 1000).out.splitlines()
    return [json.loads(line) for line in said if line.startswith("{")]
