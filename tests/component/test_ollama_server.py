"""The client of one Ollama: against the real one, and against one that breaks off."""

from __future__ import annotations

import asyncio
import hashlib
import math
import socket
from collections.abc import AsyncGenerator, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from models.make_tiny import write_tiny, write_tiny_embedding
from orchestrator.core.spec import Endpoint
from orchestrator.runtime.ollama_server import (
    OllamaError,
    OllamaServer,
    OllamaUnreachableError,
    Progress,
)
from tests.ollama_world import Server, ask, generate, running_ollama


def play(scene: Coroutine[Any, Any, None]) -> None:
    asyncio.run(scene)


def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@asynccontextmanager
async def asking(number: int) -> AsyncGenerator[OllamaServer]:
    client = OllamaServer(Endpoint("127.0.0.1", number))
    try:
        yield client
    finally:
        await client.close()


@pytest.fixture
def server(tmp_path: Path, ollama: str) -> Iterator[Server]:
    with running_ollama(tmp_path / "ollama", port(), binary=ollama) as running:
        yield running


async def made(client: OllamaServer, name: str, path: Path) -> str:
    """A model of a file that was uploaded; its digest."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    sent: list[int] = []
    await client.upload(digest, str(path), sent.append)
    assert sent[-1] == path.stat().st_size
    async with client.create({"model": name, "files": {path.name: f"sha256:{digest}"}}) as lines:
        while await lines.next() is not None:
            pass
    return digest


@pytest.mark.ollama
def test_a_model_from_its_file_to_memory_and_away(server: Server, model: Path) -> None:
    async def scene() -> None:
        async with asking(server.port) as client:
            assert await client.tags() == []
            digest = await made(client, "tiny", model)
            assert await client.has_blob(digest)
            assert not await client.has_blob("0" * 64)
            [tag] = await client.tags()
            assert (tag.name, tag.capabilities) == ("tiny:latest", ("completion",))
            assert (await client.show("tiny")).blobs == (digest,)

            await client.keep("tiny", seconds=math.inf, embeds=False)
            [running] = await client.running()
            assert (running.name, running.digest) == ("tiny:latest", tag.digest)
            assert running.expires_at == math.inf
            await client.keep("tiny", seconds=60.0, embeds=False, context=running.context)
            [running] = await client.running()
            assert running.expires_at < math.inf

            await client.copy("tiny", "other")
            await client.unload("tiny")
            await client.delete("tiny")
            await client.delete("tiny")
            assert [tag.name for tag in await client.tags()] == ["other:latest"]
            await client.unload("tiny")

    play(scene())


@pytest.mark.ollama
def test_a_model_that_only_embeds_is_loaded_too(server: Server, tmp_path: Path) -> None:
    async def scene() -> None:
        async with asking(server.port) as client:
            await made(client, "embed", write_tiny_embedding(tmp_path / "embed.gguf"))
            # As of an older server, which does not say what a model can.
            await client.keep("embed", seconds=math.inf, embeds=False)
            assert [one.name for one in await client.running()] == ["embed:latest"]

    play(scene())


@pytest.mark.ollama
def test_the_servers_own_words_are_the_message(server: Server, tmp_path: Path) -> None:
    async def scene() -> None:
        nothing = write_tiny(tmp_path / "x.gguf")
        nothing.write_bytes(b"no model at all")
        async with asking(server.port) as client:
            with pytest.raises(OllamaError, match="not found"):
                await client.keep("nothing", seconds=1.0, embeds=False)
            with pytest.raises(OllamaError, match="unsupported file type"):
                await made(client, "x", nothing)
            # Nobody listens on port 1: the registry's own trouble comes in the stream.
            async with client.pull("127.0.0.1:1/a/b", insecure=True) as lines:
                assert await lines.next() == Progress("pulling manifest")
                with pytest.raises(OllamaError, match="connection refused"):
                    await lines.next()

    play(scene())


@pytest.mark.ollama
def test_what_is_in_memory_is_not_waited_for(server: Server, model: Path) -> None:
    async def scene() -> None:
        async with asking(server.port) as client:
            await made(client, "tiny", model)
            await asyncio.to_thread(generate, server.port, "tiny")
            assert ask(server.port, "/api/ps")["models"][0]["name"] == "tiny:latest"
            assert (await client.running())[0].context > 0

    play(scene())


def test_nobody_there_is_told_from_a_refusal() -> None:
    async def scene() -> None:
        async with asking(port()) as client:
            with pytest.raises(OllamaUnreachableError):
                await client.tags()
            with pytest.raises(OllamaUnreachableError):
                async with client.pull("x", insecure=False):
                    pass

    play(scene())


async def to_the_end(client: OllamaServer) -> None:
    async with client.pull("x", insecure=False) as lines:
        while await lines.next() is not None:
            pass


@pytest.mark.parametrize(
    "answer",
    [
        b'{"status": "pulling manifest"}\n',
        b'{"status": "pulling manifest"}\n{"status": "pull',
        b"not JSON at all\n",
        b"",
    ],
)
def test_an_answer_that_breaks_off_is_no_good_end(answer: bytes) -> None:
    async def scene() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + answer)
            await writer.drain()
            writer.close()
            await writer.wait_closed()

        listening = await asyncio.start_server(serve, "127.0.0.1", 0)
        number = listening.sockets[0].getsockname()[1]
        async with listening, asking(number) as client:
            with pytest.raises(OllamaUnreachableError):
                await to_the_end(client)

    play(scene())


def test_leaving_a_stream_ends_it_on_the_server_too() -> None:
    async def scene() -> None:
        left = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            line = b'{"status": "pulling x", "digest": "x", "total": 10, "completed": 1}\n'
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + line)
            await writer.drain()
            await reader.read()
            left.set()
            writer.close()

        listening = await asyncio.start_server(serve, "127.0.0.1", 0)
        number = listening.sockets[0].getsockname()[1]
        async with listening, asking(number) as client:

            async def pull() -> None:
                async with client.pull("x", insecure=False) as lines:
                    assert await lines.next() == Progress("pulling x", "x", 1, 10)
                    pulling.set()
                    await lines.next()

            pulling = asyncio.Event()
            task = asyncio.create_task(pull())
            await pulling.wait()
            task.cancel()
            async with asyncio.timeout(5):
                await left.wait()
            with pytest.raises(asyncio.CancelledError):
                await task

    play(scene())
