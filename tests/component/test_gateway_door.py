"""Who is let in at the gateway: people and programs, but no pages of other sites."""

from __future__ import annotations

import pytest

from tests.served_gateway import OK, Client, Gateway, chat, echo, get, post, run, says

PAGE = "https://evil.test"


async def asked(
    gateway: Gateway, *headers: str, method: str = "GET", path: str = "/v1/models"
) -> int:
    lines = [f"{method} {path} HTTP/1.1", *headers, "", ""]
    return (await gateway.ask("\r\n".join(lines).encode())).status


def test_names_that_no_stranger_can_have_are_ours() -> None:
    async def story(gateway: Gateway) -> None:
        for host in (
            "localhost",
            f"LOCALHOST:{gateway.port}",
            "127.0.0.1:8080",
            "[::1]:8080",
            "192.168.1.20",
            "orchestrate:8080",
            "app.localhost",
            "host.docker.internal:8080",
        ):
            assert await asked(gateway, f"Host: {host}") == 200, host
        for host in ("evil.test", "evil.test:8080", "127.0.0.1.evil.test", "[::1", "a@b", "."):
            assert await asked(gateway, f"Host: {host}") == 403, host
        gateway.door.update(["Models.Example"], ())
        assert await asked(gateway, "Host: models.example:8080") == 200
        assert await asked(gateway, "Host: evil.test") == 403

    run(story)


def test_with_a_token_any_name_will_do() -> None:
    async def story(gateway: Gateway) -> None:
        assert await asked(gateway, "Host: evil.test") == 401
        assert await asked(gateway, "Host: models.example", "Authorization: Bearer word") == 200

    run(story, token="word")


def test_a_page_of_another_site_is_refused_before_its_body_is_read() -> None:
    async def story(gateway: Gateway) -> None:
        await gateway.serve("a", echo)
        client: Client = await gateway.connect()
        whole = post(b'{"model":"a"}', f"Origin: {PAGE}", "Content-Type: text/plain")
        await client.send(whole[:-13])
        said = await client.answer()
        assert (said.status, said.json["error"]["code"]) == (403, "wrong-origin")
        assert "access-control-allow-origin" not in said.headers
        assert not gateway.records[-1].target
        client.close()
        assert gateway.clients.held == 0

        for headers in (
            ["Origin: null"],
            ["Origin: http://localhost.evil.test"],
            ["Origin: file://"],
            ["Origin: http://[::1"],
            ["Sec-Fetch-Site: cross-site"],
            ["Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: no-cors"],
        ):
            assert await asked(gateway, "Host: localhost", *headers) == 403, headers
        preflight = ["Access-Control-Request-Method: POST", f"Origin: {PAGE}"]
        assert await asked(gateway, "Host: localhost", *preflight, method="OPTIONS") == 403

        # A page that it serves itself, as llama-server's, may; and so may who opens one.
        own = f"localhost:{gateway.port}"
        assert await asked(gateway, f"Host: {own}", f"Origin: http://{own}") == 200
        for here in ("http://localhost:3000", "http://127.0.0.1", "app://obsidian.md"):
            assert await asked(gateway, "Host: localhost", f"Origin: {here}") == 200, here
        own = "192.168.1.20:8080"
        assert await asked(gateway, f"Host: {own}", f"Origin: http://{own}") == 200
        opened = ["Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate"]
        assert await asked(gateway, "Host: localhost", *opened) == 200

        # A name that was given our address says the same twice, and is not ours.
        assert await asked(gateway, "Host: evil.test", "Origin: http://evil.test") == 403

    run(story)


@pytest.mark.parametrize("token", ["", "word"])
def test_an_invited_page_can_ask_and_read(token: str) -> None:
    async def story(gateway: Gateway) -> None:
        await gateway.serve("a", echo)
        gateway.door.update((), [f"{PAGE}/"])
        ask = ["Access-Control-Request-Method: POST", "Access-Control-Request-Headers: x-api-key"]
        said = await gateway.ask(
            get("/v1/chat/completions", f"Origin: {PAGE}", *ask, method="OPTIONS")
        )
        assert said.status == 204
        assert said.headers["access-control-allow-origin"] == PAGE
        assert said.headers["access-control-allow-headers"] == "x-api-key"
        assert "POST" in said.headers["access-control-allow-methods"]
        assert "access-control-allow-credentials" not in said.headers

        with_token = [f"Origin: {PAGE}", *([f"X-Api-Key: {token}"] if token else [])]
        for request in (post(b'{"model":"a"}', *with_token), get("/v1/models", *with_token)):
            said = await gateway.ask(request)
            assert (said.status, said.headers["access-control-allow-origin"]) == (200, PAGE)
        assert (
            "origin" not in (await gateway.ask(post(b'{"model":"a"}', *with_token))).json["headers"]
        )
        said = await gateway.ask(get("/nowhere", *with_token))
        assert (said.status, said.headers["access-control-allow-origin"]) == (404, PAGE)
        other = await gateway.ask(get("/v1/models", "Origin: https://other.test"))
        # With a token there is nothing to steal: whoever has it may ask, from any page.
        assert other.status == (401 if token else 403)
        assert ("access-control-allow-origin" in other.headers) is bool(token)

    run(story, token=token)


def test_what_an_engine_allows_is_not_passed_on() -> None:
    """llama-server lets every page read everything."""
    raw = b"HTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin: *\r\nContent-Length: 2\r\n\r\n{}"

    async def story(gateway: Gateway) -> None:
        await gateway.serve("a", says(raw))
        said = await gateway.ask(chat("a"))
        assert said.status == 200
        assert "access-control-allow-origin" not in said.headers

    run(story)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([], 401),
        (["Authorization: Bearer"], 401),
        (["Authorization: Bearer wor"], 401),
        (["Authorization: Bearer wordy"], 401),
        (["Authorization: Basic word"], 401),
        (["X-Api-Key: nope"], 401),
        (["X-Api-Key: \xff\xfe"], 401),
        (["Authorization: Bearer word"], 200),
        (["authorization: bearer  word "], 200),
        (["X-Api-Key: word"], 200),
    ],
)
def test_the_token(headers: list[str], status: int) -> None:
    async def story(gateway: Gateway) -> None:
        lines = ["GET /v1/models HTTP/1.1", "Host: localhost", *headers, "", ""]
        assert (await gateway.ask("\r\n".join(lines).encode("latin-1"))).status == status
        assert (await gateway.ask(get("/health"))).status == 200

    run(story, token="word")


def test_a_body_of_a_stranger_is_not_waited_for() -> None:
    async def story(gateway: Gateway) -> None:
        client = await gateway.connect()
        await client.send(chat("a", prompt="x" * 1000)[:200])
        said = await client.answer()
        assert (said.status, said.headers["connection"]) == (401, "close")
        assert await client.at_end()
        assert gateway.clients.held == 0
        client.close()

    run(story, token="word")


def test_who_is_not_let_in_is_told_by_the_address() -> None:
    async def story(gateway: Gateway) -> None:
        await gateway.serve("a", OK)
        assert (await gateway.ask(chat("a"))).status == 401
        assert [(one.client, one.status) for one in gateway.records] == [("127.0.0.1", 401)]

    run(story, token="word")
