"""Talks to the daemon over its socket, with nothing but the standard library: it must be quick."""

from __future__ import annotations

import json
import os
import socket
import struct
from collections.abc import Iterator
from io import BufferedReader
from typing import Any

from orchestrator.errors import InputError, NoDaemonError, OrchestrateError
from orchestrator.settings import Settings

ANSWERS_WITHIN = 5.0
"""Seconds for a document that the daemon only has to read off."""

SILENT_AFTER = 30.0
"""Seconds without a snapshot, of which there are several each second, that mean it hangs."""


class RejectedError(InputError):
    """What was sent is wrong: `errors` holds every problem, as `validate --json` shows them."""

    def __init__(self, message: str, hint: str, errors: list[dict[str, Any]]) -> None:
        super().__init__(message, hint=hint)
        self.errors = errors


class Client:
    """One daemon. Every call raises `NoDaemonError` when nobody answers.

    HTTP/1.0, a connection for each request: an answer ends where the connection does. That is all
    that a client on the same machine needs, and `http.client` alone would take 30 ms to import.
    """

    def __init__(self, settings: Settings) -> None:
        self._path = settings.socket_path

    def answers(self) -> bool:
        """True when a daemon listens."""
        try:
            self._connect().close()
        except OSError:
            return False
        return True

    def get(self, path: str, **query: object) -> Any:
        """A JSON document."""
        return self._json("GET", target_of(path, query), None, within=ANSWERS_WITHIN)

    def post(self, path: str, body: object = None, **query: object) -> Any:
        """Send JSON, get JSON. What it asks for may take long; that somebody is there must not."""
        self._is_awake()
        return self._json("POST", target_of(path, query), body)

    def snapshots(self, **query: object) -> Iterator[dict[str, Any]]:
        """The status and the events since the last one, at every change and every refresh."""
        for line in self.lines("/v1/status", SILENT_AFTER, follow=1, **query):
            yield json.loads(line)

    def lines(self, path: str, within: float | None = None, /, **query: object) -> Iterator[bytes]:
        """A stream, line by line, for as long as the daemon sends."""
        rest = b""
        for chunk in self.chunks(path, within, **query):
            *whole, rest = (rest + chunk).split(b"\n")
            yield from whole

    def chunks(self, path: str, within: float | None = None, /, **query: object) -> Iterator[bytes]:
        """A stream of bytes as they come; `within` so many seconds there must be some."""
        with self.stream(path, within, **query) as answer:
            try:
                while chunk := answer.read1(65536):
                    yield chunk
            except TimeoutError as error:
                raise NoDaemonError("the daemon does not answer any more", hint=SILENT) from error
            except OSError as error:
                raise NoDaemonError("the daemon went away", hint=START) from error

    def stream(self, path: str, within: float | None = None, /, **query: object) -> BufferedReader:
        """The same, for whoever reads it himself, and closes it."""
        self._is_awake()
        return self._open("GET", target_of(path, query), None, within=within)

    def _is_awake(self) -> None:
        """The kernel connects us to a daemon that is stopped or hangs, too: ask it for a word."""
        self._open("GET", "/healthz", None, within=ANSWERS_WITHIN).close()

    def _json(self, method: str, target: str, body: object, *, within: float | None = None) -> Any:
        with self._open(method, target, body, within=within) as answer:
            try:
                return json.loads(answer.read())
            except (OSError, ValueError) as error:
                message = "the daemon went away before it answered"
                raise NoDaemonError(message, hint=START) from error

    def _open(
        self, method: str, target: str, body: object, *, within: float | None = None
    ) -> BufferedReader:
        """Send a request; the reader stands at the beginning of the answer's body."""
        payload = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {target} HTTP/1.0\r\nHost: localhost\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(payload)}\r\n\r\n"
        try:
            with self._connect() as connection:
                if within is not None and connection.gettimeout() is None:
                    connection.settimeout(within)
                connection.sendall(head.encode() + payload)
                # The reader keeps the connection open for as long as it is read.
                answer = connection.makefile("rb")
            status = int((answer.readline().split() or [b"", b"0"])[1])
            while answer.readline().strip():
                pass
        except PermissionError as error:
            raise NoDaemonError(
                f"{self._path} may not be opened", hint="it belongs to another user"
            ) from error
        except TimeoutError as error:
            raise NoDaemonError("the daemon does not answer", hint=SILENT) from error
        except OSError as error:
            raise NoDaemonError("no daemon is running", hint=BEGIN) from error
        if status == 0:
            answer.close()
            raise NoDaemonError("the daemon went away before it answered", hint=START)
        if status >= 400 and status != 503:
            with answer:
                raise error_of(status, answer.read())
        return answer

    def _connect(self) -> socket.socket:
        folder = os.open(os.path.dirname(self._path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # A socket's path may have 107 bytes at most; this one is short for any folder.
            connection.connect(f"/proc/self/fd/{folder}/{os.path.basename(self._path)}")
            _check_who(connection, self._path)
        except (OSError, NoDaemonError):
            connection.close()
            raise
        finally:
            os.close(folder)
        return connection


def _check_who(connection: socket.socket, path: str) -> None:
    """Whoever listens is told what profiles may know of this shell: it must be one of ours."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    uid = struct.unpack("3i", raw)[1]
    if uid not in (os.geteuid(), 0):
        raise NoDaemonError(
            f"{path} is served by uid {uid}, and not by this user",
            hint="name a state folder of your own with ORCHESTRATE_STATE_DIR",
        )


SILENT = "it may be stopped or hang: `orchestrate logs --daemon` shows what it did last"
START = "`orchestrate daemon start` begins another; it adopts what still runs"
BEGIN = "`orchestrate apply FILE` or `orchestrate daemon start` begins one"


def error_of(status: int, raw: bytes) -> OrchestrateError:
    """What an answer of 400 or more says went wrong."""
    try:
        body = json.loads(raw)
        error = body["error"]
    except (ValueError, KeyError, TypeError):
        return OrchestrateError(f"the daemon answered {status}", hint=_OTHER_VERSION)
    message, hint = error["message"], error["hint"]
    if "errors" in body:
        return RejectedError(message, hint, body["errors"])
    if status < 500:
        return InputError(message, hint=hint)
    return OrchestrateError(message, hint=hint)


_OTHER_VERSION = "it may be of another version: orchestrate daemon restart"


def target_of(path: str, query: dict[str, object]) -> str:
    """Path and query as they are requested; what is None is left out."""
    given = {name: str(value) for name, value in query.items() if value is not None}
    if not given:
        # Always one of our own; `apply` is not to wait for what quotes names.
        return path
    from urllib.parse import quote, urlencode

    return f"{quote(path)}?{urlencode(given)}"
