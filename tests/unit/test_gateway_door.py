"""Who may ask the gateway, with a token and without."""

from __future__ import annotations

import pytest

from orchestrator.gateway.door import Door
from orchestrator.gateway.message import Request

OPEN = Door(names=frozenset({"my-box"}))
LOCKED = Door("s3cret")


def request(**headers: str) -> Request:
    known = [(name.replace("_", "-").encode(), text.encode()) for name, text in headers.items()]
    return Request(b"POST", b"/v1/chat/completions", known, b"{}", True, True)


def asking(**headers: str) -> Request:
    """As a browser asks whether a page may ask."""
    asked = request(access_control_request_method="POST", **headers)
    return Request(b"OPTIONS", asked.target, asked.headers, b"", True, True)


def code(door: Door, **headers: str) -> str:
    refused = door.refusal(request(**headers))
    return "" if refused is None else refused.code


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1:8080",
        "localhost:8080",
        "LOCALHOST",
        "[::1]:8080",
        "192.168.0.7",
        "my-box:1",
        "a.localhost",
        "box.local",
        "host.docker.internal:8080",
    ],
)
def test_names_of_this_machine_are_let_in(host: str) -> None:
    assert code(OPEN, host=host) == ""


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example:80", "evil@x", "[::1"])
def test_other_names_are_not(host: str) -> None:
    assert code(OPEN, host=host) == "wrong-host"


def test_other_names_and_pages_are_let_in_where_somebody_says_so() -> None:
    door = Door()
    door.update(["LLM.example"], ["https://App.example/"])

    assert code(door, host="llm.example:8080") == ""
    assert code(door, host="llm.example", origin="https://app.example") == ""
    assert code(door, host="llm.example", origin="http://evil.example") == "wrong-origin"


@pytest.mark.parametrize(
    "origin",
    ["http://localhost:3000", "https://127.0.0.1", "http://[::1]:5173", "app://x", "tauri://x"],
)
def test_pages_of_this_machine_may_ask_and_read(origin: str) -> None:
    assert code(OPEN, host="localhost", origin=origin) == ""
    assert (b"access-control-allow-origin", origin.encode()) in OPEN.marks(request(origin=origin))


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "null",
        "http://localhost.evil.example",
        "http://192.168.0.7:3000",
        "x",
        "http://[",
        "https://evil.example@localhost.evil.example",
    ],
)
def test_pages_of_others_may_not_whatever_they_send(origin: str) -> None:
    assert code(OPEN, host="localhost", origin=origin) == "wrong-origin"
    assert OPEN.refusal(asking(host="localhost", origin=origin)) is not None
    assert OPEN.marks(request(origin=origin)) == []


def test_a_token_is_needed_and_is_enough() -> None:
    assert code(LOCKED) == "unauthorized"
    assert code(LOCKED, authorization="Bearer wrong") == "unauthorized"
    assert code(LOCKED, authorization="s3cret") == "unauthorized"
    assert code(LOCKED, authorization="Bearer ünï") == "unauthorized"
    assert code(LOCKED, x_api_key="s3cret") == ""
    page = "https://app.example"
    assert code(LOCKED, authorization="bearer s3cret", origin=page, host="llm.example") == ""
    assert LOCKED.refusal(asking(origin=page)) is None
    assert (b"access-control-allow-origin", page.encode()) in LOCKED.marks(request(origin=page))
