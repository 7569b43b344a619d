"""Text in cells: what is cut, padded and folded fits, whatever it is written in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.cli.cells import cut, folded, pad, wide, wrapped
from orchestrator.cli.render import inert

TEXT = st.text(max_size=60).map(inert)


@pytest.mark.parametrize(
    ("text", "cells"),
    [
        ("plain", 5),
        ("日本語", 6),
        ("e\N{COMBINING ACUTE ACCENT}", 1),
        ("한글", 4),
        ("\u1112\u1161\u11ab", 2),
        ("ﾊﾝｶｸ", 4),
        ("🦙", 2),
        ("\x1b[1mbold\x1b[0m", 4),
        ("", 0),
    ],
)
def test_characters_take_none_one_or_two(text: str, cells: int) -> None:
    assert wide(text) == cells


def test_what_is_cut_is_marked_and_keeps_its_colours() -> None:
    assert cut("plain", 5) == "plain"
    assert cut("plain", 4) == "pla…"
    assert cut("日本語", 5) == "日本…"
    assert cut("日本語", 4) == "日…"
    assert cut("\x1b[32mgreen\x1b[0m and more", 7) == "\x1b[32mgreen\x1b[0m …"
    assert cut("\x1b[32mgreen\x1b[0m", 0) == "\x1b[32m\x1b[0m"


def test_lines_are_broken_between_words() -> None:
    assert wrapped("one two three", 8) == ["one two", "three"]
    assert wrapped("a-word-that-is-longer than that", 10) == [
        "a-word-tha",
        "t-is-longe",
        "r than",
        "that",
    ]
    assert wrapped("", 8) == [""]


@given(TEXT, st.integers(2, 30))
def test_whatever_it_is_it_fits(text: str, columns: int) -> None:
    assert wide(cut(text, columns)) <= columns
    assert all(wide(piece) <= columns for piece in folded(text, columns))
    assert all(wide(line) <= columns for line in wrapped(text, columns))
    assert "".join(folded(text, columns)) == text
    assert wide(pad(text, columns)) >= columns


def test_what_would_change_the_character_before_is_left_out() -> None:
    assert inert("❤\ufe0f \u202eevil\u200d") == "❤ �evil�"
