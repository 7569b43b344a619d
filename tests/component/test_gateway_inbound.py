"""The side of the gateway that clients see, and those who are none."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Iterable

import pytest

from orchestrator.gateway import front, inbound, reading
from orchestrator.gateway.clients import Clients, most_connections
from orchestrator.gateway.message import REMEMBERED, Request
from tests.served_gateway import OK, Gateway, chat, echo, get, post, request_of, run, until

PLAIN = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"

SMUGGLED = {
    "two lengths": PLAIN + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    "a length and chunks": PLAIN
    + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    "chunks and a length": PLAIN
    + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    "a list of lengths": PLAIN + b"Content-Length: 3, 3\r\n\r\nabc",
    "a length with a sign": PLAIN + b"Content-Length: +3\r\n\r\nabc",
    "a length beyond all": PLAIN + b"Content-Length: 99999999999999999999999\r\n\r\n",
    "a space before the colon": PLAIN + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "a folded line": PLAIN + b"X-One: a\r\n b\r\n\r\n",
    "another coding": PLAIN + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "two codings": PLAIN + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "a chunk of no size": PLAIN + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n0\r\n\r\n",
    "a chunk beyond all": PLAIN + b"Transfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFF\r\n",
    "a chunk that goes on": PLAIN + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabcX\r\n0\r\n\r\n",
    "lines without return": b"GET /v1/models HTTP/1.1\nHost: localhost\n\n",
    "a bare return": b"GET /v1/models HTTP/1.1\r\nX: a\rHost: localhost\r\n\r\n",
    "a null": b"GET /v1/models HTTP/1.1\r\nX: a\0b\r\n\r\n",
    "two hosts": b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nHost: 127.0.0.1\r\n\r\n",
    "another's address": b"GET http://evil.test/health HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a tunnel": b"CONNECT localhost:22 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
}


@pytest.mark.parametrize("sent", SMUGGLED.values(), ids=SMUGGLED)
def test_what_can_be_read_in_two_ways_is_refused_and_ends_the_connection(sent: bytes) -> None:
    async def story(gateway: Gateway) -> None:
        await gateway.serve("a", OK)
        client = await gateway.connect()
        await client.send(sent + get("/v1/models"))
        said = await client.answer()
        assert said.status in (400, 501), said
        assert said.json["error"]["message"]
        assert said.headers["connection"] == "close"
        assert await client.at_end(), "what came behind was answered as well"
        client.close()

    run(story)


def test_what_comes_behind_a_body_is_no_header() -> None:
    async def story(gateway: Gateway) -> None:
        await gateway.serve("a", echo)
        chunked = PLAIN + b"Transfer-Encoding: chunked\r\n\r\n"
        said = await gateway.ask(
            chunked + b'c;a="b"\r\n{"model":"a"\r\n1\r\n}\r\n0\r\nX-Late: 1\r\nHost: evil\r\n\r\n'
        )
        assert said.json["body"] == '{"model":"a"}'
        assert "x-late" not in said.json["headers"]
        assert said.json["headers"]["content-length"] == "13"

    run(story)


def test_endless_trailers_and_extensions_are_cut_off() -> None:
    async def story(gateway: Gateway) -> None:
        await gateway.serve("a", OK)
        for endless in (b"1;" + b"x" * 300_000, b"0\r\nX-Late: " + b"x" * 300_000):
            said = await gateway.ask(PLAIN + b"Transfer-Encoding: chunked\r\n\r\n" + endless)
            assert said.status == 431

    run(story)


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        get("/v1/models", "X: " + "x" * 70_000),
        get("/v1/models", *[f"X-{n}: 1" for n in range(200)]),
        b"GET /" + b"x" * 400_000,
    ],
    ids=["path", "value", "many", "endless"],
)
def test_a_head_has_bounds(sent: bytes) -> None:
    async def story(gateway: Gateway) -> None:
        assert (await gateway.ask(sent)).status == 431

    run(story)


def test_a_body_has_bounds_and_the_client_can_read_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_BODY", 1_000_000)

    async def story(gateway: Gateway) -> None:
        await gateway.serve("a", OK)
        huge = b'{"model":"a","prompt":"' + b"x" * 4_000_000
        # Said at once by its length, without a word of the body; and while it comes, in chunks.
        client = await gateway.connect()
        await client.send(PLAIN + b"Content-Length: 1000001\r\nExpect: 100-continue\r\n\r\n")
        assert (await client.answer()).status == 413
        client.close()
        for whole in (post(huge), PLAIN + b"Transfer-Encoding: chunked\r\n\r\n3D0900\r\n" + huge):
            assert (await gateway.ask(whole)).status == 413
        assert gateway.clients.held == 0

    run(story)


def test_all_bodies_together_have_bounds() -> None:
    async def story(gateway: Gateway) -> None:
        await gateway.serve("a", OK)
        half = await gateway.connect()
        whole = chat("a", prompt="x" * 60_000)
        await half.send(whole[:-1])
        await until(lambda: gateway.clients.held > 50_000)
        said = await gateway.ask(whole)
        assert (said.status, said.json["error"]["code"]) == (503, "overloaded")
        await half.send(whole[-1:])
        assert (await half.answer()).status == 200
        assert (await gateway.ask(whole)).status == 200
        half.close()
        await until(lambda: not gateway.clients.everyone)
        assert gateway.clients.held == 0

    run(story, most_held=100_000)


def test_a_body_counts_for_as_long_as_it_is_there() -> None:
    """A stream may take hours, and what it was asked for is let go of when it begins."""
    ends = asyncio.Event()

    async def long(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_of(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n: here\n\n")
        await ends.wait()

    async def story(gateway: Gateway) -> None:
        await gateway.serve("a", long)
        clients = [await gateway.connect() for _ in range(4)]
        for client in clients:
            await client.send(chat("a", stream=True, prompt="x" * 80_000))
            assert (await client.head())[0] == 200
        assert 0 < gateway.clients.held <= 4 * REMEMBERED
        clients[0].close()
        await until(lambda: len(gateway.clients.everyone) == 3)
        assert gateway.clients.held <= 3 * REMEMBERED
        ends.set()
        for client in clients[1:]:
            await client.reader.read(1)
            client.close()
        await until(lambda: not gateway.clients.everyone)
        assert gateway.clients.held == 0

    run(story, most_held=200_000)


def test_what_a_body_is_read_into_counts_while_it_waits() -> None:
    async def story(gateway: Gateway) -> None:
        gateway.place("a", 1, phase="starting")
        await gateway.serve("b", OK)
        many = post(b'{"model":"a","x":[' + b"{}," * 1000 + b"{}]}")
        client = await gateway.connect()
        await client.send(many)
        await until(lambda: gateway.room.waiters)
        assert gateway.clients.held > 1000 * front.A_VALUE
        assert (await gateway.ask(chat("b", prompt="x" * 20_000))).status == 503
        client.close()
        await until(lambda: not gateway.room.waiters)
        assert gateway.clients.held == 0
        assert (await gateway.ask(chat("b", prompt="x" * 20_000))).status == 200

    run(story, most_held=80_000)


def test_a_body_in_single_bytes_takes_no_more_than_it_weighs() -> None:
    async def story(gateway: Gateway) -> None:
        await gateway.serve("a", echo)
        body = json.dumps({"model": "a", "prompt": "y" * 5000}).encode()
        chunks = b"".join(b"1\r\n%c\r\n" % one for one in body)
        said = await gateway.ask(
            PLAIN + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"
        )
        assert said.json["body"].encode() == body

    run(story)


def test_a_body_of_too_many_values_is_not_looked_at() -> None:
    async def story(gateway: Gateway) -> None:
        await gateway.serve("a", OK)
        assert (await gateway.ask(post(b"[" * 100_000))).status == 400
        said = await gateway.ask(post(b'{"model":"a","x":[' + b"0," * 2_000_001 + b"0]}"))
        assert said.status == 413

    run(story)


def test_a_name_as_long_as_a_body_is_not_compared_with_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compared: list[int] = []

    def nearest(word: str, _known: Iterable[str]) -> str:
        compared.append(len(word))
        return ""

    monkeypatch.setattr(front, "did_you_mean", nearest)

    async def story(gateway: Gateway) -> None:
        await gateway.serve("a", OK)
        assert (await gateway.ask(chat("x" * 1_000_000))).status == 404
        assert compared == [front.SHOWN]

    run(story)


def test_connections_have_bounds() -> None:
    async def story(gateway: Gateway) -> None:
        first, second = await gateway.connect(), await gateway.connect()
        for one in (first, second):
            await one.send(get("/health"))
            assert (await one.answer()).status == 200
        third = await gateway.connect()
        assert (await third.answer()).status == 503
        assert await third.at_end()
        third.close()
        first.close()
        await until(lambda: len(gateway.clients.everyone) == 1)
        assert (await gateway.ask(get("/health"))).status == 200
        second.close()

    run(story, most=2)


def test_a_connection_costs_two_descriptors_and_there_are_as_many() -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = most_connections()
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert soft == resource.RLIM_INFINITY or 2 * most < soft
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize("part", [b"GET /v1/mod", PLAIN + b"Content-Length: 100\r\n\r\nab"])
def test_a_request_that_trickles_in_is_not_waited_for(
    part: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbound, "READS", 0.3)

    async def story(gateway: Gateway) -> None:
        client = await gateway.connect()
        await client.send(part)
        loop = asyncio.get_running_loop()
        ended = asyncio.create_task(client.reader.read())
        while not ended.done():
            # One byte more, again and again, buys no time.
            client.writer.write(b"x")
            for one in list(gateway.clients.everyone):
                one.look(loop.time())
            await asyncio.sleep(0.01)
        assert ended.exception() or ended.result() == b""
        client.close()

    run(story)


def test_who_takes_nothing_is_dropped_and_the_instance_is_made_to_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(inbound, "STALLS", 0.3)
    sent = [0]

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()
            sent[0] += 65536

    async def story(gateway: Gateway) -> None:
        await gateway.serve("a", endless)
        client = await gateway.connect()
        await client.send(chat("a", stream=True))
        await client.head()
        before = -1
        while before != sent[0]:
            before = sent[0]
            await asyncio.sleep(0.1)
        # What the kernel's buffers hold on either way, and ours; not what an instance could say.
        assert sent[0] < 40 << 20
        loop = asyncio.get_running_loop()
        while gateway.clients.everyone:
            for one in list(gateway.clients.everyone):
                one.look(loop.time())
            await asyncio.sleep(0.02)
        await until(lambda: not gateway.room.in_flight())
        client.close()

    run(story)


class Silent:
    """Is at work on an answer for ever."""

    def refusal(self, request: Request, peer: str) -> bytes | None:
        return None

    async def answer(self, inbound: inbound.Inbound, request: Request) -> None:
        await asyncio.Event().wait()


class Full(asyncio.Transport):
    """A connection that keeps what is written: the system does not take it."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__({"socket": sock})
        self.aborted = False

    def get_write_buffer_size(self) -> int:
        return inbound.WRITE_AHEAD

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def is_closing(self) -> bool:
        return self.aborted

    def abort(self) -> None:
        self.aborted = True


def test_who_takes_a_little_all_the_time_is_not_dropped() -> None:
    """What the system keeps for it is so much that our own buffer does not move for minutes."""

    async def scene() -> None:
        with (
            socket.create_server(("127.0.0.1", 0)) as server,
            socket.create_connection(server.getsockname()[:2]) as theirs,
            server.accept()[0] as ours,
        ):
            ours.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    ours.send(b"x" * 65536)
            transport = Full(ours)
            client = inbound.Inbound(Silent(), Clients())
            client.connection_made(transport)
            client.data_received(chat())
            await asyncio.sleep(0)
            client.pause_writing()
            now = asyncio.get_running_loop().time()
            for _ in range(3):
                client.look(now)
                before = inbound.in_system(transport)
                while inbound.in_system(transport) == before:
                    theirs.recv(65536)
                now += inbound.STALLS * 0.8
                client.look(now)
                assert not transport.aborted
            client.look(now + inbound.STALLS * 0.9)
            assert not transport.aborted
            client.look(now + inbound.STALLS * 1.1)
            assert transport.aborted
            client.connection_lost(None)
            await client.end()

    asyncio.run(scene())


def test_requests_in_a_row_are_answered_in_their_order() -> None:
    async def story(gateway: Gateway) -> None:
        await gateway.serve("a", echo)
        client = await gateway.connect()
        row = [chat("a", n=n) for n in range(5)]
        await client.send(b"".join(row) + get("/v1/models", "Expect: 100-continue"))
        for n in range(5):
            assert json.loads((await client.answer()).json["body"])["n"] == n
        assert (await client.answer()).json["object"] == "list"
        client.close()

    run(story)


def test_a_wrong_request_behind_a_good_one_takes_nothing_from_it() -> None:
    async def story(gateway: Gateway) -> None:
        await gateway.serve("a", echo)
        client = await gateway.connect()
        await client.send(chat("a") + b"NONSENSE\r\n\r\n")
        assert (await client.answer()).status == 200
        assert (await client.answer()).status == 400
        assert await client.at_end()
        client.close()
        # And no more than a few are waited with.
        client = await gateway.connect()
        await client.send(chat("a") * 40)
        statuses = [(await client.answer()).status for _ in range(inbound.PIPELINED)]
        assert set(statuses) == {200}
        client.close()

    run(story)


def test_a_client_that_asks_before_it_sends_is_told_to() -> None:
    async def story(gateway: Gateway) -> None:
        await gateway.serve("a", echo)
        client = await gateway.connect()
        head, _, body = chat("a").partition(b"\r\n\r\n")
        await client.send(head + b"\r\nExpect: 100-continue\r\n\r\n")
        assert (await client.head())[0] == 100
        await client.send(body)
        said = await client.answer()
        assert said.status == 200
        assert "expect" not in said.json["headers"]
        client.close()

    run(story)


def test_an_offer_to_speak_otherwise_is_passed_over() -> None:
    """As clients of Java make it with their first request."""

    async def story(gateway: Gateway) -> None:
        await gateway.serve("a", echo)
        more = ["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk"]
        client = await gateway.connect()
        whole = post(b'{"model":"a"}', *more)
        await client.send(get("/v1/models", *more) + whole[:-4])
        assert (await client.answer()).status == 200
        await client.send(whole[-4:] + chat("a"))
        said = await client.answer()
        assert said.json["body"] == '{"model":"a"}'
        assert not {"upgrade", "http2-settings", "connection"} & set(said.json["headers"])
        assert (await client.answer()).status == 200
        client.close()

    run(story)


def test_http_1_0_gets_an_answer_that_ends_with_the_connection() -> None:
    async def stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")

    async def story(gateway: Gateway) -> None:
        await gateway.serve("a", stream)
        client = await gateway.connect()
        old = chat("a").replace(b"HTTP/1.1", b"HTTP/1.0\r\nConnection: keep-alive")
        await client.send(old)
        status, headers = await client.head()
        assert (status, headers["connection"]) == (200, "close")
        assert "transfer-encoding" not in headers
        assert await client.reader.read() == b"abc"
        client.close()

    run(story)


def test_head_gets_a_head() -> None:
    async def story(gateway: Gateway) -> None:
        await gateway.serve("a", OK)
        client = await gateway.connect()
        for path, status in (
            ("/health", 200),
            ("/v1/models", 200),
            ("/instances/a/health", 200),
            ("/nowhere", 404),
        ):
            await client.send(get(path, method="HEAD"))
            said = await client.answer(bodiless=True)
            assert (said.status, int(said.headers["content-length"]) > 0) == (status, True)
        await client.send(get("/health"))
        assert (await client.answer()).json == {"status": "ok"}
        client.close()

    run(story)
