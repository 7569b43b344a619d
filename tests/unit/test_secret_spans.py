"""Secrets in text that is shown as it is written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.parse import parse_profile
from orchestrator.core.secret_spans import LONGEST, masked_lines, secret_spans


def shown(text: str) -> str:
    return "\n".join(masked_lines(text.split("\n")))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  api-key: abc", "  api-key: ***"),
        ("  api-key: abc   # mine", "  api-key: ***   # mine"),
        ("a: {env: {API_KEY: abc, B: 1}, prot: 1}", "a: {env: {API_KEY: ***, B: 1}, prot: 1}"),
        ('a: {"api-key": "a,}c", b: 1}', 'a: {"api-key": ******, b: 1}'),
        ("tokens: [abc, def]", "tokens: [abc, def]"),
        ("token: [abc, def]", "token: **********"),
        ("args: [--api-key, abc, --alias, x]", "args: [--api-key, ***, --alias, x]"),
        ("args: [--api-key=abc, --alias]", "args: [--api-key=***, --alias]"),
        ("# api-key: abc", "# api-key: ***"),
        ("- API_KEY=abc def", "- API_KEY=*******"),
        ("# the API_KEY stays", "# the API_KEY stays"),
        ("api-key: ${env:KEY}", "api-key: ${env:KEY}"),
        ("{api-key: '${env:KEY}', hft: abc}", "{api-key: '${env:KEY}', hft: ***}"),
        ("api-key: ${env:KEY:-abc}", "api-key: ***************"),
        ("api-key: ${env:KEY} abc", "api-key: **************"),
        ("api-key: |\n  abc\n\n  def\nb: 1", "api-key: |\n  ***\n\n  ***\nb: 1"),
        ("api-key:\n  - abc\nb: 1", "api-key:\n  *****\nb: 1"),
        ("- --api-key\n- abc\n- def", "- --api-key\n- ***\n- def"),
        ('[--api-key,\n  "abc"]', "[--api-key,\n  ******"),
        ("api-key: 'abc", "api-key: ****"),
        ("max-tokens: 5, ssl-key-file: a", "max-tokens: 5, ssl-key-file: a"),
    ],
)
def test_what_is_hidden(text: str, expected: str) -> None:
    assert shown(text) == expected


@given(st.text(alphabet="api-key:=\"'|>{}[],# \n\t-${env}x", max_size=60))
def test_any_text_keeps_its_shape(text: str) -> None:
    assert [len(line) for line in shown(text).split("\n")] == [len(i) for i in text.split("\n")]
    places = list(secret_spans(text.split("\n")))
    assert places == sorted(places)


def test_what_nobody_reads_is_not_looked_through() -> None:
    line = "a" * LONGEST + " api-key: abc"
    assert shown(line) == "a" * LONGEST
    assert list(secret_spans([line])) == [(0, LONGEST, len(line))]


def test_a_line_that_is_wrong_is_shown_without_its_secrets() -> None:
    text = b"instances:\n  a: {model: x, flags: {api-key: s3cret}, prot: 1}\n"
    [problem] = parse_profile(text, file="/p.yaml", env={}).problems
    assert "s3cret" not in str(problem.as_json())
    assert problem.place.source[problem.place.column - 1 :].startswith("prot: 1")
