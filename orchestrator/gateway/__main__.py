"""The gateway's process: `python -m orchestrator.gateway --port P`, run in the state folder."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import socket
import sys
from typing import Any

from orchestrator.core.gateway_spec import GATEWAY_TOKEN
from orchestrator.gateway import link
from orchestrator.gateway.access_log import AccessLog
from orchestrator.gateway.clients import Clients, most_connections
from orchestrator.gateway.door import Door
from orchestrator.gateway.exchange import Exchanges
from orchestrator.gateway.figures import Figures
from orchestrator.gateway.front import Front
from orchestrator.gateway.inbound import Inbound
from orchestrator.gateway.message import Request
from orchestrator.gateway.record import Record
from orchestrator.gateway.room import Room
from orchestrator.gateway.table import Table, Target

SWEEP = 5.0
"""Seconds between two looks at what connections do."""

ASK_AGAIN = 1.0
"""Seconds after which it is asked once more for what somebody waits for."""

REPORT = 0.5
"""Seconds between two reports of what is under way."""

REST = 10.0
"""Seconds between two reports while nothing was for a while, but shares still change."""

DRAIN = 8.0
"""Seconds that requests under way get when the gateway is told to end: less than its grace."""


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(prog="orchestrate-gateway")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    try:
        asyncio.run(_run(options.host, options.port))
    except OSError as error:
        sys.exit(f"error: cannot listen on {options.host}:{options.port}: {error.strerror}")


async def _run(host: str, port: int) -> None:
    loop = asyncio.get_running_loop()
    room, figures, log, clients = Room(), Figures(), AccessLog(), Clients(most_connections())
    known, stirred, waited = asyncio.Event(), asyncio.Event(), asyncio.Event()
    door = Door(os.environ.get(GATEWAY_TOKEN, ""), frozenset({socket.gethostname().lower()}))

    def take(table: Table, body: dict[str, Any]) -> None:
        room.size = body.get("waiting", room.size)
        room.deadline = body.get("patience", room.deadline)
        log.requests = body.get("log", log.requests)
        log.content = body.get("content", log.content)
        door.update(body.get("hosts", ()), body.get("origins", ()))
        door.tokens = table.tokens
        room.update(table)
        known.set()
        stirred.set()
        waited.set()

    def left(target: Target) -> None:
        # Who waits for it to have nothing to do any more, waits for this.
        now = room.table.targets.get(target.name)
        if now is None or now.run != target.run or not now.serves:
            stirred.set()

    room.on_leave = left
    room.on_wait = waited.set

    def wake() -> None:
        # Once: what comes then is told of at the usual pace.
        if not figures.lively:
            stirred.set()

    def begun(record: Record) -> None:
        wake()
        figures.begin(record)

    def told(record: Record, request: Request) -> None:
        now = loop.time()
        wake()
        figures.add(record, now)
        log.put(record, request, now)

    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    following = loop.create_task(link.follow(take))
    # Without it no change would reach the gateway any more: better it is started anew.
    following.add_done_callback(lambda _: ended.set())
    # Ready means that it knows where to: nobody is told of models that are missing by mistake.
    await asyncio.wait(
        {known_task := loop.create_task(known.wait()), _task(loop, ended)},
        return_when=asyncio.FIRST_COMPLETED,
    )
    known_task.cancel()
    front = Front(room, Exchanges(room), told, door, begun)
    server = await loop.create_server(lambda: Inbound(front, clients), host, port, backlog=1024)
    work = [
        following,
        loop.create_task(_sweep(clients)),
        loop.create_task(_report(room, figures, stirred)),
        loop.create_task(_want(room, waited)),
    ]
    await ended.wait()
    # Whoever does not take the rest of an answer is not waited for, as the server would.
    server.close()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DRAIN):
            await asyncio.gather(*(client.retire() for client in clients.everyone))
    for one in work:
        one.cancel()
    await asyncio.gather(*(client.end() for client in clients.everyone))
    log.flush()


def _task(loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> asyncio.Task[bool]:
    return loop.create_task(event.wait())


async def _sweep(clients: Clients) -> None:
    """Close connections that are slow on purpose, or asleep."""
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(SWEEP)
        now = loop.time()
        for client in list(clients.everyone):
            client.look(now)


async def _want(room: Room, waited: asyncio.Event) -> None:
    """Ask for what is started on demand as long as somebody waits for it and it is at rest: at
    once, with each table, and every second, for the daemon may have been away."""
    while True:
        wanted = room.wanted()
        for name in wanted:
            await link.want(name)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ASK_AGAIN if wanted else None):
                await waited.wait()
        waited.clear()


async def _report(room: Room, figures: Figures, stirred: asyncio.Event) -> None:
    """Tell the daemon what is under way, whenever that has changed: twice a second, and at once
    when it may wait for it (`stirred`). While nothing happens, nobody wakes up for it."""
    before: dict[str, Any] = {}
    loop = asyncio.get_running_loop()
    while True:
        now = figures.as_json(room, loop.time())
        told = now == before or await link.tell(now)
        before = now if told else before
        pause = REPORT if figures.lively or not told else REST if figures.settles else None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await stirred.wait()
        stirred.clear()


if __name__ == "__main__":
    main()
