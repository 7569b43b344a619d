"""From bytes to a profile or to problems: whole messages, places, and hostile input."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.parse import LoadedProfile, Parsed, parse_profile, render_problem
from orchestrator.core.problem import Place, Problem
from orchestrator.core.profile import LlamaServerConfig
from orchestrator.core.suggestion import MAX_ISSUES
from tests.growth import assert_grows_with_its_length

DATA = Path(__file__).parent.parent / "data" / "profiles"
GOOD = sorted((DATA / "good").glob("*.yaml"))
BAD = sorted((DATA / "bad").glob("*.yaml"))


def parse(text: str, **env: str) -> Parsed:
    return parse_profile(text.encode(), file="x.yaml", env=env)


def loaded(text: str, **env: str) -> LoadedProfile:
    parsed = parse(text, **env)
    assert parsed.problems == ()
    assert parsed.profile is not None
    return parsed.profile


def llama(of: LoadedProfile, name: str) -> LlamaServerConfig:
    config = of.config.instances[name]
    assert isinstance(config, LlamaServerConfig)
    return config


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.stem)
def test_good_profiles(path: Path) -> None:
    parsed = parse_profile(path.read_bytes(), file=path.name, env={})
    assert [render_problem(problem) for problem in parsed.problems] == []
    assert parsed.profile is not None


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_bad_profiles(path: Path) -> None:
    parsed = parse_profile(path.read_bytes(), file=path.name, env={})
    assert parsed.profile is None
    rendered = "\n".join(map(render_problem, parsed.problems)) + "\n"
    assert rendered == path.with_suffix(".txt").read_text(encoding="utf-8")


def test_what_a_loaded_profile_knows() -> None:
    data = (DATA / "good" / "references.yaml").read_bytes()
    parsed = parse_profile(data, file="/etc/p/references.yaml", env={"MODELS": "/srv"})
    found = parsed.profile
    assert found is not None
    assert (found.name, found.folder) == ("references", "/etc/p")
    assert found.revision == "sha256:" + hashlib.sha256(data).hexdigest()
    assert found.env_names == {"MODELS", "TIMES", "GRACE"}
    tiny = llama(found, "tiny")
    assert (tiny.model, tiny.port) == ("/srv/tiny.gguf", 8081)
    assert tiny.description == "costs ${5}, listens on 8081"
    assert tiny.stop.grace == 1.5


@pytest.mark.parametrize(
    ("file", "name", "folder"),
    [("x.yaml", "x", "."), ("/x.yml", "x", "/"), ("a/b.c.yaml", "b.c", "a"), ("p", "p", ".")],
)
def test_the_name_comes_from_the_file(file: str, name: str, folder: str) -> None:
    found = parse_profile(b"instances: {}", file=file, env={}).profile
    assert found is not None
    assert (found.name, found.folder) == (name, folder)


def test_a_given_name_wins() -> None:
    assert loaded("name: y\ninstances: {}\n").name == "y"


def test_merges_and_numbers_that_are_text() -> None:
    data = (DATA / "good" / "anchors.yaml").read_bytes()
    found = parse_profile(data, file="x", env={}).profile
    assert found is not None
    one, two, three = (llama(found, name) for name in ("one", "two", "three"))
    assert one.env == {"GPU": "0"}
    assert one.flags["no-warmup"] is None
    assert (two.port, two.env) == (8081, {"GPU": "0", "OTHER": "1.10"})
    assert (three.port, three.args) == (8082, ["--threads", "010"])


def test_what_a_reference_brings_into_the_environment_is_text() -> None:
    text = 'instances: {a: {model: m, env: {D: "${env:D}"}, args: ["${env:D}", "${env:N}"]}}'
    found = llama(loaded(text, D="true", N="1.10"), "a")
    assert found.env == {"D": "true"}
    assert found.args == ["true", "1.10"]


def test_places() -> None:
    found = loaded("instances:\n  a:\n    model: m\n    flags: {x: 1}\n")
    at = found.place
    assert at(("instances", "a", "flags", "x"), key=True) == Place(
        "x.yaml", 4, 13, "    flags: {x: 1}"
    )
    assert at(("instances", "a", "flags", "x"), key=False).column == 16
    assert (at(("instances", "a", "port"), key=False).line, at((), key=True).line) == (2, 1)
    assert at(("defaults", "llama-server", "flags"), key=True).line == 1


def test_problems_as_json() -> None:
    (problem,) = parse("instances:\n  coder:\n    model: m\n    prot: 8081\n").problems
    assert problem.as_json() == {
        "file": "x.yaml",
        "line": 4,
        "column": 5,
        "path": "instances.coder.prot",
        "message": "unknown key 'prot' in instance 'coder'",
        "hint": "did you mean 'port'?",
        "source": "    prot: 8081",
    }


def test_a_slip_in_one_instance_hides_nothing_between_the_others() -> None:
    text = """\
vars: {v: "${w}"}
instances:
  a: {model: m, prot: 1}
  b: {model: m, port: 80, needs: [z]}
  c: {model: m, port: 80, stop: {grace: soon}, port: 81}
  d: {model: m, port: 80, host: "${w}", needs: [d, "${w}"]}
"""
    assert [problem.message for problem in parse(text).problems] == [
        "unknown variable 'w'",
        "unknown key 'prot' in instance 'a'",
        "instance 'b' needs unknown instance 'z'",
        "port 80 of instance 'c' is also that of 'b'",
        "stop.grace of instance 'c': expected a duration such as 10s, got 'soon'",
        "duplicate key 'port'",
        "unknown variable 'w'",
        "instance 'd' needs itself",
        "unknown variable 'w'",
    ]


def test_too_many_problems_are_cut_short() -> None:
    text = "instances:\n" + "".join(f"  I{n}: {{model: m}}\n" for n in range(MAX_ISSUES + 5))
    problems = parse(text).problems
    assert len(problems) == MAX_ISSUES + 1
    assert problems[-1].message == "and more problems from here on"
    assert problems[-1].place.line == MAX_ISSUES + 2


@pytest.mark.parametrize(
    ("source", "column", "shown", "caret"),
    [
        ("a: b", 4, "a: b", 3),
        ("\ta: b", 2, "    a: b", 4),
        ("模型: b", 5, "模型: b", 6),
        ("e\u0301: b", 5, "e\u0301: b", 3),
        ("a: \x1b[31m", 6, "a: ?[31m", 5),
        ("x" * 300, 1, "x" * 100 + "...", 0),
        ("x" * 300, 200, "..." + "x" * 97 + "...", 53),
        ("x" * 300, 300, "..." + "x" * 51, 53),
        ("a: b", 5, "a: b", 4),
    ],
)
def test_source_line_and_caret(source: str, column: int, shown: str, caret: int) -> None:
    problem = Problem("wrong", Place("f", 1, column, source), hint="do")
    assert render_problem(problem) == f"f:1:{column}: wrong (do)\n  {shown}\n  {' ' * caret}^"


def test_without_a_source_line_there_is_no_caret() -> None:
    assert render_problem(Problem("wrong", Place("f", 9, 1))) == "f:9:1: wrong"
    assert render_problem(Problem("wrong", Place("f", 9, 50, "short"))) == "f:9:50: wrong"


VALID: dict[str, Any] = {
    "name": "x",
    "vars": {"v": 1},
    "catalog": {"dirs": ["m"]},
    "defaults": {"llama-server": {"host": "127.0.0.1", "stop": {"grace": "1s"}}},
    "instances": {
        "a": {
            "model": "m",
            "port": 8081,
            "flags": {"x": 1},
            "env": {"E": "1"},
            "liveness": {"timeout": "1s", "failures": 2},
            "restart": {"policy": "never", "limit": "1 in 1s"},
        },
        "b": {"model": "m", "needs": ["a"]},
    },
}
FREE = {("vars",), ("instances",), ("instances", "a", "flags"), ("instances", "a", "env")}


def _mappings(value: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if not isinstance(value, dict):
        return []
    below = [at for key, inner in value.items() for at in _mappings(inner, (*path, key))]
    return below if path in FREE else [path, *below]


def _written(value: Any, indent: int, flow: bool) -> str:
    if isinstance(value, dict):
        if flow:
            return "{" + ", ".join(f"{k}: {_written(v, 0, True)}" for k, v in value.items()) + "}"
        pad = "\n" + " " * indent
        return "".join(f"{pad}{k}: {_written(v, indent + 2, indent > 4)}" for k, v in value.items())
    if isinstance(value, list):
        return "[" + ", ".join(value) + "]"
    return str(value)


@given(st.sampled_from(_mappings(VALID)), st.integers(0, 9), st.booleans())
def test_the_line_of_a_problem_holds_the_key_that_it_names(
    path: tuple[str, ...], position: int, flow: bool
) -> None:
    def planted(value: Any, at: tuple[str, ...]) -> Any:
        if at == path:
            items = list(value.items())
            items.insert(min(position, len(items)), ("zzunknown", 1))
            return dict(items)
        if not isinstance(value, dict):
            return value
        return {key: planted(inner, (*at, key)) for key, inner in value.items()}

    text = _written(planted(VALID, ()), 0, flow)
    (problem,) = parse(text).problems
    place = problem.place
    assert "zzunknown" in problem.message
    assert place.source[place.column - 1 :].startswith("zzunknown")
    assert problem.path == (*path, "zzunknown")


def judged(data: bytes) -> Parsed:
    """Parse `data` and hold what must be true whatever it is."""
    started = time.process_time()
    parsed = parse_profile(data, file="x", env={"HOME": "/"})
    assert time.process_time() - started < 20
    assert (parsed.profile is None) == bool(parsed.problems)
    lines = data.count(b"\n") + data.count(b"\r") + 1
    for problem in parsed.problems:
        assert 1 <= problem.place.line <= lines
        assert problem.place.column >= 1
        assert problem.message
        assert render_problem(problem).startswith(f"x:{problem.place.line}:")
    return parsed


@given(st.binary(max_size=300))
def test_random_bytes_never_raise(data: bytes) -> None:
    judged(data)


@given(st.text(st.sampled_from(list("ab:-[]{}&*!|>'\"%@#?,<~0 \n\t$é")), max_size=120))
def test_random_yaml_never_raises(text: str) -> None:
    judged(text.encode())
    judged(b"instances:\n  a: " + text.encode())


@given(st.sampled_from(GOOD), st.integers(0, 400), st.binary(max_size=3), st.integers(0, 3))
def test_damaged_profiles_never_raise(path: Path, at: int, put: bytes, drop: int) -> None:
    data = path.read_bytes()
    at %= len(data)
    judged(data[:at] + put + data[at + drop :])
    judged(data[:at])


KEYS = (
    *("name", "vars", "catalog", "dirs", "defaults", "llama-server", "instances", "a", "model"),
    *("port", "env", "flags", "args", "needs", "restart", "limit", "engine", "readiness", "v"),
)


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.sampled_from(["a", "${v}", ""]),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(KEYS),
                inner,
                max_size=4,
            )
        ),
        max_leaves=15,
    )
)
def test_any_tree_is_a_profile_or_has_problems(value: Any) -> None:
    judged(("instances: {a: " + _tree(value) + "}").encode())
    judged(_tree(value).encode())


def _tree(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_tree(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_tree, value)) + "]"
    if isinstance(value, str):
        return f'"{value}"'
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return repr(value).replace("inf", ".inf").replace("nan", ".nan")


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (lambda n: "".join(f"k{at}: 1\n" for at in range(n)), 40_000),
        (lambda n: "instances:\n" + many(n, "i#: {modle: m}"), 9_000),
        (lambda n: "instances:\n" + many(n, "i#: {model: m, needs: [x#]}"), 3_000),
        (lambda n: "instances: {a: {" + "x" * n + ": 1}}", 500_000),
        (lambda n: "instances:\n" + many(n, "i#: {model: m, port: 80}"), 6_000),
        (lambda n: "vars: {v: 1}\ninstances:\n" + many(n, "a#: ${w#}"), 5_000),
    ],
    ids=["keys", "instances", "needs", "long", "ports", "references"],
)
def test_hostile_files_cost_no_more_than_their_length(
    text: Callable[[int], str], size: int
) -> None:
    def read(size: int) -> None:
        assert 1 <= len(parse(text(size)).problems) <= MAX_ISSUES + 1

    assert_grows_with_its_length(read, size)


def many(count: int, line: str) -> str:
    """`count` lines of a mapping, each with its number for every `#`."""
    return "".join(f"  {line.replace('#', str(at))}\n" for at in range(count))
