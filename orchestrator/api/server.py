"""Serves the application on the control socket."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncGenerator, Generator
from typing import Any

import uvicorn

from orchestrator.api.app import Control, build


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


@contextlib.asynccontextmanager
async def serving(control: Control, sock: socket.socket) -> AsyncGenerator[None]:
    """Serve for as long as the context lasts; requests under way get a second to end."""
    config = uvicorn.Config(
        build(control),
        log_level="warning",
        log_config=None,
        access_log=False,
        lifespan="off",
        http="h11",
        ws="none",
        loop="none",
        timeout_graceful_shutdown=1,
        server_header=False,
        date_header=False,
    )
    server = _Server(config)
    task: asyncio.Task[Any] = asyncio.create_task(server.serve(sockets=[sock]), name="api")
    try:
        yield
    finally:
        server.leave()
        await asyncio.gather(task, return_exceptions=True)
