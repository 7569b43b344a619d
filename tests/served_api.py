"""The control API served in this process: a real server, a real store, and clients good and bad."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from orchestrator.api.reach import Control
from orchestrator.api.server import Doors, bind_unix, serving
from orchestrator.control.applied import AppliedSet
from orchestrator.control.bus import Bus
from orchestrator.control.executor import Executor
from orchestrator.control.history import History
from orchestrator.control.intents import Intents
from orchestrator.control.overview import Overview
from orchestrator.control.profile_files import ProfileFiles
from orchestrator.control.reconciler import Reconciler
from orchestrator.control.resolution import Machine
from orchestrator.control.toolchain import Toolchain
from orchestrator.control.traffic import Traffic
from orchestrator.core.event import Event, EventType
from orchestrator.runtime.listening import bind_tcp
from orchestrator.runtime.logs import Logs
from orchestrator.runtime.state import Store
from tests.component.test_reconciler import World

PATIENCE = 20.0
TOKEN = "a-token-that-nobody-comes-upon"

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass
class Answer:
    """A whole response."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, str]:
        assert self.headers["content-type"] == "application/json"
        return self.json["error"]


@dataclass
class Api:
    """The served application, and what stands behind it."""

    path: str
    bus: Bus
    store: Store
    logs: Logs
    reconciler: Reconciler
    applied: AppliedSet
    doors: Doors | None = None
    asked: list[tuple[str, bool]] = field(default_factory=list[tuple[str, bool]])

    @property
    def port(self) -> int:
        """Where it is served over TCP."""
        assert self.doors is not None
        assert self.doors.url is not None
        return int(self.doors.url.rpartition(":")[2])

    async def connect(self, *, tcp: bool = False) -> Streams:
        if tcp:
            return await asyncio.open_connection("127.0.0.1", self.port)
        return await asyncio.open_unix_connection(self.path)

    async def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> Answer:
        """Over the control socket."""
        return await self._whole(*await self.begin(method, path, body, tcp=False, **headers))

    async def ask_tcp(
        self, method: str, path: str, body: bytes = b"", *, token: str | None = TOKEN, **more: str
    ) -> Answer:
        """Over TCP, with the token unless another is named."""
        headers = {"Host": f"127.0.0.1:{self.port}", **more}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        return await self._whole(*await self.begin(method, path, body, tcp=True, **headers))

    async def _whole(
        self,
        head: tuple[int, dict[str, str]],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> Answer:
        status, fields = head
        chunked = fields.get("transfer-encoding") == "chunked"
        try:
            async with asyncio.timeout(PATIENCE):
                rest = await (chunks(reader) if chunked else reader.read())
        finally:
            writer.close()
        return Answer(status, fields, rest)

    async def begin(
        self, method: str, path: str, body: bytes = b"", *, tcp: bool = False, **headers: str
    ) -> tuple[tuple[int, dict[str, str]], asyncio.StreamReader, asyncio.StreamWriter]:
        """Ask, and read no more than the head of the answer."""
        reader, writer = await self.connect(tcp=tcp)
        sent = {"Host": "x", "Connection": "close", "Content-Length": str(len(body))}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        given = [f"{name}: {value}" for name, value in sent.items() if value or name == "Host"]
        lines = [f"{method} {path} HTTP/1.1", *given, "", ""]
        with contextlib.suppress(ConnectionError):
            writer.write("\r\n".join(lines).encode("latin-1") + body)
            await writer.drain()
        async with asyncio.timeout(PATIENCE):
            raw = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        fields = dict(line.lower().split(": ", 1) for line in raw[1:] if line)
        return (int(raw[0].split()[1]), fields), reader, writer

    def happens(self, number: int, **more: Any) -> None:
        """So many events, folded, saved and published."""
        for _ in range(number):
            self.bus.post(Event(EventType.UNREADY, "a", **more))
        self.reconciler.step()


async def chunk(reader: asyncio.StreamReader) -> bytes:
    size = int(await reader.readline(), 16)
    return (await reader.readexactly(size + 2))[:-2]


async def chunks(reader: asyncio.StreamReader) -> bytes:
    """All of them, to the end of the stream."""
    whole = b""
    while piece := await chunk(reader):
        whole += piece
    return whole


@contextlib.asynccontextmanager
async def api(
    folder: Path,
    *,
    tcp: bool = False,
    token: str = TOKEN,
    token_of: Callable[[], str] | None = None,
    hosts: Sequence[str] = (),
) -> AsyncGenerator[Api]:
    """Serve, over TCP too if it is wanted."""
    path = str(folder / "control.sock")
    store = Store.open(str(folder / "state.db"))
    bus = Bus(last_id=store.last_event_id())
    reconciler = Reconciler(bus=bus, store=store, observed=store.observed())
    reconciler.attach(cast(Executor, World(bus)))
    machine = Machine(
        Toolchain(str(folder / "cache")), str(folder / "cache"), "/", {}, frozenset(), (1, 2)
    )
    applied = AppliedSet(bus=bus, store=store, reconciler=reconciler, machine=lambda: machine)
    logs = Logs(str(folder / "logs"))
    made = Api(path, bus, store, logs, reconciler, applied)

    def noted(word: str) -> Callable[[bool], Awaitable[None]]:
        async def note(choice: bool) -> None:
            made.asked.append((word, choice))

        return note

    traffic = Traffic(bus, reconciler)
    overview = Overview(
        version="1",
        reconciler=reconciler,
        applied=applied,
        traffic=traffic,
        describe=lambda: {"pid": 1, "since": "2026-01-01T00:00:00Z"},
        notes=list,
    )
    control = Control(
        bus=bus,
        store=store,
        logs=logs,
        reconciler=reconciler,
        applied=applied,
        intents=Intents(bus, reconciler),
        overview=overview,
        profiles=ProfileFiles(applied, str(folder / "profiles"), lambda names: {}),
        history=History(bus, reconciler, traffic),
        toolchain=machine.toolchain,
        traffic=traffic,
        budget=lambda observed: None,
        cache_dir=machine.cache_dir,
        token=token_of or (lambda: token),
        suspect=lambda paths: [f"has {path}" for path in paths],
        down=noted("down"),
        leave=noted("leave"),
    )
    try:
        listener = bind_tcp("127.0.0.1", 0) if tcp else None
        async with serving(control, bind_unix(path), listener, hosts) as made.doors:
            yield made
    finally:
        store.close()


def run(
    folder: Path,
    story: Callable[[Api], Coroutine[Any, Any, None]],
    *,
    tcp: bool = False,
    token: str = TOKEN,
    token_of: Callable[[], str] | None = None,
    hosts: Sequence[str] = (),
) -> None:
    """A story with it, from beginning to end."""

    async def all_of_it() -> None:
        async with api(folder, tcp=tcp, token=token, token_of=token_of, hosts=hosts) as served:
            await story(served)

    asyncio.run(all_of_it())
