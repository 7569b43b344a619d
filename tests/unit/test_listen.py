"""Where the control API is to be served: what people write, and what it means."""

from __future__ import annotations

import pytest

from orchestrator.errors import InputError
from orchestrator.settings import Settings, captured, parse_listen

HOME = {"HOME": "/home/x", "ORCHESTRATE_STATE_DIR": "/s", "ORCHESTRATE_CACHE_DIR": "/c"}


@pytest.mark.parametrize(
    ("said", "host", "port"),
    [
        ("7717", "127.0.0.1", 7717),
        (":7717", "127.0.0.1", 7717),
        (" 7717 ", "127.0.0.1", 7717),
        ("0", "127.0.0.1", 0),
        ("0.0.0.0:7717", "0.0.0.0", 7717),
        ("localhost:80", "localhost", 80),
        ("[::1]:7717", "::1", 7717),
        ("[::]:7717", "::", 7717),
    ],
)
def test_an_address(said: str, host: str, port: int) -> None:
    listen = Settings.from_env({**HOME, "ORCHESTRATE_LISTEN": said}).listen
    assert listen is not None
    assert (listen.host, listen.port) == (host, port)
    assert parse_listen(str(listen), "again") == listen


@pytest.mark.parametrize(
    "said",
    [
        "x",
        "127.0.0.1",
        "127.0.0.1:",
        ":",
        "::1:80",
        "1:2:3",
        "h:65536",
        "h:-1",
        "h:\u00b2",
        "h:1e3",
    ],
)
def test_what_is_none(said: str) -> None:
    with pytest.raises(InputError, match=r"^ORCHESTRATE_LISTEN: .*") as raised:
        Settings.from_env({**HOME, "ORCHESTRATE_LISTEN": said})
    assert raised.value.hint


def test_nothing_said_is_nowhere() -> None:
    for env in ({}, {"ORCHESTRATE_LISTEN": "", "ORCHESTRATE_TOKEN": "", "ORCHESTRATE_HOSTS": ""}):
        settings = Settings.from_env({**HOME, **env})
        assert (settings.listen, settings.token, settings.hosts) == (None, "", ())


def test_a_token_is_one_word_and_never_shown() -> None:
    settings = Settings.from_env({**HOME, "ORCHESTRATE_TOKEN": "sesame"})
    assert settings.token == "sesame"
    assert "sesame" not in repr(settings)
    for wrong in ("two words", "new\nline", "\u00e9"):
        with pytest.raises(InputError, match="is no token") as raised:
            Settings.from_env({**HOME, "ORCHESTRATE_TOKEN": wrong})
        assert wrong not in str(raised.value)


def test_names_are_separated_by_commas_or_spaces() -> None:
    env = {**HOME, "ORCHESTRATE_HOSTS": "a.example, b.example  c"}
    assert Settings.from_env(env).hosts == ("a.example", "b.example", "c")


def test_none_of_it_travels_with_an_apply() -> None:
    names = ("ORCHESTRATE_TOKEN", "ORCHESTRATE_LISTEN", "ORCHESTRATE_HOSTS")
    assert captured(dict.fromkeys(names, "x"), ()) == {}
