"""Who asks, how urgent that may be, and that a token stays with whoever has it."""

from __future__ import annotations

import pytest

from orchestrator.gateway.door import Door
from orchestrator.gateway.message import Request
from orchestrator.gateway.table import Token

TOKENS = (Token("ci", b"t-ci", "low"), Token("me", b"t-me", "high"), Token("any", b"t-any"))


def request(**headers: str) -> Request:
    said = [(name.replace("_", "-").encode(), text.encode()) for name, text in headers.items()]
    return Request(b"POST", b"/v1/completions", said, b"", True, True)


def test_each_token_opens_the_door_and_no_other_does() -> None:
    door = Door(token="all", tokens=TOKENS)
    for token in ("all", "t-ci", "t-me"):
        assert door.refusal(request(authorization=f"Bearer {token}")) is None
        assert door.refusal(request(x_api_key=token)) is None
    for wrong in ("", "t-", "t-cii", "T-CI", "\u00e9"):
        assert door.refusal(request(authorization=f"Bearer {wrong}")) is not None
    assert door.refusal(request()) is not None
    assert Door(tokens=TOKENS).refusal(request(authorization="Bearer ")) is not None


@pytest.mark.parametrize(
    ("token", "wished", "priority"),
    [
        ("t-ci", "", -1),
        ("t-ci", "high", -1),
        ("t-me", "", 1),
        ("t-me", "low", -1),
        ("t-any", "", 0),
        ("t-any", "HIGH", 1),
        ("t-any", "highest", 0),
    ],
)
def test_a_token_says_how_urgent_its_requests_are_at_most(
    token: str, wished: str, priority: int
) -> None:
    visitor = Door(tokens=TOKENS).visitor(
        request(authorization=f"Bearer {token}", x_priority=wished, x_client_id="another"), "::1"
    )
    assert visitor.priority == priority
    assert visitor.named
    assert visitor.client == token.removeprefix("t-"), "it cannot call itself otherwise"


def test_without_a_token_of_its_own_a_client_is_who_it_says_or_where_it_is() -> None:
    door = Door(token="all")
    assert door.visitor(request(authorization="Bearer all"), "10.0.0.1").client == "10.0.0.1"
    assert door.visitor(request(x_client_id="me"), "10.0.0.1").client == "me"
    open_door = Door()
    known = open_door.visitor(request(authorization="Bearer sk-1"), "::1").client
    assert known == open_door.visitor(request(x_api_key="sk-1"), "::2").client
    assert known != open_door.visitor(request(x_api_key="sk-2"), "::1").client
    assert "sk-1" not in known
    assert open_door.visitor(request(), "::1").client == "::1"
