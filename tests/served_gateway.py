"""A gateway on a real port, with servers behind it that answer as a test has written."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from orchestrator.gateway.clients import Clients
from orchestrator.gateway.door import Door
from orchestrator.gateway.exchange import Exchanges
from orchestrator.gateway.front import Front
from orchestrator.gateway.inbound import Inbound
from orchestrator.gateway.message import Request
from orchestrator.gateway.record import Record
from orchestrator.gateway.room import Room
from orchestrator.gateway.table import Table

PATIENCE = 20.0

Behaves = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
"""What a server does with one connection."""


def chat(model: str = "a", *, stream: bool = False, **more: Any) -> bytes:
    """A request of a client, as bytes."""
    body = json.dumps({"model": model, "stream": stream, **more}).encode()
    return post(body)


def post(body: bytes, *headers: str, path: str = "/v1/chat/completions") -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def get(path: str, *headers: str, method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: localhost", *headers, "", ""]).encode()


@dataclass
class Said:
    """One answer, as it came."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Client:
    """A connection to the gateway."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def head(self) -> tuple[int, dict[str, str]]:
        raw = await self.reader.readuntil(b"\r\n\r\n")
        first, *lines = raw.decode("latin-1").split("\r\n")[:-2]
        pairs = (line.partition(": ") for line in lines)
        headers = {name.lower(): value for name, _, value in pairs}
        assert len(headers) == len(lines), f"a header comes twice: {lines}"
        return int(first.split(" ")[1]), headers

    async def answer(self, *, bodiless: bool = False) -> Said:
        status, headers = await self.head()
        return Said(status, headers, b"" if bodiless else await self._body(status, headers))

    async def _body(self, status: int, headers: dict[str, str]) -> bytes:
        if status in (204, 304) or status < 200:
            return b""
        if length := headers.get("content-length"):
            return await self.reader.readexactly(int(length))
        if headers.get("transfer-encoding") != "chunked":
            return await self.reader.read()
        pieces: list[bytes] = []
        while piece := await self.piece():
            pieces.append(piece)
        return b"".join(pieces)

    async def piece(self) -> bytes:
        """One chunk of a body; empty at its end."""
        size = int(await self.reader.readline(), 16)
        data = await self.reader.readexactly(size + 2)
        assert data.endswith(b"\r\n")
        return data[:-2]

    async def at_end(self) -> bool:
        """Whether the gateway has closed it, with nothing more to read."""
        return await self.reader.read() == b""

    def close(self) -> None:
        self.writer.close()


@dataclass
class Gateway:
    """What a test sees of it. `records` are those of the requests that are over."""

    port: int
    room: Room
    door: Door
    clients: Clients
    records: list[Record] = field(default_factory=list[Record])
    targets: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    routes: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    _servers: list[asyncio.Server] = field(default_factory=list[asyncio.Server])

    async def connect(self) -> Client:
        return Client(*await asyncio.open_connection("127.0.0.1", self.port))

    async def ask(self, data: bytes, *, bodiless: bool = False) -> Said:
        """One request on a connection of its own."""
        client = await self.connect()
        try:
            await client.send(data)
            return await client.answer(bodiless=bodiless)
        finally:
            client.close()

    async def serve(self, name: str, behaves: Behaves, **more: Any) -> asyncio.Server:
        """A server behind the gateway, under that name."""

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await behaves(reader, writer)
            except (asyncio.IncompleteReadError, ConnectionError):
                pass
            finally:
                writer.close()

        server = await asyncio.start_server(connected, "127.0.0.1", 0, limit=1 << 24)
        self._servers.append(server)
        self.place(name, server.sockets[0].getsockname()[1], **more)
        return server

    def place(self, name: str, port: int, **more: Any) -> None:
        """An instance at that port, in the table from now on."""
        row = {"name": name, "engine": "llama-server", "host": "127.0.0.1", "port": port}
        row |= {"phase": "ready", "run": f"{name}-1", "slots": 4, **more}
        self.targets = [one for one in self.targets if one["name"] != name] + [row]
        self.told()

    def told(self, **routes: dict[str, Any]) -> None:
        """Have the table in force that has all of it."""
        self.routes |= routes
        names = [{"name": row["name"], "aims": [{"target": row["name"]}]} for row in self.targets]
        names = [row for row in names if row["name"] not in self.routes]
        names += [{"name": name, **route} for name, route in self.routes.items()]
        self.room.update(Table.of_json({"targets": self.targets, "names": names}))

    async def end(self) -> None:
        await asyncio.gather(*(client.end() for client in self.clients.everyone))
        for server in self._servers:
            server.close()


def run(
    story: Callable[[Gateway], Coroutine[Any, Any, None]],
    *,
    token: str = "",
    most: int = 100,
    most_held: int = 1 << 28,
) -> None:
    """Play a story with a gateway, which must come to an end."""

    async def scene() -> None:
        room, door, clients = Room(), Door(token), Clients(most, most_held)
        gateway = Gateway(0, room, door, clients)
        exchanges = Exchanges(room)

        def told(record: Record, _: Request) -> None:
            gateway.records.append(record)

        front = Front(room, exchanges, told, door)
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Inbound(front, clients), "127.0.0.1", 0)
        gateway.port = server.sockets[0].getsockname()[1]
        try:
            async with asyncio.timeout(PATIENCE):
                await story(gateway)
        finally:
            server.close()
            await gateway.end()
            exchanges.pool.close()
            # Closed connections are told so in the next turns of the loop.
            for _ in range(5):
                await asyncio.sleep(0)

    asyncio.run(scene())


async def request_of(reader: asyncio.StreamReader) -> tuple[str, dict[str, str], bytes]:
    """What a server behind the gateway is asked: the line, the headers, the body."""
    raw = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = raw.split("\r\n")[:-2]
    pairs = (line.partition(": ") for line in lines)
    headers = {name.lower(): value for name, _, value in pairs}
    return first, headers, await reader.readexactly(int(headers.get("content-length", 0)))


def says(raw: bytes) -> Behaves:
    """Answers every request with these bytes."""

    async def behaves(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await request_of(reader)
            writer.write(raw)
            await writer.drain()

    return behaves


OK = says(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}")


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers with what it was asked."""
    while True:
        line, headers, body = await request_of(reader)
        raw = json.dumps({"line": line, "headers": headers, "body": body.decode("latin-1")})
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (len(raw), raw.encode())
        )
        await writer.drain()


async def until(what: Callable[[], object]) -> None:
    """Let the others go on until it is so; the story's own limit ends it where it never is."""
    while not what():  # noqa: ASYNC110 - what it looks at tells nobody of its changes
        await asyncio.sleep(0.005)
