"""References: what they bring in, with which type, and what is said of those that cannot."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping

import pytest

from orchestrator.core.cycles import find_cycles
from orchestrator.core.document import read_document
from orchestrator.core.interpolate import MAX_EXPANSION, Interpolated, interpolate
from orchestrator.core.nodes import MapNode, locate, plain
from orchestrator.core.problem import Problem
from orchestrator.core.reference import env_names
from orchestrator.core.source import read_source


def run(text: str, env: Mapping[str, str] | None = None) -> Interpolated:
    source = read_source(text.encode(), "x.yaml")
    assert not isinstance(source, Problem)
    root = read_document(source).root
    assert isinstance(root, MapNode)
    return interpolate(root, env or {})


def value(expression: str, *, variables: str = "{}", **env: str) -> object:
    done = run(f"vars: {variables}\nx: {expression}\n", env)
    assert done.issues == ()
    return plain(done.root.entries["x"].value)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("${n}", 8),
        ("'${n}'", 8),
        ("${f}", 1.1),
        ("${b}", True),
        ("${s}", "on"),
        ("${q}", "7"),
        ("${z}", None),
        ("a${n}b${f}", "a8b1.10"),
        ("is ${b}, ${z}.", "is true, ."),
        ("$${n}", "${n}"),
        ("$${n} ${n}", "${n} 8"),
        ("$$${n}", "$${n}"),
        ("$n {n} $", "$n {n} $"),
        ("[{a: '${n}'}, '${s}']", [{"a": 8}, "on"]),
        ("${env:PORT}", 8081),
        ("p${env:PORT}", "p8081"),
        ("${env:EMPTY}", ""),
        ("${env:EMPTY:-x}", "x"),
        ("${env:NONE:-8082}", 8082),
        ("${env:NONE:-}", ""),
        ("'${env:NONE:-a:-b c}'", "a:-b c"),
        ("${env:WORD:-true}", "off"),
        ("${env:OCTAL}", 10),
    ],
)
def test_values(expression: str, expected: object) -> None:
    variables = "{n: 8, f: 1.10, b: true, s: on, q: '7', z: }"
    found = value(expression, variables=variables, PORT="8081", EMPTY="", WORD="off", OCTAL="010")
    assert (found, type(found)) == (expected, type(expected))


def test_variables_refer_to_each_other_in_any_order() -> None:
    variables = '{c: "${b}/c", b: "${a}/b", a: "${env:HOME_OF}", n: 1, m: "${n}"}'
    assert value("${c}", variables=variables, HOME_OF="/x") == "/x/b/c"
    assert value("${m}", variables=variables, HOME_OF="/x") == 1


def test_long_chains_of_variables_need_no_stack() -> None:
    names = ", ".join(f'v{n}: "${{v{n - 1}}}"' for n in range(5000, 0, -1))
    assert value("${v5000}", variables=f"{{{names}, v0: 3}}") == 3


def test_variables_come_out_resolved() -> None:
    done = run('vars: {a: 1, b: "${a}"}\n')
    assert plain(done.root) == {"vars": {"a": 1, "b": 1}}


def test_places_stay_those_of_the_values() -> None:
    done = run("vars: {a: 1}\nx:\n  - y: ${a}\n")
    assert locate(done.root, ("x", 0, "y"), key=False) == (3, 8)


def test_the_tree_given_is_left_as_it_was() -> None:
    source = read_source(b"vars: {a: 1}\nx: ${a}\n", "x")
    assert not isinstance(source, Problem)
    root = read_document(source).root
    assert isinstance(root, MapNode)
    interpolate(root, {})
    assert plain(root.entries["x"].value) == "${a}"


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("x: ${ctxx}", "unknown variable 'ctxx'", "did you mean 'ctx'?"),
        ("x: ${zzzzz}", "unknown variable 'zzzzz'", "known: ctx"),
        ("x: ${env:NOPE}", "the environment variable NOPE is not set", "${env:NOPE:-value}"),
        ("x: ${env:BAD}", "the environment variable BAD is not valid UTF-8 text", ""),
        ("x: a ${b", "'${' is never closed", "$${ for a literal"),
        ("x: '${}'", "'${}' is not a reference", "write ${name}"),
        ("x: '${env:}'", "'${env:}' is not a reference", "write ${name}"),
        ("x: '${a b}'", "'${a b}' is not a reference", "write ${name}"),
    ],
)
def test_what_cannot_be_replaced(text: str, message: str, hint: str) -> None:
    done = run(f"vars: {{ctx: 1}}\n{text}\n", {"BAD": "\udcff"})
    (issue,) = done.issues
    assert issue.message == message
    assert hint in issue.hint
    assert issue.path == ("x",)
    assert done.broken == {("x",)}
    assert plain(done.root.entries["x"].value) == text[3:].strip("'")


def test_an_unknown_variable_without_any_says_where_to_declare_it() -> None:
    (issue,) = run("x: ${a}\n").issues
    assert issue.hint == "declare it under 'vars'"


def test_circles_are_told_once_each_and_not_again_where_they_are_used() -> None:
    done = run('vars: {a: "${b}", b: "${a}", c: "${c}", d: "${a}", e: 1}\nx: ["${a}", "${e}"]\n')
    assert [issue.message for issue in done.issues] == [
        "variables in a circle: 'a' -> 'b' -> 'a'",
        "variables in a circle: 'c' -> 'c'",
    ]
    assert ("x", 0) in done.broken
    assert plain(done.root.entries["x"].value) == ["${a}", 1]


def test_references_are_bounded() -> None:
    big = "x" * 20_000
    done = run(f'vars: {{a: {big}}}\nx: "{"${a}" * 200}"\ny: ["{"${a}" * 40}", "{"${a}" * 40}"]\n')
    assert {issue.message for issue in done.issues} == {
        f"references bring in more than {MAX_EXPANSION:,} characters in all"
    }
    doubling = ", ".join(f'v{n}: "${{v{n - 1}}}${{v{n - 1}}}"' for n in range(1, 60))
    assert run(f"vars: {{v0: xxxxxxxx, {doubling}}}\n").issues


def test_the_names_used_are_known() -> None:
    done = run("vars: {a: '${env:A:-1}'}\nx: ${env:B}\ny: $${env:C}\n", {"B": "1"})
    assert done.env_names == {"A", "B"}


def test_names_are_found_by_pattern_alone() -> None:
    text = "a: ${env:A} # ${env:B:-x}\nc: $${env:C}\nd: ${d} ${env:1} ${env:E_2}"
    assert env_names(text) == {"A", "B", "E_2"}


def test_finding_names_loads_neither_yaml_nor_pydantic() -> None:
    code = "import sys, orchestrator.core.reference; print(*sys.modules)"
    # Measured as it is: what measures coverage would load more.
    env = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env
    )
    loaded = set(done.stdout.split())
    assert not loaded & {"yaml", "pydantic", "dataclasses", "difflib"}
    code = "import sys, orchestrator.core.interpolate; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & {"yaml", "pydantic"}


def test_cycles() -> None:
    assert find_cycles({"a": ["b"], "b": ["c"], "c": []}) == []
    assert find_cycles({"a": ["x"]}) == []
    assert find_cycles({"a": ["b"], "b": ["c"], "c": ["b"]}) == [["b", "c", "b"]]
    chain = {str(n): [str(n + 1)] for n in range(20_000)} | {"20000": ["0"]}
    (circle,) = find_cycles(chain)
    assert circle[:2] == ["0", "1"]
    assert len(circle) == 20_002
