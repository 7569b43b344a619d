"""The token of the control API, as it is kept in a file."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.errors import InputError
from orchestrator.runtime.token import kept_token
from tests.served_api import Api, run


def test_it_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "token"
    token = kept_token(str(path))
    assert kept_token(str(path)) == token
    assert len(token) >= 43
    assert path.stat().st_mode & 0o777 == 0o600


def _open_to_all(path: Path) -> None:
    path.write_text("a-token-of-a-good-length\n")
    path.chmod(0o644)


def _full_of(data: bytes) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        path.touch(0o600)
        path.write_bytes(data)

    return make


def _a_link(path: Path) -> None:
    kept_token(f"{path}-elsewhere")
    path.symlink_to(f"{path}-elsewhere")


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda path: path.mkdir(0o700), "it is a folder"),
        (lambda path: os.mkfifo(path, 0o600), "is no token"),
        (_a_link, "it is a link"),
        (_open_to_all, "is open"),
        (_full_of(b""), "is no token"),
        (_full_of(b"a" * 9000), "is no token"),
        (_full_of(b"two words"), "is no token"),
        (_full_of(b"\xff\xfe" * 20), "is no token"),
    ],
)
def test_what_is_no_token_is_refused_before_anybody_may_come(
    tmp_path: Path, make: Callable[[Path], None], why: str
) -> None:
    path = tmp_path / "token"
    make(path)
    with pytest.raises(InputError, match=why) as refused:
        kept_token(str(path))
    assert "remove it" in refused.value.hint

    async def story(served: Api) -> None:
        answer = await served.ask("POST", "/v1/dashboard")
        assert (answer.status, answer.error["code"]) == (400, "bad-input")
        assert why in answer.error["message"]
        assert served.doors is not None
        assert served.doors.url is None

    run(tmp_path, story, token_of=lambda: kept_token(str(path)))
