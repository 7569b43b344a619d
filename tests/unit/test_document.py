"""The composer: values and positions of YAML 1.2 core, and refusal of what is hostile."""

from __future__ import annotations

import math
import time
import tracemalloc
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core import document
from orchestrator.core.document import MAX_DEPTH, Document, read_document
from orchestrator.core.nodes import ListNode, MapNode, ScalarNode, locate, plain, read_scalar
from orchestrator.core.problem import Problem
from orchestrator.core.source import MAX_BYTES, read_source


def read(text: str) -> Document:
    source = read_source(text.encode(), "x.yaml")
    assert not isinstance(source, Problem), source
    return read_document(source)


def value_of(text: str) -> Any:
    read_in = read(text)
    assert read_in.problems == ()
    assert read_in.root is not None
    return plain(read_in.root)


def complaints(text: str) -> list[str]:
    return [f"{p.place.line}:{p.place.column} {p.message}" for p in read(text).problems]


@pytest.fixture(params=["libyaml", "python"])
def _either_parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "python":
        monkeypatch.setattr(document, "_LOADER", yaml.SafeLoader)


either_parser = pytest.mark.usefixtures("_either_parser")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("~", None),
        ("null", None),
        ("NULL", None),
        ("nUll", "nUll"),
        ("true", True),
        ("FALSE", False),
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("off", "off"),
        ("y", "y"),
        ("010", 10),
        ("-3", -3),
        ("+3", 3),
        ("0o17", 15),
        ("0x1F", 31),
        ("-0x1F", "-0x1F"),
        ("0b11", "0b11"),
        ("1_000", "1_000"),
        ("12:30", "12:30"),
        ("1.10", 1.1),
        (".5", 0.5),
        ("5.", 5.0),
        ("1e3", 1000.0),
        ("-1E-2", -0.01),
        (".", "."),
        ("-", "-"),
        ("1.2.3", "1.2.3"),
        ("2001-12-14", "2001-12-14"),
        ("=", "="),
        (".inf", math.inf),
        ("-.INF", -math.inf),
        ("٣", "٣"),
    ],
)
def test_scalars_are_yaml_1_2_core(text: str, value: object) -> None:
    found = read_scalar(text)
    assert (found, type(found)) == (value, type(value))


def test_not_a_number() -> None:
    assert math.isnan(float(str(read_scalar(".NaN"))))


# NUL and halves of surrogate pairs are refused; a test of their own says so.
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=9)


@either_parser
@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False)
        | TEXT
        | st.sampled_from(["on", "010", "1e3", "~", "0x1", "12:30", "<<", "a: b", "#", "- x"]),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
        max_leaves=12,
    ),
    st.booleans(),
)
def test_what_is_dumped_as_json_is_read_back(value: Any, flow: bool) -> None:
    """JSON is YAML 1.2, so any value written with its escapes comes back, in flow or in blocks."""
    text = _json(value) if flow else _block(value, 0)
    read_in = read(text)
    assert read_in.problems == ()
    assert read_in.root is not None
    assert plain(read_in.root) == value


def _json(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(_json, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_quoted(k)}: {_json(v)}" for k, v in value.items()) + "}"
    if isinstance(value, str):
        return _quoted(value)
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return repr(value).replace("inf", ".inf")


def _quoted(text: str) -> str:
    return '"' + "".join(_escaped(character) for character in text) + '"'


def _escaped(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    return character if character.isprintable() else f"\\U{ord(character):08x}"


def _block(value: Any, indent: int) -> str:
    pad = "\n" + " " * indent
    if isinstance(value, list) and value:
        return "".join(f"{pad}- {_block(item, indent + 2)}" for item in value)
    if isinstance(value, dict) and value:
        return "".join(f"{pad}{_quoted(k)}: {_block(v, indent + 2)}" for k, v in value.items())
    return _json(value)


@either_parser
def test_every_node_knows_its_place() -> None:
    root = read(
        'é: 模型\n"😀 key":   {a: "x", ключ: [1,\n    two]}\nb:\n  - c: 1\r\n    d: |\n      t\n'
    ).root
    assert root is not None

    def at(*path: str | int, key: bool = True) -> tuple[int, int]:
        return locate(root, path, key=key)

    assert at() == (1, 1)
    assert at("é") == (1, 1)
    assert at("é", key=False) == (1, 4)
    assert at("😀 key") == (2, 1)
    assert at("😀 key", key=False) == (2, 12)
    assert at("😀 key", "a", key=False) == (2, 16)
    assert at("😀 key", "ключ") == (2, 21)
    assert at("😀 key", "ключ", 1) == (3, 5)
    assert at("b", 0, "d") == (6, 5)
    assert at("b", 0, "d", key=False) == (6, 8)


def test_what_is_not_there_is_shown_at_its_nearest_ancestor() -> None:
    root = read("a:\n  b: [1]\n").root
    assert root is not None
    assert locate(root, ("a", "b", 7), key=False) == (2, 3)
    assert locate(root, ("a", "x", "y"), key=False) == (1, 1)
    assert locate(root, ("z",), key=True) == (1, 1)


@either_parser
def test_anchors_aliases_and_merges() -> None:
    assert value_of("a: &x {k: 1}\nb: *x\n") == {"a": {"k": 1}, "b": {"k": 1}}
    assert value_of("a: &x {k: 1, l: 2}\nb: {<<: *x, k: 3}\n")["b"] == {"k": 3, "l": 2}
    assert value_of("- &x {k: 1}\n- &y {k: 2, l: 3}\n- <<: [*x, *y]\n")[2] == {"k": 1, "l": 3}
    assert value_of('{"<<": 1}') == {"<<": 1}
    assert value_of("&x k: *x") == {"k": "k"}


def test_an_aliased_value_stands_where_it_is_used() -> None:
    root = read("a: &x 1\nb: *x\n").root
    assert isinstance(root, MapNode)
    node = root.entries["b"].value
    assert isinstance(node, ScalarNode)
    assert (node.value, node.line, node.column) == (1, 2, 4)


@either_parser
def test_core_tags_are_understood_and_others_refused() -> None:
    assert value_of("[!!str 7, !!int '8', ! 9, !!float 1, !!null '']") == ["7", 8, "9", 1, None]
    assert value_of("!!map {a: !!seq [b]}") == {"a": ["b"]}
    assert complaints("a: !x 1\nb: !!python/name:os.system x\n") == [
        "1:4 the tag '!x' is not allowed",
        "2:4 the tag '!!python/name:os.system' is not allowed",
    ]
    assert complaints("a: !!int x") == ["1:4 expected a value of type !!int, got 'x'"]
    assert complaints("a: !!timestamp 1") == ["1:4 the tag '!!timestamp' is not allowed"]


@either_parser
def test_errors_that_do_not_stop_the_reading_come_together() -> None:
    text = "a: 1\na: 2\n3: x\nb: !x y\nc: *d\ne: {<<: 5}\nf: 1e999\n---\ng: 1\n"
    found = complaints(text)
    assert [line.split()[0] for line in found] == [
        "2:1", "3:1", "4:4", "5:4", "6:9", "7:4", "8:1",
    ]  # fmt: skip


def test_what_came_before_a_syntax_error_is_told_with_it() -> None:
    assert complaints("a: 1\na: 2\nb: [\n") == [
        "2:1 duplicate key 'a'",
        "3:5 expected a value here",
    ]
    assert read("a: 1\na: 2\nb: [\n").root is None


@either_parser
@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a:\n\tb: 1\n", "2:1 a tab cannot indent"),
        ("a: 1\n---\nb: 2\n", "2:1 a second document starts here"),
        ("a: 'x\n", "1:4 this quote is never closed"),
        ("a: b: c\n", "1:5 a ':' is not expected here"),
        ("a:\n  b: 1\n c: 2\n", "3:2 expected a key here"),
        ("- a\nb: 1\n", "2:1 expected '-' here"),
        ("a: [1, 2}\n", "1:9 expected ',' or ']' here"),
        ("a: @x\n", "1:4 text cannot start with '@' here"),
        ("a: !y!x 1\n", "1:4 tags are not allowed"),
        ("a: !<x\n", "1:7 tags are not allowed"),
        ("a: |x\n", "1:5 unexpected text after '|' or '>'"),
        ("%\na: 1\n", "1:2 text cannot start with '%' here"),
        ("a: 'x\n---\n", "1:4 this quote is never closed"),
        ("a: [b, {c: d\n", "1:8 this '{' is never closed"),
        ("%YAML 3.0\n---\na: 1\n", "1:1 only YAML 1.x is understood"),
        ("- &a [*a]\n", "1:7 the alias '*a' stands inside what it refers to"),
        pytest.param(f"a: [{'b, ' * 2000}c}}", "1:6006 expected ',' or ']' here", id="long line"),
        ("? [a]\n: b\n", "1:3 expected text as a key, got a list"),
    ],
)
def test_syntax_errors_are_in_our_words(text: str, complaint: str) -> None:
    assert complaints(text) == [complaint]


def test_an_escape_beyond_unicode_is_no_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document, "_LOADER", yaml.SafeLoader)
    assert [p.message for p in read('a: "\\U00110000"').problems] == [
        "an escape that is no character"
    ]
    assert complaints('a: "\\ud800"') == ["1:4 text must not hold NUL or half of a surrogate pair"]


@either_parser
def test_escapes_of_nul_are_refused() -> None:
    assert complaints('a: "\\0"') == ["1:4 text must not hold NUL or half of a surrogate pair"]


def quickly(text: str, *, within: float) -> Document:
    """Read `text` and hold the time and the memory that it took to a bound.

    The bounds are wide, for tracing memory slows everything down several times.
    """
    tracemalloc.start()
    started = time.process_time()
    found = read(text)
    taken = time.process_time() - started
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert taken < within
    assert peak < 8 * len(text) + 4_000_000
    return found


def test_an_alias_bomb_is_refused_before_it_expands() -> None:
    lines = ["a: &a [x, x, x, x, x, x, x, x, x, x]"]
    lines += [
        f"{chr(i + 1)}: &{chr(i + 1)} [{', '.join(['*' + chr(i)] * 10)}]" for i in range(97, 115)
    ]
    found = quickly("\n".join(lines), within=0.2)
    assert [p.message for p in found.problems] == [
        "the document is too large: its aliases expand to more than 50,000 values"
    ]


def test_a_merge_bomb_is_refused_before_it_expands() -> None:
    base = "a: &a {" + ", ".join(f"k{i}: 1" for i in range(1000)) + "}\n"
    found = quickly(base + "".join(f"m{i}: {{<<: *a}}\n" for i in range(1000)), within=0.5)
    assert "aliases expand" in found.problems[-1].message


@either_parser
@pytest.mark.parametrize("opening", ["[", "{", "- ", "? ", "{a: ", "[{a: ", "&a "])
def test_deep_nesting_is_refused(opening: str) -> None:
    within = 5.0 if document._LOADER is yaml.SafeLoader else 0.5
    found = quickly(opening * 100_000, within=within)
    assert found.root is None
    assert len(found.problems) == 1


def test_nesting_up_to_the_bound_is_read() -> None:
    assert read("[" * MAX_DEPTH + "]" * MAX_DEPTH).problems == ()
    assert complaints("[" * (MAX_DEPTH + 1)) == [
        f"1:{MAX_DEPTH + 1} nested more than 32 levels deep"
    ]


def test_a_wide_document_is_refused() -> None:
    assert "has more than 50,000 values" in read("- a\n" * 60_000).problems[0].message


@pytest.mark.parametrize(
    ("data", "place", "message"),
    [
        (b"a: 1\nb: \xe9\n", (2, 4), "the byte 0xe9 is not valid UTF-8"),
        ("é: ".encode() + b"\xff", (1, 4), "the byte 0xff is not valid UTF-8"),
        (b"\xef\xbb\xbfa: 1", (1, 1), "the file is UTF-8 with a byte order mark"),
        ("a".encode("utf-16"), (1, 1), "the file is UTF-16"),
        ("a".encode("utf-32"), (1, 1), "the file is UTF-32"),
        (b"a: \0", (1, 4), "a NUL byte is not allowed"),
        (b"a:\r\n\x1b", (2, 1), "the character U+001B is not allowed"),
        ("a: x\u2028".encode(), (1, 5), "the character U+2028 is not allowed"),
        ("a: x\ufeff".encode(), (1, 5), "the character U+FEFF is not allowed"),
        (b" " * (MAX_BYTES + 1), (1, 1), "the file is too large: 1,048,577 bytes"),
    ],
)
def test_what_is_no_text_is_refused(data: bytes, place: tuple[int, int], message: str) -> None:
    found = read_source(data, "x.yaml")
    assert isinstance(found, Problem)
    assert (found.place.line, found.place.column) == place
    assert found.message.startswith(message)


def test_lists_hold_their_items_in_order() -> None:
    root = read("[a, b]").root
    assert isinstance(root, ListNode)
    assert [plain(item) for item in root.items] == ["a", "b"]
