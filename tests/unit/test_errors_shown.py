"""An error on the terminal: what it quotes does not steer it."""

from __future__ import annotations

import pytest

from orchestrator.cli.main import show_error
from orchestrator.errors import InputError


def test_what_an_error_quotes_stays_text(capsys: pytest.CaptureFixture[str]) -> None:
    evil = "/m/\x1b]0;title\x07\x1b[2J\u202e\rx.yaml"
    show_error(InputError(f"{evil} is invalid\nbelow", hint=f"remove {evil}"))
    said = capsys.readouterr().err
    assert said.splitlines() == [
        "error: /m/�]0;title��[2J��x.yaml is invalid",
        "below",
        "hint: remove /m/�]0;title��[2J��x.yaml",
    ]
