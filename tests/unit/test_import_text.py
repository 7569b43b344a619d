"""The text of an imported profile means what its draft says, whatever that holds."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.fields import is_name
from orchestrator.core.import_draft import (
    CLOSE,
    GONE,
    OPEN,
    PORT,
    Imported,
    Names,
    Remark,
    env_reference,
    located,
    spelled,
    typed,
)
from orchestrator.core.import_text import render
from orchestrator.core.parse import parse_profile

TEXT = st.text(
    st.characters(exclude_categories=("Cs",), exclude_characters=("\0", OPEN, CLOSE, PORT))
)
FLAG = st.one_of(TEXT, st.booleans(), st.integers(-(10**9), 10**9), st.none(), st.lists(TEXT))


def profile(document: dict[str, Any], *remarks: Remark, **env: str) -> Any:
    text = render(Imported(document, remarks), ["From a test."])
    parsed = parse_profile(text.encode(), file="p.yaml", env=env)
    assert parsed.problems == (), (text, parsed.problems)
    assert parsed.profile is not None
    return parsed.profile.config.instances


@given(st.dictionaries(TEXT, FLAG), TEXT)
def test_every_value_comes_back(flags: dict[str, Any], message: str) -> None:
    at = ("instances", "a", "flags")
    remarks = [
        Remark("lost", message, at=at),
        Remark("changed", message, key=message, at=(*at, "x")),
    ]
    made = profile({"instances": {"a": {"model": "m", "flags": flags}}}, *remarks)

    assert made["a"].flags == flags


@pytest.mark.parametrize("text", ["${x}", "$${x}", "$$${", "a$", "${", "${env:HOME}", "}{$"])
def test_what_looks_like_a_reference_is_none(text: str) -> None:
    assert (
        profile({"instances": {"a": {"model": "m", "flags": {"f": text}}}})["a"].flags["f"] == text
    )


def test_a_reference_is_one() -> None:
    draft = {"f": f"x-{env_reference('A')}-${{A}}"}

    made = profile({"instances": {"a": {"model": "m", "flags": draft}}}, A="y")

    assert made["a"].flags["f"] == "x-y-${A}"


@pytest.mark.parametrize(
    "value", ["on", "no", "null", "~", "1_0", "12:30", "0o7", "2001-01-01", "- a", "a: b", "#", "'"]
)
def test_words_with_a_meaning_stay_words(value: str) -> None:
    assert (
        profile({"instances": {"a": {"model": "m", "flags": {"f": value}}}})["a"].flags["f"]
        == value
    )


def test_what_was_left_out_keeps_its_place() -> None:
    document = {"instances": {"a": {"model": "m"}, "b": GONE, "c": {"model": "m"}}}
    said = [Remark("lost", "said of b\nx: y", at=("instances", "b"))]

    text = render(Imported(document, tuple(said)), ["head"])

    assert text.splitlines() == [
        "# head",
        "",
        "instances:",
        "  a:",
        "    model: m",
        "  # not carried over: said of b?x: y",
        "  c:",
        "    model: m",
    ]
    assert list(profile(document)) == ["a", "c"]
    assert spelled(document) == {"instances": {"a": {"model": "m"}, "c": {"model": "m"}}}


def test_nothing_at_all_is_a_profile_too() -> None:
    assert profile({"instances": {"b": GONE}}) == {}
    assert profile({"instances": {}}) == {}


def test_the_same_of_several_keys_is_said_once() -> None:
    said = [Remark("lost", "gone", key=key, line=1) for key in ("a", "b")]

    assert "# not carried over: a, b: gone\n" in render(
        Imported({"instances": {}}, tuple(said)), []
    )


@given(st.lists(st.text(), max_size=5))
def test_every_name_becomes_one_that_may_be(names: list[str]) -> None:
    given = Names()
    taken = {given.name(name) for name in names}

    assert len(taken) == len(names)
    assert all(map(is_name, taken))


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("1", 1),
        ("-1", -1),
        ("01", "01"),
        ("+1", "+1"),
        ("1.0", 1.0),
        ("1.10", "1.10"),
        ("1e5", "1e5"),
        ("inf", "inf"),
        ("nan", "nan"),
        ("1_0", "1_0"),
        ("٣", "٣"),
        ("", ""),
        ("9" * 5000, "9" * 5000),
    ],
)
def test_only_what_is_the_very_same_word_is_a_number(word: str, value: object) -> None:
    assert (typed(word), type(typed(word))) == (value, type(value))


def test_paths() -> None:
    assert located("a/../b", "/cwd") == "/cwd/b"
    assert located("/a", "/cwd") == "/a"
    assert spelled(located("~/a", "/cwd")) == "${env:HOME}/a"
    assert spelled(located(f"{env_reference('D')}/a", "/cwd")) == "${env:D}/a"
