"""The side of the gateway that instances see: dead ones, wild ones, and the well-behaved."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
from typing import Any

import pytest

from orchestrator.gateway import outbound
from orchestrator.gateway.exchange import ATTEMPTS
from tests.served_gateway import (
    OK,
    Behaves,
    Gateway,
    chat,
    echo,
    get,
    post,
    request_of,
    run,
    until,
)

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def once(raw: bytes) -> Behaves:
    """Says this to the first request, and leaves."""

    async def behaves(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_of(reader)
        writer.write(raw)

    return behaves


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"hello\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        HEAD + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        HEAD + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 400_000,
        b"\0" * 1000,
        b"HTTP/1.1 000 None\r\nContent-Length: 2\r\n\r\n{}",
    ],
    ids=[
        "nothing",
        "a word",
        "HTTP/2",
        "two lengths",
        "both",
        "101",
        "endless head",
        "zeros",
        "000",
    ],
)
def test_what_is_no_answer_is_asked_of_another(raw: bytes) -> None:
    async def story(gateway: Gateway) -> None:
        await gateway.serve("bad", once(raw))
        await gateway.serve("good", OK)
        gateway.told(both={"aims": [{"target": "bad", "weight": 50}, {"target": "good"}]})
        for _ in range(3):
            said = await gateway.ask(chat("both"))
            assert (said.status, said.headers["x-orchestrate-instance"]) == (200, "good")
        assert sum(record.retries for record in gateway.records) >= 1
        said = await gateway.ask(chat("bad"))
        assert said.status == 502
        assert "bad" in said.json["error"]["message"]

    run(story)


def test_what_is_sent_beside_an_answer_is_not_passed_on() -> None:
    two = HEAD + b"Content-Length: 2\r\n\r\n{}" + HEAD + b"Content-Length: 4\r\n\r\nevil"
    bodies = {
        "two": two,
        "early": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: x\r\n\r\n" + two,
        "more": HEAD + b"Content-Length: 2\r\n\r\n{}evil",
        "chunks": HEAD
        + b"Transfer-Encoding: chunked\r\n\r\n2;x=y\r\n{}\r\n0\r\nX-Late: 1\r\n\r\nevil",
    }

    async def story(gateway: Gateway) -> None:
        for name, raw in bodies.items():
            await gateway.serve(name, once(raw))
            client = await gateway.connect()
            await client.send(chat(name))
            said = await client.answer()
            assert (said.status, said.body) == (200, b"{}"), name
            assert not {"link", "x-late"} & set(said.headers)
            # The next answer on that connection is to the next question.
            await client.send(get("/health"))
            assert (await client.answer()).json == {"status": "ok"}
            client.close()

    run(story)


@pytest.mark.parametrize("status", [204, 304])
def test_an_answer_without_a_body_has_none(status: int) -> None:
    async def story(gateway: Gateway) -> None:
        raw = b"HTTP/1.1 %d X\r\nContent-Length: 4\r\n\r\nevil" % status
        await gateway.serve("a", once(raw))
        client = await gateway.connect()
        await client.send(chat("a"))
        assert (await client.answer()).status == status
        await client.send(get("/health"))
        assert (await client.answer()).json == {"status": "ok"}
        client.close()

    run(story)


def test_a_compressed_answer_is_passed_on_as_it_is() -> None:
    async def story(gateway: Gateway) -> None:
        packed = gzip.compress(b'{"x":1}')
        head = HEAD + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed)
        await gateway.serve("a", once(head + packed))
        said = await gateway.ask(chat("a"))
        assert said.headers["content-encoding"] == "gzip"
        assert said.body == packed

    run(story)


def test_an_answer_that_ends_with_its_connection() -> None:
    async def story(gateway: Gateway) -> None:
        await gateway.serve("a", once(HEAD + b"\r\n" + b"x" * 100_000))
        assert (await gateway.ask(chat("a"))).body == b"x" * 100_000

    run(story)


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("/v1/chat/completions", b"data: {"),
        ("/v1/messages", b"event: error\ndata: {"),
        ("/api/chat", b'{"error":'),
    ],
)
def test_a_stream_that_breaks_off_ends_with_an_error(path: str, error: bytes) -> None:
    async def story(gateway: Gateway) -> None:
        kind = b"application/x-ndjson" if path.startswith("/api") else b"text/event-stream"
        head = STREAM.replace(b"text/event-stream", kind)
        engine = "ollama" if path.startswith("/api") else "llama-server"
        await gateway.serve("a", once(head + b"3\r\nabc\r\n5\r\nab"), engine=engine)
        client = await gateway.connect()
        await client.send(post(b'{"model":"a","stream":true}', path=path))
        said = await client.answer()
        gap = b"\n" if path.startswith("/api") else b"\n\n"
        assert said.body.startswith(b"abcab" + gap + error)
        assert b"a broke off" in said.body
        assert gateway.records[0].lost
        # It is whole HTTP: the connection serves on.
        await client.send(get("/health"))
        assert (await client.answer()).status == 200
        client.close()

    run(story)


@pytest.mark.parametrize(
    ("pieces", "gap"),
    [
        ([b"data: 1\n\n"], b""),
        ([b"data: 1\n", b"\n"], b""),
        ([b"data: 1\n"], b"\n\n"),
        ([b"data: 1\r\n\r\n"], b"\n\n"),
        ([b"data: 1", b"\n"], b"\n\n"),
        ([], b""),
    ],
)
def test_the_error_that_ends_a_stream_is_an_event_of_its_own(
    pieces: list[bytes], gap: bytes
) -> None:
    async def breaks_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_of(reader)
        writer.write(STREAM.replace(b"text/event-stream", b"Text/Event-Stream; charset=utf-8"))
        for piece in pieces:
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        await writer.drain()

    async def story(gateway: Gateway) -> None:
        await gateway.serve("a", breaks_off)
        said = await gateway.ask(chat("a", stream=True))
        assert said.body.startswith(b"".join(pieces) + gap + b'data: {"error"')

    run(story)


def test_an_answer_that_breaks_off_does_not_look_whole() -> None:
    async def story(gateway: Gateway) -> None:
        await gateway.serve("a", once(HEAD + b"Content-Length: 100\r\n\r\nabc"))
        client = await gateway.connect()
        await client.send(chat("a"))
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await client.answer()
        client.close()

    run(story)


def test_an_answer_before_the_question_is_whole_is_passed_on() -> None:
    async def early(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 5\r\n\r\nearly")
        await writer.drain()
        await reader.read()

    async def story(gateway: Gateway) -> None:
        await gateway.serve("a", early)
        for _ in range(2):
            said = await gateway.ask(chat("a", prompt="x" * 8_000_000))
            assert (said.status, said.body) == (400, b"early")

    run(story)


def test_a_connection_that_was_closed_while_idle_is_no_failure() -> None:
    served: list[int] = []

    async def one_each(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # It promises to keep the connection, and then does not heed what comes.
        await request_of(reader)
        served.append(1)
        writer.write(HEAD + b"Content-Length: 2\r\n\r\n{}")
        await reader.read(1)

    async def story(gateway: Gateway) -> None:
        await gateway.serve("a", one_each)
        for _ in range(5):
            assert (await gateway.ask(chat("a"))).status == 200
        assert len(served) == 5
        assert not any(record.retries for record in gateway.records)

    run(story)


def test_a_cloud_is_asked_once_also_on_a_connection_that_was_kept() -> None:
    seen: list[str] = []

    async def breaks_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append((await request_of(reader))[0])
        writer.write(HEAD + b"Content-Length: 2\r\n\r\n{}")
        await writer.drain()
        seen.append((await request_of(reader))[0])

    async def story(gateway: Gateway) -> None:
        await gateway.serve("cloud:sky", breaks_off, engine="cloud")
        gateway.told(chat={"aims": [{"target": "cloud:sky"}]})
        statuses = [(await gateway.ask(chat("chat"))).status for _ in range(2)]
        assert (statuses, len(seen)) == ([200, 502], 2)

    run(story)


def test_a_deed_is_not_done_twice() -> None:
    seen: list[str] = []

    async def dies(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append((await request_of(reader))[0])

    async def story(gateway: Gateway) -> None:
        await gateway.serve("a", dies)
        said = await gateway.ask(post(b"{}", path="/instances/a/slots/0?action=erase"))
        assert (said.status, seen) == (502, ["POST /slots/0?action=erase HTTP/1.1"])
        assert (await gateway.ask(get("/instances/a/slots"))).status == 502
        assert len(seen) > 2

    run(story)


@pytest.mark.parametrize(
    "asked", [post(b"{}", path="/instances/a/slots/0"), get("/instances/a/slots")]
)
def test_what_an_instance_says_of_itself_is_passed_on_and_keeps_nobody_from_it(
    asked: bytes,
) -> None:
    """A llama-server answers 503 to a look that wants a free slot, as that asks it to."""
    busy = (
        b'HTTP/1.1 503 Busy\r\nContent-Type: application/json\r\nContent-Length: 8\r\n\r\n{"n": 0}'
    )
    seen: list[str] = []

    async def says_busy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append((await request_of(reader))[0])
        writer.write(busy)

    async def story(gateway: Gateway) -> None:
        server = await gateway.serve("a", says_busy)
        said = await gateway.ask(asked)
        assert (said.status, said.json, len(seen)) == (503, {"n": 0}, 1)
        server.close()
        await gateway.serve("a", OK)
        gateway.room.deadline = 0.0
        assert (await gateway.ask(chat("a"))).status == 200, "it was kept waiting"

    run(story)


def test_tries_are_told_as_many_as_there_were() -> None:
    async def story(gateway: Gateway) -> None:
        gateway.place("a", 1)
        assert (await gateway.ask(get("/instances/a/slots"))).status == 502
        assert gateway.records[-1].retries == ATTEMPTS - 1

    run(story)


@pytest.mark.parametrize("when", ["queued", "waiting", "reading"])
def test_a_client_that_leaves_takes_its_request_along(when: str) -> None:
    left: list[bool] = []

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_of(reader)
        if when == "reading":
            writer.write(STREAM + b"3\r\nabc\r\n")
        left.append(await reader.read() == b"")

    async def story(gateway: Gateway) -> None:
        await gateway.serve("a", slow, slots=1)
        clients = [await gateway.connect() for _ in range(2 if when == "queued" else 1)]
        for client in clients:
            await client.send(chat("a", stream=True))
            await until(lambda: gateway.room.in_flight()["a"] == 1)
        if when == "queued":
            await until(lambda: gateway.room.waiting_for()["a"] == 1)
            clients[1].close()
            await until(lambda: gateway.room.waiting_for()["a"] == 0)
            assert gateway.room.in_flight()["a"] == 1
        elif when == "reading":
            await clients[0].head()
        clients[0].close()
        await until(lambda: left)
        assert left == [True]
        await until(lambda: not gateway.room.in_flight())
        assert {record.status for record in gateway.records} <= {499, 200}

    run(story)


def test_what_is_the_gateways_own_goes_no_further() -> None:
    async def story(gateway: Gateway) -> None:
        await gateway.serve("open", echo)
        await gateway.serve("closed", echo, key="engine's")
        secrets = ["Authorization: Bearer word", "X-Api-Key: word", "Cookie: a=b", "X-Mine: 1"]
        own = [
            "Connection: close, X-Hop",
            "X-Hop: 1",
            "Connection: X-Next",
            "X-Next: 1",
            "Keep-Alive: 5",
            "TE: trailers",
            "Via: me",
        ]
        for name, key in (("open", None), ("closed", "Bearer engine's")):
            body = json.dumps({"model": name}).encode()
            seen: dict[str, Any] = (await gateway.ask(post(body, *secrets, *own))).json["headers"]
            assert seen.get("authorization") == key
            assert not {
                "x-api-key",
                "cookie",
                "x-hop",
                "x-next",
                "te",
                "keep-alive",
                "connection",
            } & set(seen)
            assert (seen["x-mine"], seen["via"]) == ("1", "me")
            assert seen["host"].startswith("127.0.0.1:")

    run(story, token="word")


def test_a_request_id_is_passed_through_unless_it_could_do_harm() -> None:
    async def story(gateway: Gateway) -> None:
        await gateway.serve("a", echo)
        for sent, kept in (
            ("abc-123", True),
            ("x" * 128, True),
            ("x" * 129, False),
            ("a b", False),
            ("\xe9", False),
            ("", False),
        ):
            raw = chat("a").replace(
                b"Host:", b"X-Request-Id: " + sent.encode("latin-1") + b"\r\nHost:"
            )
            said = await gateway.ask(raw)
            given = said.headers["x-request-id"]
            assert said.json["headers"]["x-request-id"] == given == gateway.records[-1].id
            assert (given == sent) is kept
            assert given.isascii()
            assert given

    run(story)


def test_paths_below_an_instance_are_its_own() -> None:
    async def story(gateway: Gateway) -> None:
        await gateway.serve("a", echo)
        for asked, seen in (
            ("/instances/a", "/"),
            ("/instances/a?x=1", "/?x=1"),
            ("/instances/a/", "/"),
            ("/instances/a/props?a=b/c", "/props?a=b/c"),
            ("/instances/%61/slots", "/slots"),
            ("/instances/a//x", "//x"),
            ("/instances/a/../b", "/../b"),
        ):
            said = await gateway.ask(get(asked))
            assert said.json["line"] == f"GET {seen} HTTP/1.1"
            assert said.headers["x-orchestrate-instance"] == "a"
        for nowhere in (
            "/instances/",
            "/instances/..",
            "/instances/b/props",
            "/instances/a%2Fprops",
            "//instances/a",
            "/x/../instances/a",
            "/v1/nowhere",
        ):
            assert (await gateway.ask(get(nowhere))).status == 404, nowhere

    run(story)


class Elsewhere(asyncio.Transport):
    """A connection to another machine."""

    def __init__(self, sock: socket.socket, address: str) -> None:
        super().__init__({"socket": sock, "peername": (address, 443)})


@pytest.mark.parametrize(("address", "watched"), [("192.0.2.1", True), ("127.0.0.1", False)])
def test_a_server_elsewhere_that_is_out_of_reach_is_noticed(address: str, watched: bool) -> None:
    """Nothing says so: only the system can ask whether it is still there."""

    async def scene() -> None:
        with socket.socket() as sock:
            outbound.Outbound().connection_made(Elsewhere(sock, address))
            assert bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)) is watched
            patience = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
            assert patience == (outbound.UNHEARD * 1000 if watched else 0)

    asyncio.run(scene())
