"""What every tool works with: the settings, and the daemon, asked without holding anybody up."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any, TypeVar

import anyio.to_thread

from orchestrator.cli import client as lines
from orchestrator.errors import NoDaemonError
from orchestrator.settings import Settings

Result = TypeVar("Result")

LONGEST_LINE = 64 << 20
"""Bytes of a status document at most."""


class Daemon:
    """One daemon, as `cli.client` asks it, and in the same words when it does not answer; but each
    call can be cancelled, and then lets go of its connection at once.

    A connection for each call: the daemon may be another the next time.
    """

    def __init__(self, settings: Settings) -> None:
        self._path = settings.socket_path

    async def get(self, path: str, **query: object) -> Any:
        """A JSON document."""
        return await self._json("GET", path, query, None, within=lines.ANSWERS_WITHIN)

    async def post(self, path: str, body: object, **query: object) -> Any:
        """Send JSON, get JSON. What it asks for may take long; that somebody is there must not."""
        await self._is_awake()
        return await self._json("POST", path, query, body)

    async def snapshots(self, **query: object) -> AsyncIterator[dict[str, Any]]:
        """Statuses, at every change and every refresh, for as long as the daemon is there."""
        await self._is_awake()
        query = {"follow": 1, **query}
        async with self._open("GET", "/v1/status", query, None, lines.SILENT_AFTER) as answer:
            while True:
                try:
                    async with asyncio.timeout(lines.SILENT_AFTER):
                        line = await answer.readline()
                except TimeoutError as error:
                    message = "the daemon does not answer any more"
                    raise NoDaemonError(message, hint=lines.SILENT) from error
                except OSError as error:
                    raise NoDaemonError("the daemon went away", hint=lines.START) from error
                if not line.endswith(b"\n"):
                    return
                yield json.loads(line)

    async def text(self, path: str, limit: int, **query: object) -> bytes:
        """The last `limit` bytes of what is not JSON."""
        async with self._open("GET", path, query, None, lines.ANSWERS_WITHIN) as answer:
            said = b""
            while chunk := await answer.read(1 << 16):
                said = (said + chunk)[-limit:]
            return said

    async def _is_awake(self) -> None:
        async with self._open("GET", "/healthz", {}, None, lines.ANSWERS_WITHIN):
            pass

    async def _json(
        self,
        method: str,
        path: str,
        query: dict[str, object],
        body: object,
        *,
        within: float | None = None,
    ) -> Any:
        async with self._open(method, path, query, body, within) as answer:
            try:
                return json.loads(await answer.read())
            except (OSError, ValueError) as error:
                message = "the daemon went away before it answered"
                raise NoDaemonError(message, hint=lines.START) from error

    @contextlib.asynccontextmanager
    async def _open(
        self,
        method: str,
        path: str,
        query: dict[str, object],
        body: object,
        within: float | None,
    ) -> AsyncGenerator[asyncio.StreamReader]:
        """Send a request; the reader stands at the beginning of the answer's body."""
        payload = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {lines.target_of(path, query)} HTTP/1.0\r\nHost: localhost\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(payload)}\r\n\r\n"
        writer = None
        try:
            try:
                async with asyncio.timeout(within):
                    reader, writer = await self._connect()
                    writer.write(head.encode() + payload)
                    status = int(((await reader.readline()).split() or [b"", b"0"])[1])
                    while (await reader.readline()).strip():
                        pass
            except PermissionError as error:
                message = f"{self._path} may not be opened"
                raise NoDaemonError(message, hint="it belongs to another user") from error
            except TimeoutError as error:
                raise NoDaemonError("the daemon does not answer", hint=lines.SILENT) from error
            except OSError as error:
                raise NoDaemonError("no daemon is running", hint=lines.BEGIN) from error
            if status == 0:
                message = "the daemon went away before it answered"
                raise NoDaemonError(message, hint=lines.START)
            if status >= 400 and status != 503:
                raise lines.error_of(status, await reader.read())
            yield reader
        finally:
            if writer is not None:
                writer.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        folder = os.open(os.path.dirname(self._path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # A socket's path may have 107 bytes at most; this one is short for any folder.
            path = f"/proc/self/fd/{folder}/{os.path.basename(self._path)}"
            return await asyncio.open_unix_connection(path, limit=LONGEST_LINE)
        finally:
            os.close(folder)


class Desk:
    """Where the tools work: `settings` are those of this process, `daemon` may or may not be
    there."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.daemon = Daemon(settings)
        self.starting = threading.Lock()
        """Held while a daemon is started: who ends everything waits for it."""

    async def ensure_daemon(self) -> None:
        """Make sure that a daemon answers, as every verb does that changes something."""
        from orchestrator.cli.launch import ensure_daemon

        def ensure() -> None:
            with self.starting:
                ensure_daemon(self.settings)

        await in_thread(ensure)

    async def status(self) -> dict[str, Any]:
        """The status document: the daemon's, else what the store knows."""
        try:
            return await self.daemon.get("/v1/status")
        except NoDaemonError:
            from orchestrator.cli.offline import status_without_daemon

            return await in_thread(status_without_daemon, self.settings)


async def in_thread(work: Callable[..., Result], *words: object) -> Result:
    """The result of what blocks. Who is cancelled does not wait for its end."""
    return await anyio.to_thread.run_sync(work, *words, abandon_on_cancel=True)
