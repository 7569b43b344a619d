"""Serves the application: on the control socket, and over TCP as far as somebody wants that."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncGenerator, Generator, Sequence
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from starlette.types import ASGIApp

from orchestrator.api.access import Access
from orchestrator.api.app import build, operations
from orchestrator.api.crowd import Crowd, Protocol
from orchestrator.api.keys import Keys
from orchestrator.api.login import Login
from orchestrator.api.reach import Control
from orchestrator.runtime.listening import TcpListener, bind_near

LARGEST_HEAD = 32 << 10
"""Bytes of a request's head."""

ENDS_WITHIN = 1
"""Seconds that requests under way have to end."""


def bind_unix(path: str) -> socket.socket:
    """A listening socket at `path`, 0600, of any length of path, replacing what a dead daemon left.

    The caller holds the lock of the state folder, so a file that is there belongs to nobody.
    """
    folder = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # The kernel takes 107 bytes; a folder's descriptor is a short name for any folder.
        short = f"/proc/self/fd/{folder}/{os.path.basename(path)}"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        old = os.umask(0o177)
        try:
            sock.bind(short)
        finally:
            os.umask(old)
        sock.listen(128)
        sock.setblocking(False)
        return sock
    finally:
        os.close(folder)


class _Server(uvicorn.Server):
    """uvicorn without its own handling of signals, for the daemon has one way to end; and without
    its ten looks a second at whether that has come."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._leaving = asyncio.Event()

    def leave(self) -> None:
        """End `serve`, however far it is."""
        self.should_exit = True
        self._leaving.set()

    async def main_loop(self) -> None:
        await self.on_tick(0)
        await self._leaving.wait()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


class Doors:
    """Where the API is served. `url` is that over TCP; None while it is not served there."""

    def __init__(self, control: Control, hosts: Sequence[str]) -> None:
        self.url: str | None = None
        self._bus = control.bus
        self._keys = Keys(control.token)
        self._servers: list[tuple[_Server, asyncio.Task[Any]]] = []
        login = Login(self._keys, self.open_near, self._guard)
        self.operations = operations(control, login)
        """All that is served."""
        self._app = build(self.operations)
        self._access = Access(
            self._app,
            self._keys,
            hosts=hosts,
            open_paths=[one.path for one in self.operations if one.open],
            local_paths=[one.path for one in self.operations if one.local],
        )

    def _guard(self) -> Access:
        return self._access

    def open_unix(self, sock: socket.socket) -> None:
        """For whoever may open the file."""
        self._serve(self._app, sock, Protocol)

    def open_tcp(self, listener: TcpListener) -> None:
        """For whoever has the token."""
        self._access.answer_to(urlsplit(listener.url).hostname or "")
        self._serve(self._access, listener.sock, Crowd().protocol())
        self.url = listener.url

    def open_near(self) -> str:
        """The URL over TCP for somebody on this machine; on loopback, if nothing was wanted yet.

        Raises `InputError` when no port is to be had, or no token.
        """
        if self.url is None:
            self._keys.prepare()
            self.open_tcp(bind_near())
        assert self.url is not None, "just opened"
        return self.url

    def _serve(self, app: ASGIApp, sock: socket.socket, protocol: type[asyncio.Protocol]) -> None:
        config = uvicorn.Config(
            app,
            log_level="error",
            log_config=None,
            access_log=False,
            lifespan="off",
            http=protocol,
            ws="none",
            loop="none",
            backlog=256,
            h11_max_incomplete_event_size=LARGEST_HEAD,
            timeout_graceful_shutdown=ENDS_WITHIN,
            server_header=False,
            date_header=False,
            proxy_headers=False,
        )
        server = _Server(config)
        task = asyncio.create_task(server.serve(sockets=[sock]), name="api")
        self._servers.append((server, task))

    async def close(self) -> None:
        """Who follows is let go; other requests under way get a second to end."""
        self._bus.close()
        for server, _ in self._servers:
            server.leave()
        await asyncio.gather(*(task for _, task in self._servers), return_exceptions=True)


@contextlib.asynccontextmanager
async def serving(
    control: Control,
    sock: socket.socket,
    tcp: TcpListener | None = None,
    hosts: Sequence[str] = (),
) -> AsyncGenerator[Doors]:
    """Serve for as long as the context lasts. `hosts` are names of reverse proxies."""
    doors = Doors(control, hosts)
    doors.open_unix(sock)
    if tcp is not None:
        doors.open_tcp(tcp)
    try:
        yield doors
    finally:
        await doors.close()
