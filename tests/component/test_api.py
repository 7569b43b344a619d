"""The control API over its socket: a real server, a real store, and clients good and bad."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import socket
from pathlib import Path
from typing import Any

import pytest
from starlette.routing import Route

from orchestrator.api.answers import MAX_BODY
from orchestrator.api.app import build
from orchestrator.api.server import bind_unix
from orchestrator.control.bus import SUBSCRIBER_LIMIT, NewDesired
from orchestrator.core.event import Event, EventType
from tests.served_api import PATIENCE, Api, chunk, chunks, run
from tests.unit.test_plan import A, status

# --- the socket -----------------------------------------------------------------------------------


def test_the_socket_is_ours_alone_and_replaces_one_of_a_dead_daemon(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    path.write_text("left behind")
    with bind_unix(str(path)):
        assert path.is_socket()
        assert path.stat().st_mode & 0o777 == 0o600
    with bind_unix(str(path)):
        assert path.is_socket()


def test_a_folder_of_any_length_will_do(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 120)
    folder.mkdir()
    before = len(os.listdir("/proc/self/fd"))
    with bind_unix(str(folder / "control.sock")), socket.socket(socket.AF_UNIX) as client:
        descriptor = os.open(folder, os.O_RDONLY)
        client.connect(f"/proc/self/fd/{descriptor}/control.sock")
        os.close(descriptor)
    assert len(os.listdir("/proc/self/fd")) == before


# --- questions ------------------------------------------------------------------------------------


def test_what_is_well_says_so(tmp_path: Path) -> None:
    async def story(served: Api) -> None:
        assert (await served.ask("GET", "/healthz")).body == b"ok\n"
        answer = await served.ask("GET", "/readyz")
        assert (answer.status, answer.json["converged"]) == (503, False)
        document = (await served.ask("GET", "/v1/status")).json
        assert (document["version"], document["instances"]) == ("1", [])

    run(tmp_path, story)


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("GET", "/v1/nowhere", b"", 404, "not-found"),
        ("DELETE", "/v1/status", b"", 405, "bad-request"),
        ("POST", "/v1/apply", b"{", 400, "bad-input"),
        ("POST", "/v1/apply", b"[1]", 400, "bad-input"),
        ("POST", "/v1/apply", b"\xff\xfe", 400, "bad-input"),
        ("POST", "/v1/apply", b"[" * 100_000, 400, "bad-input"),
        ("POST", "/v1/apply", b"{}", 400, "bad-input"),
        ("POST", "/v1/apply", b'{"sources": [{"path": 1}]}', 400, "bad-input"),
        ("POST", "/v1/plan", b'{"sources": 7}', 400, "bad-input"),
        ("POST", "/v1/remove", b'{"profiles": 7}', 400, "bad-input"),
        ("POST", "/v1/remove", b'{"profiles": "p"}', 400, "bad-input"),
        ("POST", "/v1/remove", b'{"profiles": ["nobody"]}', 404, "not-found"),
        ("POST", "/v1/instances/a/dance", b"", 404, "not-found"),
        ("POST", "/v1/instances/nobody/start", b"", 404, "not-found"),
        ("GET", "/v1/instances/nobody/logs", b"", 404, "not-found"),
        ("GET", "/v1/instances/..%2f..%2fetc/logs", b"", 404, "not-found"),
        ("GET", "/v1/events?after=x", b"", 400, "bad-input"),
        ("GET", "/v1/events?after=%C2%B2", b"", 400, "bad-input"),
        ("GET", "/v1/events?recent=-1", b"", 400, "bad-input"),
        ("GET", "/v1/events?recent=99999999999999999999", b"", 400, "bad-input"),
    ],
)
def test_a_bad_question_is_answered_with_an_error_in_the_one_shape(
    tmp_path: Path, method: str, path: str, body: bytes, status: int, code: str
) -> None:
    async def story(served: Api) -> None:
        answer = await served.ask(method, path, body)
        assert (answer.status, answer.error["code"]) == (status, code), answer.body
        assert answer.error.keys() == {"code", "message", "hint"}
        assert (await served.ask("GET", "/healthz")).status == 200

    run(tmp_path, story)


def test_a_body_without_end_is_refused_before_it_ends(tmp_path: Path) -> None:
    async def story(served: Api) -> None:
        head = await asyncio.to_thread(_flood, served.path)
        assert head.startswith(b"HTTP/1.1 413 ")
        assert (await served.ask("GET", "/healthz")).status == 200

    run(tmp_path, story)


def _flood(path: str) -> bytes:
    """Send far more than is taken; what is answered all the same."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE)
        client.connect(path)
        with contextlib.suppress(ConnectionError):
            client.sendall(
                b"POST /v1/apply HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999999\r\n\r\n"
            )
            for _ in range(8):
                client.sendall(b" " * MAX_BODY)
        return client.recv(65536)


def test_noise_on_the_socket_harms_nobody(tmp_path: Path) -> None:
    async def story(served: Api) -> None:
        for noise in (b"\0\xff\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/1.1\r\n" + b"x" * 200_000):
            reader, writer = await served.connect()
            writer.write(noise)
            writer.write_eof()
            async with asyncio.timeout(PATIENCE):
                with contextlib.suppress(ConnectionError):
                    await reader.read()
            writer.close()
        assert (await served.ask("GET", "/healthz")).status == 200

    run(tmp_path, story)


def test_what_is_wrong_with_files_comes_as_a_list_of_places(tmp_path: Path) -> None:
    profile = tmp_path / "p.yaml"
    profile.write_text("instances:\n  a: {model: x, prot: 1}\n  b: 7\n")
    source = {"path": str(profile), "is_folder": False, "env": {}, "cwd": "/"}

    async def story(served: Api) -> None:
        for path in ("/v1/apply", "/v1/plan"):
            answer = await served.ask("POST", path, json.dumps({"sources": [source]}).encode())
            assert (answer.status, answer.error["code"]) == (422, "bad-input")
            lines = [(e["file"], e["line"]) for e in answer.json["errors"]]
            assert (str(profile), 2) in lines
            assert (str(profile), 3) in lines

    run(tmp_path, story)


def test_the_ways_to_end_are_passed_on(tmp_path: Path) -> None:
    async def story(served: Api) -> None:
        await served.ask("POST", "/v1/down", b'{"keep_daemon": true}')
        await served.ask("POST", "/v1/down")
        await served.ask("POST", "/v1/daemon/stop", b'{"instances": true}')
        await served.ask("POST", "/v1/daemon/stop")
        assert served.asked == [("down", True), ("down", False), ("leave", True), ("leave", False)]

    run(tmp_path, story)


def test_every_route_is_told_of_and_all_that_is_told_of_is_served(tmp_path: Path) -> None:
    async def story(served: Api) -> None:
        told = (await served.ask("GET", "/openapi.json")).json
        assert served.doors is not None
        routes = {
            (route.path.replace(":path}", "}"), method.lower())
            for route in build(served.doors.operations).routes
            if isinstance(route, Route)
            for method in (route.methods or set()) - {"HEAD"}
        }
        assert routes == {(path, one) for path, methods in told["paths"].items() for one in methods}
        named = json.dumps(told)
        for schema in re.findall(r'"#/components/schemas/(\w+)"', named):
            assert schema in told["components"]["schemas"]
        ids = [one["operationId"] for methods in told["paths"].values() for one in methods.values()]
        assert len(ids) == len(set(ids))

    run(tmp_path, story)


def test_only_the_head_of_a_stream_has_an_end(tmp_path: Path) -> None:
    async def story(served: Api) -> None:
        for path in ("/v1/events", "/v1/status?follow=1", "/healthz", "/v1/status"):
            answer = await served.ask("HEAD", path)
            assert (answer.status, answer.body) == (200, b""), path
        assert (await served.ask("GET", "/healthz/")).status == 404
        refused = await served.ask("DELETE", "/v1/profiles/p")
        assert refused.status == 405
        assert set(refused.headers["allow"].split(", ")) == {"get", "head", "put"}

    run(tmp_path, story)


def test_readiness_is_waited_for_and_not_longer_than_said(tmp_path: Path) -> None:
    async def story(served: Api) -> None:
        assert (await served.ask("GET", "/readyz?wait=1")).status == 503
        asked = asyncio.create_task(served.ask("GET", "/readyz?wait=20"))
        await asyncio.sleep(0)
        served.bus.post(NewDesired({}, renew=True))
        while not asked.done():
            served.reconciler.step()
            await asyncio.sleep(0.01)
        assert asked.result().json == {"converged": True, "missing": []}
        # Who goes away is not waited for.
        _, writer = await served.connect()
        writer.close()

    run(tmp_path, story)


def test_a_crowd_of_readers_is_told_all_of_it_in_fewer_pieces(tmp_path: Path) -> None:
    async def story(served: Api) -> None:
        readers = [await served.begin("GET", "/v1/events?after=0") for _ in range(60)]
        served.happens(5)
        for _, reader, writer in readers:
            seen = b""
            async with asyncio.timeout(PATIENCE):
                while len(ids(seen)) < 5:
                    seen += await chunk(reader)
            assert ids(seen) == [1, 2, 3, 4, 5]
            writer.close()

    run(tmp_path, story)


# --- events ---------------------------------------------------------------------------------------


def told(body: bytes) -> list[dict[str, Any]]:
    """The events in a stream, each with the `id:` that it can be resumed from."""
    found: list[dict[str, Any]] = []
    for block in body.decode().split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if line[:1] != ":")
        if "data" in lines:
            event = json.loads(lines["data"])
            assert lines["event"] == event["type"]
            found.append({**event, "resume": lines.get("id")})
    return found


def ids(body: bytes) -> list[int]:
    return [event["id"] for event in told(body)]


def test_events_are_resumed_where_the_client_was(tmp_path: Path) -> None:
    async def story(served: Api) -> None:
        served.happens(20)
        path = "/v1/events?follow=0"
        assert ids((await served.ask("GET", f"{path}&recent=3")).body) == [18, 19, 20]
        assert ids((await served.ask("GET", f"{path}&after=17")).body) == [18, 19, 20]
        answer = await served.ask("GET", path, Last_Event_ID="15")
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert ids(answer.body) == [16, 17, 18, 19, 20]
        assert ids((await served.ask("GET", path, Last_Event_ID="20")).body) == []
        for nonsense in ("x", "\u00b2", "-1", "9" * 400):
            answer = await served.ask("GET", f"{path}&recent=2", Last_Event_ID=nonsense)
            assert ids(answer.body) == [19, 20], nonsense
        from_a_lost_store = await served.ask("GET", f"{path}&recent=2", Last_Event_ID="5000")
        assert ids(from_a_lost_store.body) == [19, 20]

    run(tmp_path, story)


def test_what_comes_follows_what_was_each_once_and_only_what_was_asked_for(tmp_path: Path) -> None:
    async def story(served: Api) -> None:
        served.happens(2)
        _, reader, writer = await served.begin("GET", "/v1/events?after=1&instance=a")
        served.bus.post(Event(EventType.UNREADY, "b"))
        served.bus.post(Event(EventType.PROGRESS, "a", message="loading"))
        served.happens(1)
        seen = b""
        async with asyncio.timeout(PATIENCE):
            while len(told(seen)) < 3:
                seen += await chunk(reader)
        writer.close()
        assert ids(seen) == [2, 4, 5]
        assert [event["resume"] for event in told(seen)] == ["2", None, "5"]

    run(tmp_path, story)


def test_a_pass_that_adds_events_of_its_own_hides_none_of_those_that_waited(tmp_path: Path) -> None:
    async def story(served: Api) -> None:
        served.reconciler.observed = {"a": status(A, held=True)}
        _, reader, writer = await served.begin("GET", "/v1/events?after=0")
        served.bus.post(NewDesired({"a": A}, renew=True))
        served.bus.post(Event(EventType.UNREADY, "a"))
        served.reconciler.step()
        seen = b""
        async with asyncio.timeout(PATIENCE):
            while "released" not in {event["type"] for event in told(seen)}:
                seen += await chunk(reader)
        writer.close()
        assert ids(seen) == sorted(ids(seen))
        assert [event["type"] for event in told(seen)][:2] == ["unready", "released"]

    run(tmp_path, story)


def test_a_reader_that_is_too_slow_is_dropped_without_a_gap(tmp_path: Path) -> None:
    async def story(served: Api) -> None:
        served.happens(1)
        _, reader, writer = await served.begin("GET", "/v1/events?after=0")
        many = SUBSCRIBER_LIMIT // 2
        for _ in range(5):
            served.happens(many)
        async with asyncio.timeout(PATIENCE):
            seen = await chunks(reader)
        writer.close()
        assert ids(seen) == list(range(1, len(ids(seen)) + 1)), "whole up to where it ends"
        assert len(ids(seen)) < 1 + 5 * many, "and it ends before the last"
        resumed = await served.ask("GET", "/v1/events?follow=0", Last_Event_ID=str(len(ids(seen))))
        assert ids(resumed.body)[-1] == 1 + 5 * many
        assert served.bus._subscriptions == set()

    run(tmp_path, story)


def test_a_reader_that_never_reads_keeps_no_more_than_the_limit(tmp_path: Path) -> None:
    async def story(served: Api) -> None:
        _, _, writer = await served.begin("GET", "/v1/events?after=0")
        for _ in range(40):
            served.happens(100, message="x" * 1000)
            await asyncio.sleep(0)
        (subscription,) = served.bus._subscriptions
        assert len(subscription._waiting) <= SUBSCRIBER_LIMIT
        assert (await served.ask("GET", "/healthz")).status == 200
        writer.transport.abort()

    run(tmp_path, story)


def test_whoever_leaves_is_forgotten(tmp_path: Path) -> None:
    async def story(served: Api) -> None:
        for path in ("/v1/events", "/v1/status?follow=1"):
            _, _, writer = await served.begin("GET", path)
            assert len(served.bus._subscriptions) == 1
            writer.close()
            async with asyncio.timeout(PATIENCE):
                while served.bus._subscriptions:
                    served.happens(1)
                    await asyncio.sleep(0.01)

    run(tmp_path, story)


def test_the_status_is_followed_with_the_events_that_changed_it(tmp_path: Path) -> None:
    async def story(served: Api) -> None:
        served.happens(3)
        _, reader, writer = await served.begin("GET", "/v1/status?follow=1&after=1")
        first = json.loads(await chunk(reader))
        assert [event["id"] for event in first["events"]] == [2, 3]
        assert first["status"]["instances"] == []
        served.happens(2)
        async with asyncio.timeout(PATIENCE):
            second = json.loads(await chunk(reader))
        assert [event["id"] for event in second["events"]] == [4, 5]
        writer.close()

    run(tmp_path, story)


# --- logs -----------------------------------------------------------------------------------------


def test_logs_by_line_by_run_and_as_they_grow(tmp_path: Path) -> None:
    async def story(served: Api) -> None:
        served.reconciler.observed = {"a": status(A)}
        for run_ in ("first", "second"):
            fd = served.logs.begin("a")
            os.write(fd, f"{run_} 1\n{run_} 2\n".encode())
            os.close(fd)
        logs = "/v1/instances/a/logs"
        assert (await served.ask("GET", logs)).body == b"second 1\nsecond 2\n"
        assert (await served.ask("GET", f"{logs}?lines=1")).body == b"second 2\n"
        assert (await served.ask("GET", f"{logs}?previous=1")).body == b"first 1\nfirst 2\n"
        assert (await served.ask("GET", f"{logs}?previous=9")).body == b""

        _, reader, writer = await served.begin("GET", f"{logs}?lines=1&follow=1")
        seen = await chunk(reader)
        for more in ("second 3\n", "third 1\n"):
            if more.startswith("third"):
                os.close(served.logs.begin("a"))
            log = os.open(served.logs.path("a"), os.O_WRONLY | os.O_APPEND)
            os.write(log, more.encode())
            os.close(log)
            async with asyncio.timeout(PATIENCE):
                while not seen.endswith(more.encode()):
                    seen += await chunk(reader)
        assert seen == b"second 2\nsecond 3\nthird 1\n"
        writer.close()

    run(tmp_path, story)
