"""The control API over TCP: who is let in, what is refused, and that nobody holds up the others."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from pathlib import Path
from typing import cast

import pytest

from orchestrator.api import crowd
from orchestrator.api.answers import MAX_BODY
from orchestrator.api.keys import CODE_LASTS, COOKIE_LASTS, Keys
from orchestrator.api.rates import Rates
from tests.served_api import PATIENCE, TOKEN, Answer, Api, run

WEAK = "short"


# --- the token ------------------------------------------------------------------------------------


def test_only_the_open_routes_go_without_the_token(tmp_path: Path) -> None:
    async def story(served: Api) -> None:
        assert served.doors is not None
        for one in served.doors.operations:
            path = one.path.replace("{name:path}", "x").replace("{name}", "x")
            answer = await served.ask_tcp(one.method, path.replace("{verb}", "stop"), token=None)
            if one.open:
                assert answer.status in (200, 400, 503), path
            else:
                code = "local-only" if one.local else "unauthorized"
                assert (answer.status, answer.error["code"]) == (403 if one.local else 401, code)
        for nowhere in ("/v1/nowhere", "//v1/status", "/v1/../v1/status", "/healthz/"):
            assert (await served.ask_tcp("GET", nowhere, token=None)).status == 401

    run(tmp_path, story, tcp=True)


@pytest.mark.parametrize("said", ["", "Bearer", "Bearer ", f"Basic {TOKEN}", f"Bearer {TOKEN}x"])
def test_a_wrong_token_is_refused_with_what_to_do(tmp_path: Path, said: str) -> None:
    async def story(served: Api) -> None:
        answer = await served.ask_tcp("GET", "/v1/status", token=None, Authorization=said)
        assert (answer.status, answer.error["code"]) == (401, "unauthorized")
        assert "token" in answer.error["hint"]
        assert answer.headers["www-authenticate"].startswith("bearer")
        assert (await served.ask_tcp("GET", "/v1/status")).status == 200

    run(tmp_path, story, tcp=True)


def test_wrong_tokens_are_slowed_down_and_the_right_one_is_not(tmp_path: Path) -> None:
    async def story(served: Api) -> None:
        answers = [await served.ask_tcp("GET", "/v1/status", token=f"no{n}") for n in range(12)]
        statuses = [answer.status for answer in answers]
        assert statuses[:10] == [401] * 10
        assert statuses[-1] == 429
        assert int(answers[-1].headers["retry-after"]) >= 1
        wrong = await served.ask_tcp("POST", "/login", b'{"token": "no"}', token=None)
        assert wrong.status == 429
        assert (await served.ask_tcp("GET", "/v1/status")).status == 200
        right = json.dumps({"token": TOKEN}).encode()
        assert (await served.ask_tcp("POST", "/login", right, token=None)).status == 200

    run(tmp_path, story, tcp=True)


def test_a_token_that_can_be_guessed_is_not_even_looked_at_after_too_many(tmp_path: Path) -> None:
    async def story(served: Api) -> None:
        for number in range(10):
            await served.ask_tcp("GET", "/v1/status", token=f"no{number}")
        assert (await served.ask_tcp("GET", "/v1/status", token=WEAK)).status == 429
        right = json.dumps({"token": WEAK}).encode()
        assert (await served.ask_tcp("POST", "/login", right, token=None)).status == 429
        assert (await served.ask("GET", "/v1/status")).status == 200, "not on the control socket"

    run(tmp_path, story, tcp=True, token=WEAK)


def test_one_address_cannot_ask_without_end(tmp_path: Path) -> None:
    async def story(served: Api) -> None:
        reader, writer = await served.connect(tcp=True)
        head = f"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\n\r\n"
        writer.write(head.encode() * 1500)
        said = b""
        async with asyncio.timeout(PATIENCE):
            while b" 429 " not in said:
                said += await reader.read(65536)
        assert said.count(b" 200 ") >= 600
        writer.close()
        assert (await served.ask("GET", "/healthz")).status == 200, "not on the control socket"

    run(tmp_path, story, tcp=True)


def test_rates_fill_up_again() -> None:
    now = 100.0
    rates = Rates(2, 0.5, clock=lambda: now)
    assert [rates.take("10.0.0.1") for _ in range(3)] == [0, 0, 2]
    assert rates.take("10.0.0.2") == 0, "another address"
    assert rates.take("2001:db8::1") == rates.take("2001:db8::2") == 0
    assert rates.take("2001:db8::3") > 0, "the same /64"
    now += 2
    assert rates.take("10.0.0.1") == 0
    for number in range(10_000):
        rates.take(f"172.16.{number >> 8}.{number & 255}")
    assert len(rates._left) < 5000


# --- logging in -----------------------------------------------------------------------------------


def cookie_of(answer: Answer) -> str:
    said = answer.headers["set-cookie"]
    for wanted in ("httponly", "samesite=strict", "path=/"):
        assert wanted in said
    return said.partition(";")[0]


def test_the_form_gives_a_cookie_that_stands_for_the_token(tmp_path: Path) -> None:
    async def story(served: Api) -> None:
        page = await served.ask_tcp("GET", "/login", token=None)
        assert page.headers["content-type"].startswith("text/html")
        assert b"<script" not in page.body
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        wrong = await served.ask_tcp("POST", "/login", b"token=no", token=None, **form)
        assert wrong.status == 401
        assert b"not the token" in wrong.body
        right = await served.ask_tcp(
            "POST", "/login", f"token={TOKEN}%20".encode(), token=None, **form
        )
        assert (right.status, right.headers["location"]) == (303, "/")
        cookie = cookie_of(right)
        assert (await served.ask_tcp("GET", "/v1/status", token=None, Cookie=cookie)).status == 200
        both = f"orchestrate=of-another-port; {cookie}"
        assert (await served.ask_tcp("GET", "/v1/status", token=None, Cookie=both)).status == 200
        for broken in (cookie[:-1], f"{cookie}0", "orchestrate=9999999999.", "orchestrate=\u00b2."):
            answer = await served.ask_tcp("GET", "/v1/status", token=None, Cookie=broken)
            assert answer.status == 401, broken

    run(tmp_path, story, tcp=True)


def test_a_browser_without_the_cookie_is_led_to_the_form(tmp_path: Path) -> None:
    async def story(served: Api) -> None:
        browser = {"Accept": "text/html,*/*"}
        answer = await served.ask_tcp("GET", "/", b"", token=None, **browser)
        assert (answer.status, answer.headers["location"]) == (303, "/login")

    run(tmp_path, story, tcp=True)


def test_a_link_works_once(tmp_path: Path) -> None:
    async def story(served: Api) -> None:
        url = (await served.ask("POST", "/v1/dashboard")).json["url"]
        assert url.startswith(f"http://127.0.0.1:{served.port}/login?code=")
        path = url[url.index("/login") :]
        first = await served.ask_tcp("GET", path, token=None)
        assert (first.status, first.headers["location"]) == (303, "/")
        cookie = cookie_of(first)
        assert (await served.ask_tcp("GET", "/", token=None, Cookie=cookie)).status == 200
        again = await served.ask_tcp("GET", path, token=None)
        assert again.status == 401
        assert "set-cookie" not in again.headers
        assert b"used already" in again.body

    run(tmp_path, story, tcp=True)


def test_the_dashboard_begins_to_be_served_when_somebody_wants_it(tmp_path: Path) -> None:
    async def story(served: Api) -> None:
        assert served.doors is not None
        assert served.doors.url is None
        url = (await served.ask("POST", "/v1/dashboard")).json["url"]
        assert url.startswith("http://127.0.0.1:")
        assert (await served.ask_tcp("GET", "/healthz", token=None)).status == 200
        assert (await served.ask("POST", "/v1/dashboard")).json["url"].startswith(served.doors.url)

    run(tmp_path, story)


def test_codes_and_cookies_end() -> None:
    now = 1000.0
    keys = Keys(lambda: TOKEN, clock=lambda: now)
    code, cookie = keys.new_code(), keys.cookie()
    assert keys.is_cookie(cookie)
    assert not Keys(lambda: "another", clock=lambda: now).is_cookie(cookie)
    assert Keys(lambda: TOKEN, clock=lambda: now).is_cookie(cookie), "another daemon, same token"
    now += CODE_LASTS + 1
    assert not keys.take_code(code)
    now += COOKIE_LASTS
    assert not keys.is_cookie(cookie)
    codes = [keys.new_code() for _ in range(100)]
    assert not keys.take_code(codes[0]), "only so many at a time"
    assert keys.take_code(codes[-1])
    assert not keys.take_code(codes[-1])
    assert not keys.take_code("\u00e9")


# --- pages of others ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "let_in"),
    [
        ("127.0.0.1:{port}", True),
        ("localhost:{port}", True),
        ("LOCALHOST", True),
        ("[::1]:{port}", True),
        ("192.168.1.7:80", True),
        (socket.gethostname(), True),
        ("evil.example", False),
        ("evil.example:{port}", False),
        ("127.0.0.1.evil.example", False),
        ("localhost.evil.example", False),
        ("127.0.0.1@evil.example", False),
        ("[::1].evil.example", False),
        ("", False),
        ("[", False),
    ],
)
def test_only_names_that_are_ours_are_answered(tmp_path: Path, host: str, let_in: bool) -> None:
    async def story(served: Api) -> None:
        said = host.format(port=served.port)
        for path in ("/healthz", "/v1/status", "/login"):
            answer = await served.ask_tcp("GET", path, Host=said)
            if let_in:
                assert answer.status == 200, path
            else:
                assert (answer.status, answer.error["code"]) == (403, "wrong-host")

    run(tmp_path, story, tcp=True)


@pytest.mark.parametrize(
    ("headers", "let_in"),
    [
        ({"Origin": "http://127.0.0.1:{port}"}, True),
        ({"Origin": "http://127.0.0.1:1"}, False),
        ({"Origin": "http://evil.example"}, False),
        ({"Origin": "null"}, False),
        ({"Origin": "http://["}, False),
        ({"Origin": "file://127.0.0.1:{port}"}, False),
        ({"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"}, True),
        ({"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate"}, True),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, True),
        ({"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors"}, False),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"}, False),
    ],
)
def test_no_page_of_another_site_may_ask(
    tmp_path: Path, headers: dict[str, str], let_in: bool
) -> None:
    async def story(served: Api) -> None:
        said = {name: value.format(port=served.port) for name, value in headers.items()}
        for method, path in (("POST", "/v1/down"), ("GET", "/v1/status"), ("GET", "/healthz")):
            answer = await served.ask_tcp(method, path, b"", **said)
            if let_in:
                assert answer.status == 200, path
            else:
                assert (answer.status, answer.error["code"]) == (403, "wrong-origin")
            assert "access-control-allow-origin" not in answer.headers
        assert served.asked == ([("down", False)] if let_in else [])

    run(tmp_path, story, tcp=True)


def test_names_that_were_allowed_are_answered_behind_a_proxy_too(tmp_path: Path) -> None:
    async def story(served: Api) -> None:
        for host in ("models.example", "models.example:443", f"127.0.0.1:{served.port}"):
            origin = "https://models.example"
            answer = await served.ask_tcp("GET", "/v1/status", Host=host, Origin=origin)
            assert answer.status == 200
        answer = await served.ask_tcp("GET", "/v1/status", Origin="https://other.example")
        assert answer.status == 403

    run(tmp_path, story, tcp=True, hosts=["Models.example"])


def test_every_answer_says_what_a_browser_may_do_with_it(tmp_path: Path) -> None:
    async def story(served: Api) -> None:
        for path in ("/v1/status", "/healthz", "/login", "/", "/v1/nowhere", "/openapi.json"):
            headers = (await served.ask_tcp("GET", path)).headers
            assert headers["x-content-type-options"] == "nosniff", path
            assert headers["x-frame-options"] == "deny"
            assert "default-src 'none'" in headers["content-security-policy"]
            assert headers["referrer-policy"] == "no-referrer"

    run(tmp_path, story, tcp=True)


# --- floods ---------------------------------------------------------------------------------------


def test_a_body_that_is_too_large_is_refused_unread_or_thrown_away(tmp_path: Path) -> None:
    async def story(served: Api) -> None:
        whole = b" " * (MAX_BODY + 1)
        answer = await served.ask_tcp("POST", "/v1/apply", whole)
        assert (answer.status, answer.error["code"]) == (413, "too-large")
        small = await served.ask_tcp("POST", "/login", b" " * 5000, token=None)
        assert small.status == 413
        chunks = b"".join(b"100000\r\n%b\r\n" % (b" " * 0x100000) for _ in range(6)) + b"0\r\n\r\n"
        (status, _), _, writer = await served.begin(
            *("POST", "/v1/apply", chunks),
            tcp=True,
            **{"Content-Length": "", "Transfer-Encoding": "chunked"},
            Host=f"127.0.0.1:{served.port}",
            Authorization=f"Bearer {TOKEN}",
        )
        writer.close()
        assert status == 413

    run(tmp_path, story, tcp=True)


def test_a_head_without_end_is_refused(tmp_path: Path) -> None:
    async def story(served: Api) -> None:
        for flood in (
            b"GET /healthz HTTP/1.1\r\n" + b"X: " + b"y" * 100_000,
            b"GET /healthz HTTP/1.1\r\n" + b"X: y\r\n" * 20_000,
            b"GET /" + b"y" * 100_000,
        ):
            reader, writer = await served.connect(tcp=True)
            with contextlib.suppress(ConnectionError):
                writer.write(flood)
                await writer.drain()
            async with asyncio.timeout(PATIENCE):
                said = await reader.read()
            writer.close()
            assert said.startswith(b"HTTP/1.1 431 "), said[:80]
            assert json.loads(said.partition(b"\r\n\r\n")[2])["error"]["code"] == "too-large"
        assert (await served.ask_tcp("GET", "/healthz")).status == 200

    run(tmp_path, story, tcp=True)


def test_who_says_nothing_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crowd, "HEAD_WITHIN", 0.3)

    async def story(served: Api) -> None:
        for begun in (b"", b"GET /healthz HTTP/1.1\r\nHost: x"):
            reader, writer = await served.connect(tcp=True)
            writer.write(begun)
            async with asyncio.timeout(PATIENCE):
                with contextlib.suppress(ConnectionError):
                    assert await reader.read() == b""
            writer.close()
        # After an answer, too: the rest of a body that nobody reads is no reason to stay.
        reader, writer = await served.connect(tcp=True)
        head = f"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\nContent-Length: 9999\r\n"
        writer.write(head.encode() + b"\r\n")
        async with asyncio.timeout(PATIENCE):
            with contextlib.suppress(ConnectionError):
                while await reader.read(65536):
                    writer.write(b"x")
        writer.close()
        # On the control socket nobody is hurried.
        reader, writer = await served.connect()
        await asyncio.sleep(0.5)
        writer.write(b"GET /healthz HTTP/1.0\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
        writer.close()

    run(tmp_path, story, tcp=True)


def test_a_stream_lasts_though_its_reader_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crowd, "HEAD_WITHIN", 0.2)

    async def story(served: Api) -> None:
        (status, _), reader, writer = await served.begin(
            *("GET", "/v1/events"),
            tcp=True,
            Host=f"127.0.0.1:{served.port}",
            Authorization=f"Bearer {TOKEN}",
        )
        assert status == 200
        await asyncio.sleep(0.5)
        served.happens(1)
        async with asyncio.timeout(PATIENCE):
            await reader.readuntil(b"event: unready")
        writer.close()

    run(tmp_path, story, tcp=True)


def test_a_thousand_half_open_connections_shut_nobody_out(tmp_path: Path) -> None:
    async def story(served: Api) -> None:
        half_open = [await served.connect(tcp=True) for _ in range(1000)]
        for _, writer in half_open:
            with contextlib.suppress(ConnectionError):
                writer.write(b"GET /v1/status HTTP/1.1\r\n")
        began = time.monotonic()
        assert (await served.ask_tcp("GET", "/v1/status")).status == 200
        assert (await served.ask("GET", "/v1/status")).status == 200
        served.happens(3)
        assert time.monotonic() - began < PATIENCE
        assert served.doors is not None
        server, _ = served.doors._servers[1]
        assert len(server.server_state.connections) <= crowd.MOST
        for _, writer in half_open:
            writer.close()

    run(tmp_path, story, tcp=True)


def test_where_all_are_busy_one_more_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crowd, "MOST", 3)

    async def story(served: Api) -> None:
        served.happens(1)
        told = {"Host": f"127.0.0.1:{served.port}", "Authorization": f"Bearer {TOKEN}"}
        busy = [await served.begin("GET", "/v1/events", b"", tcp=True, **told) for _ in range(3)]
        answer = await served.ask_tcp("GET", "/v1/status")
        assert (answer.status, answer.error["code"]) == (503, "too-many")
        busy.pop()[2].close()
        async with asyncio.timeout(PATIENCE):
            answer = await served.ask_tcp("GET", "/v1/status")
            while answer.status != 200:
                answer = await served.ask_tcp("GET", "/v1/status")
        for _, _, writer in busy:
            writer.close()

    run(tmp_path, story, tcp=True)


def test_who_does_not_read_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crowd, "READ_WITHIN", 0.3)

    async def story(served: Api) -> None:
        served.happens(1)
        told = {"Host": f"127.0.0.1:{served.port}", "Authorization": f"Bearer {TOKEN}"}
        _, reader, writer = await served.begin("GET", "/v1/events", b"", tcp=True, **told)
        cast(asyncio.Transport, writer.transport).pause_reading()
        assert served.doors is not None
        server, _ = served.doors._servers[1]
        async with asyncio.timeout(PATIENCE):
            while server.server_state.connections:
                served.happens(50, message="x" * 1000)
                await asyncio.sleep(0.01)
        assert (await served.ask_tcp("GET", "/v1/status")).status == 200
        writer.close()
        del reader

    run(tmp_path, story, tcp=True)
