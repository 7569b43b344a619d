"""The gateway's link to a daemon that is none, or of another make."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.gateway import link
from orchestrator.gateway.table import Table

NONSENSE = [
    b"",
    b"HTTP/1.0 500 No\r\n\r\n",
    *(
        b"HTTP/1.0 200 OK\r\n\r\n" + said + b"\n"
        for said in (
            b"table",
            b"\xff",
            b"null",
            b"[]",
            b'{"targets": 3}',
            b'{"targets": [[]]}',
            b'{"targets": [{"name": "a"}]}',
            b'{"tokens": [{"name": "a", "token": 3}]}',
        )
    ),
]


def test_a_daemon_that_talks_nonsense_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(link, "AGAIN", 0.0)
    said = [*NONSENSE, b"HTTP/1.0 200 OK\r\n\r\n" + json.dumps({"number": 7}).encode() + b"\n"]
    taken: list[int] = []

    async def daemon(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(said.pop(0) if said else b"")
        writer.close()

    async def scene() -> None:
        there = asyncio.Event()

        def take(table: Table, _body: dict[str, Any]) -> None:
            taken.append(table.number)
            there.set()

        async with await asyncio.start_unix_server(daemon, link.SOCKET):
            following = asyncio.create_task(link.follow(take))
            arrives = asyncio.create_task(there.wait())
            await asyncio.wait({following, arrives}, return_when=asyncio.FIRST_COMPLETED)
            assert not following.done(), following
            following.cancel()
            await asyncio.wait({following})

    asyncio.run(scene())
    assert taken == [7]


def test_a_daemon_that_stands_still_is_as_good_as_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(link, "HEARS_WITHIN", 0.05)

    async def scene() -> None:
        gone = asyncio.Event()

        async def daemon(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            # Until the other side has enough of it.
            await reader.read()
            writer.close()
            await writer.wait_closed()
            gone.set()

        async with await asyncio.start_unix_server(daemon, link.SOCKET):
            assert not await link.tell({})
            await gone.wait()

    asyncio.run(scene())
