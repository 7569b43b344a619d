"""Asks an Ollama server, one request after the other: for the command line, which has no loop and
no time to load a large client.

What goes wrong is said in Ollama's own words, for it knows why.
"""

from __future__ import annotations

import http.client
import json
import os
import ssl
from collections.abc import Generator, Mapping
from datetime import datetime
from typing import Any, cast
from urllib.parse import urlsplit

from msgspec import Struct

from orchestrator.errors import OrchestrateError

DEFAULT_PORT = 11434
WITHIN = 10.0
"""Seconds for an answer that takes a server no work."""
MAX_ANSWER = 1 << 26
MAX_LINE = 1 << 20


class CallError(OrchestrateError):
    """What a server refused, or could not do. `status` is that of HTTP; 0 where it went away."""

    def __init__(self, message: str, *, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class Listed(Struct, frozen=True):
    """A model as a server lists it. `modified_ns` is the time of its manifest's file."""

    name: str
    digest: str
    size_bytes: int
    modified_ns: int


class Step(Struct, frozen=True):
    """One line of a pull: what is done, and of a layer (`digest`) how many bytes are there."""

    status: str
    digest: str = ""
    total: int = 0
    completed: int = 0


def host_url(env: Mapping[str, str]) -> str:
    """Where the caller's own `ollama` looks for its server: OLLAMA_HOST, as Ollama reads it."""
    given = env.get("OLLAMA_HOST", "").strip().strip("\"'")
    scheme, mark, rest = given.partition("://")
    if not mark:
        scheme, rest = "http", given
    port = {"http": 80, "https": 443}.get(scheme, DEFAULT_PORT) if mark else DEFAULT_PORT
    authority, _, path = rest.partition("/")
    try:
        parts = urlsplit(f"//{authority}")
        host, port = parts.hostname or "127.0.0.1", parts.port or port
    except ValueError:
        # Ollama warns of a port that is none, and takes its own.
        host = authority.rpartition(":")[0] or "127.0.0.1"
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    shown = f"[{host}]" if ":" in host else host
    return f"{scheme}://{shown}:{port}" + (f"/{path.rstrip('/')}" if path else "")


class OllamaCalls:
    """One server. Every call raises `CallError`."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._parts = urlsplit(url)

    def version(self, *, within: float = 1.0) -> str | None:
        """The server's version, or None when no Ollama answers there."""
        try:
            version = self._json("GET", "/api/version", within=within).get("version")
        except CallError:
            return None
        return version if isinstance(version, str) else None

    def models(self) -> dict[str, Listed]:
        """What is in its store, by name."""
        found: dict[str, Listed] = {}
        for entry in _entries(self._json("GET", "/api/tags")):
            name, at = str(entry.get("name", "")), str(entry.get("modified_at", ""))
            digest, size = str(entry.get("digest", "")), _count(entry, "size")
            found[name] = Listed(name, digest, size, nanoseconds(at))
        return found

    def loaded(self) -> list[str]:
        """What is in its memory. Models of one blob appear once, under one name."""
        return [str(entry.get("name", "")) for entry in _entries(self._json("GET", "/api/ps"))]

    def delete(self, name: str) -> None:
        """Remove a model, and the blobs that no other one has."""
        self._answer("DELETE", "/api/delete", {"model": name}).close()

    def pull(self, name: str, *, insecure: bool) -> Generator[Step]:
        """Step by step until it is there; closing the generator ends the pull there, too."""
        body = {"model": name, "insecure": insecure, "stream": True}
        # A large model is verified for minutes without a word.
        with self._answer("POST", "/api/pull", body, within=None) as answer:
            while line := _line(answer):
                document = _document(line)
                if error := document.get("error"):
                    raise CallError(str(error), status=answer.status)
                step = _step(document)
                yield step
                if step.status == "success":
                    return
        raise CallError(f"the server at {self.url} went away in the middle of the pull")

    def _json(self, method: str, path: str, *, within: float = WITHIN) -> dict[str, Any]:
        with self._answer(method, path, within=within) as answer:
            try:
                return _document(answer.read(MAX_ANSWER))
            except (OSError, http.client.HTTPException) as error:
                raise CallError(f"the server at {self.url} went away") from error

    def _answer(
        self, method: str, path: str, body: object = None, *, within: float | None = WITHIN
    ) -> http.client.HTTPResponse:
        """The answer to a request, its body unread. It holds the connection; close it."""
        payload = None if body is None else json.dumps(body)
        connection = self._connection(min(within or WITHIN, WITHIN))
        headers = {"Content-Type": "application/json", "Connection": "close"}
        try:
            connection.connect()
            connection.sock.settimeout(within)
            connection.request(method, self._parts.path + path, payload, headers)
            answer = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            why = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else error
            raise CallError(f"no Ollama answers at {self.url}: {why}") from error
        if answer.status < 400:
            return answer
        with answer:
            document = _document(answer.read(MAX_LINE))
        message = str(document.get("error") or f"{method} {path} was answered by {answer.status}")
        raise CallError(message, status=answer.status)

    def _connection(self, within: float) -> http.client.HTTPConnection:
        host, port = self._parts.hostname or "127.0.0.1", self._parts.port
        if self._parts.scheme == "https":
            context = ssl.create_default_context()
            return http.client.HTTPSConnection(host, port, timeout=within, context=context)
        return http.client.HTTPConnection(host, port, timeout=within)


def nanoseconds(moment: str) -> int:
    """The instant that Go wrote, to the nanosecond; 0 for what is none."""
    head, dot, rest = moment.partition(".")
    digits = rest[: len(rest) - len(rest.lstrip("0123456789"))]
    try:
        whole = datetime.fromisoformat(head + rest[len(digits) :] if dot else moment)
    except ValueError:
        return 0
    return int(whole.timestamp()) * 10**9 + int(digits.ljust(9, "0")[:9] or 0)


def _line(answer: http.client.HTTPResponse) -> bytes:
    try:
        return answer.readline(MAX_LINE)
    except (OSError, ValueError, http.client.HTTPException):
        return b""


def _document(raw: bytes) -> dict[str, Any]:
    try:
        document = json.loads(raw)
    except ValueError:
        return {}
    return cast(dict[str, Any], document) if isinstance(document, dict) else {}


def _entries(document: dict[str, Any]) -> list[dict[str, Any]]:
    models = document.get("models")
    entries = cast(list[Any], models) if isinstance(models, list) else []
    return [cast(dict[str, Any], entry) for entry in entries if isinstance(entry, dict)]


def _count(document: dict[str, Any], key: str) -> int:
    value = document.get(key)
    return value if isinstance(value, int) else 0


def _step(document: dict[str, Any]) -> Step:
    status, digest = str(document.get("status", "")), str(document.get("digest", ""))
    return Step(status, digest, _count(document, "total"), _count(document, "completed"))
