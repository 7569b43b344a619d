"""The health question, put to real servers: good ones, slow ones, broken ones, hostile ones."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from orchestrator.core.spec import Endpoint
from orchestrator.runtime.probe import HttpProbe

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
PATIENCE = 10.0

Answer = Callable[["Server", asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Server:
    """What a tiny server saw: every request's head, and how many connections there were."""

    port: int = 0
    connections: int = 0
    asked: list[str] = field(default_factory=list[str])


@contextlib.asynccontextmanager
async def serving(
    answer: Answer, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None
) -> AsyncGenerator[Server]:
    """Answers each request with `answer`, until it closes the connection."""
    seen = Server()
    conversations: set[asyncio.Task[None]] = set()

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.connections += 1
        task = asyncio.current_task()
        assert task is not None
        conversations.add(task)
        try:
            while not writer.is_closing():
                seen.asked.append((await reader.readuntil(b"\r\n\r\n")).decode())
                await answer(seen, writer)
        except (OSError, EOFError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    server = await asyncio.start_server(converse, host, 0, ssl=tls)
    seen.port = server.sockets[0].getsockname()[1]
    try:
        yield seen
    finally:
        server.close()
        for task in conversations:
            task.cancel()
        await asyncio.gather(*conversations, return_exceptions=True)
        await server.wait_closed()


def says(*chunks: bytes, close: bool = False) -> Answer:
    async def answer(_: Server, writer: asyncio.StreamWriter) -> None:
        for chunk in chunks:
            writer.write(chunk)
            await writer.drain()
        if close:
            writer.close()

    return answer


async def hangs(_: Server, writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def asked_once(answer: Answer, *, within: float = PATIENCE) -> int | None:
    async with serving(answer) as server:
        probe = HttpProbe(Endpoint("127.0.0.1", server.port), "/health")
        try:
            return await probe.status(within=within)
        finally:
            await probe.close()


@pytest.mark.parametrize("status", [200, 503, 404, 500])
def test_the_status_is_told_as_it_is(status: int) -> None:
    answer = says(b"HTTP/1.1 %d Whatever\r\nContent-Length: 0\r\n\r\n" % status)
    assert asyncio.run(asked_once(answer)) == status


@pytest.mark.parametrize(
    "answer",
    [
        says(b"HTTP/1.1 200 OK\r\n", b"content-length: 2\r\n\r\n", b"o", b"k"),
        says(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
        says(b"HTTP/1.0 200 OK\r\n\r\nok", close=True),
        says(b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n"),
        says(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\nand so on"),
        says(OK + OK),
    ],
)
def test_every_shape_of_a_good_answer_is_one(answer: Answer) -> None:
    async def story() -> None:
        async with serving(answer) as server:
            probe = HttpProbe(Endpoint("127.0.0.1", server.port), "/health")
            for _ in range(3):
                assert await probe.status(within=PATIENCE) == 200
            await probe.close()

    asyncio.run(story())


@pytest.mark.parametrize(
    "answer",
    [
        says(b"garbage\r\n\r\n"),
        says(b"\r\n\r\n"),
        says(b"-ERR 200 is no command\r\n\r\n"),
        says(b"HTTP/1.1 abc\r\n\r\n"),
        says(b"HTTP/1.1\r\n\r\n"),
        says(b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"),
        says(b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\n"),
        says(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort", close=True),
        says(b"HTTP/1.1 200 OK\r\n", close=True),
        says(b"\x15\x03\x01\x00\x02\x02\x50", close=True),
        says(close=True),
    ],
)
def test_what_is_no_answer_is_none(answer: Answer) -> None:
    assert asyncio.run(asked_once(answer)) is None


def test_a_header_without_end_is_given_up() -> None:
    async def endless(_: Server, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            writer.write(b"X-Filler: " + b"x" * 1000 + b"\r\n")
            await writer.drain()

    assert asyncio.run(asked_once(endless)) is None


@pytest.mark.parametrize(
    "answer",
    [hangs, says(b"HTTP/1.1 200 OK\r\nContent-Le"), says(b"HTTP/1.1 200 OK\r\nContent-Length: 9")],
)
def test_a_server_that_hangs_costs_no_more_than_the_bound(answer: Answer) -> None:
    async def stalls(server: Server, writer: asyncio.StreamWriter) -> None:
        await answer(server, writer)
        await hangs(server, writer)

    began = time.monotonic()
    assert asyncio.run(asked_once(stalls, within=0.2)) is None
    assert 0.2 <= time.monotonic() - began < 5.0


def test_nobody_there_is_none_at_once() -> None:
    async def story() -> None:
        with socket.socket() as bound:
            bound.bind(("127.0.0.1", 0))
            endpoint = Endpoint("127.0.0.1", bound.getsockname()[1])
            assert await HttpProbe(endpoint, "/health").status(within=PATIENCE) is None
        assert await HttpProbe(Endpoint("no such name!", 80), "/").status(within=2) is None

    began = time.monotonic()
    asyncio.run(story())
    assert time.monotonic() - began < 5.0


# --- the connection -------------------------------------------------------------------------------


def test_many_questions_use_one_connection() -> None:
    async def story() -> None:
        async with serving(says(OK)) as server:
            probe = HttpProbe(Endpoint("127.0.0.1", server.port), "/health")
            for _ in range(20):
                assert await probe.status(within=PATIENCE) == 200
            await probe.close()
            assert (server.connections, len(server.asked)) == (1, 20)

    asyncio.run(story())


def test_a_kept_connection_that_was_closed_meanwhile_says_nothing_about_health() -> None:
    async def story() -> None:
        async with serving(says(OK, close=True)) as server:
            probe = HttpProbe(Endpoint("127.0.0.1", server.port), "/health")
            for _ in range(3):
                assert await probe.status(within=PATIENCE) == 200
            await probe.close()
            assert server.connections == 3

    asyncio.run(story())


def test_a_server_that_says_close_is_taken_at_its_word() -> None:
    async def story() -> None:
        polite = says(b"HTTP/1.1 200 OK\r\nConnection: Close\r\nContent-Length: 0\r\n\r\n")
        async with serving(polite) as server:
            probe = HttpProbe(Endpoint("127.0.0.1", server.port), "/health")
            for _ in range(2):
                assert await probe.status(within=PATIENCE) == 200
            assert server.connections == 2

    asyncio.run(story())


def test_a_server_that_fails_for_a_while_is_seen_to_be_well_again() -> None:
    async def moody(server: Server, writer: asyncio.StreamWriter) -> None:
        answers = [OK, b"nonsense\r\n\r\n", b"", b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"]
        step = min(len(server.asked) - 1, 4)
        if step == 2:
            await asyncio.Event().wait()
        writer.write(OK if step == 4 else answers[step])

    async def story() -> None:
        async with serving(moody) as server:
            probe = HttpProbe(Endpoint("127.0.0.1", server.port), "/health")
            seen = [await probe.status(within=0.3) for _ in range(4)]
            assert seen == [200, None, 503, 200]
            await probe.close()

    asyncio.run(story())


def test_closing_twice_and_asking_after_it() -> None:
    async def story() -> None:
        async with serving(says(OK)) as server:
            probe = HttpProbe(Endpoint("127.0.0.1", server.port), "/health")
            await probe.close()
            assert await probe.status(within=PATIENCE) == 200
            await probe.close()
            await probe.close()
            assert await probe.status(within=PATIENCE) == 200
            await probe.close()

    asyncio.run(story())


# --- where it asks --------------------------------------------------------------------------------


def test_prefix_and_host_are_in_the_question() -> None:
    async def story() -> None:
        async with serving(says(OK)) as server:
            endpoint = Endpoint("0.0.0.0", server.port, prefix="/llm/v2")
            probe = HttpProbe(endpoint, "/health")
            assert await probe.status(within=PATIENCE) == 200
            await probe.close()
        head = server.asked[0].splitlines()
        assert head[0] == "GET /llm/v2/health HTTP/1.1"
        assert f"Host: 127.0.0.1:{server.port}" in head

    asyncio.run(story())


@pytest.mark.parametrize("host", ["::1", "::"])
def test_over_ipv6(host: str) -> None:
    async def story() -> None:
        async with serving(says(OK), "::1") as server:
            probe = HttpProbe(Endpoint(host, server.port), "/health")
            assert await probe.status(within=PATIENCE) == 200
            await probe.close()
        assert f"Host: [::1]:{server.port}" in server.asked[0].splitlines()

    asyncio.run(story())


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    """A server's side of TLS, signed by nobody."""
    folder: Path = tmp_path_factory.mktemp("tls")
    openssl = shutil.which("openssl")
    assert openssl, "openssl is needed to make a certificate"
    subprocess.run(
        [
            openssl,
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-subj",
            "/CN=nobody",
            "-keyout",
            "key.pem",
            "-out",
            "cert.pem",
        ],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context


def test_over_tls_whoever_signed_it(tls: ssl.SSLContext) -> None:
    async def story() -> None:
        async with serving(says(OK), tls=tls) as server:
            probe = HttpProbe(Endpoint("127.0.0.1", server.port, "https"), "/health")
            for _ in range(3):
                assert await probe.status(within=PATIENCE) == 200
            await probe.close()
            assert server.connections == 1
        async with serving(hangs, tls=tls) as server:
            probe = HttpProbe(Endpoint("127.0.0.1", server.port, "https"), "/health")
            began = time.monotonic()
            assert await probe.status(within=0.3) is None
            assert time.monotonic() - began < 3.0

    asyncio.run(story())


def test_tls_and_plain_do_not_understand_each_other(tls: ssl.SSLContext) -> None:
    async def story() -> None:
        async with serving(says(OK)) as plain:
            endpoint = Endpoint("127.0.0.1", plain.port, "https")
            assert await HttpProbe(endpoint, "/health").status(within=0.4) is None
        async with serving(says(OK), tls=tls) as secure:
            endpoint = Endpoint("127.0.0.1", secure.port)
            assert await HttpProbe(endpoint, "/health").status(within=0.4) is None

    asyncio.run(story())
