"""The manners of the whole command line: help, hints, colour, JSON, and never a traceback."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from orchestrator.cli.main import main
from tests.world import World

ESCAPE = "\x1b"


def commands(
    group: click.Group = main, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command and subcommand, with the words that name it."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None, name
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


ALL = dict(commands())


def shown(value: object) -> str:
    """The words of a command in a test's name; its other parameters are left out."""
    return " ".join(map(str, value)) if isinstance(value, list) else ""


@pytest.fixture
def machine(tmp_path: Path, model: Path) -> Iterator[World]:
    """A machine on which nothing was ever applied; only the embedded engine is there."""
    made = World(tmp_path, model, {**os.environ, "PATH": "/usr/bin:/bin"})
    yield made
    made.end()


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_every_command_has_help_with_an_example(path: tuple[str, ...]) -> None:
    shown = CliRunner().invoke(main, [*path, "--help"], prog_name="orchestrate")

    assert shown.exit_code == 0
    assert f"Usage: orchestrate {' '.join(path)}" in shown.output
    assert ALL[path].help
    epilog = ALL[path].epilog or ""
    assert epilog.startswith(("Example: ", "Examples: "))
    assert "orchestrate " in epilog


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_every_option_says_what_it_does(path: tuple[str, ...]) -> None:
    for parameter in ALL[path].params:
        if isinstance(parameter, click.Option):
            told = parameter.help or parameter.show_default
            assert told, f"{' '.join(path)} {parameter.opts}"


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_an_unknown_option_is_wrong_input(path: tuple[str, ...]) -> None:
    with pytest.raises(click.UsageError, match="No such option"):
        main.main([*path, "--no-such-option"], prog_name="orchestrate", standalone_mode=False)


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["stauts"], "did you mean 'status'?"),
        (["xyzzy"], "`orchestrate --help` lists them"),
        (["status", "--chek"], "`orchestrate status --help` shows how"),
        (["models", "shw"], "`orchestrate models --help` shows how"),
        (["wait", "--timeout", "soon"], "`orchestrate wait --help` shows how"),
        (["models", "show"], "`orchestrate models show --help` shows how"),
        (["apply"], "`orchestrate apply --help` shows how"),
        (["apply", "--leave-running", "x"], ""),
        (["apply", "no-such-profile"], "orchestrate profiles"),
        (["validate", "no/such/file.yaml"], ""),
        (["logs"], "orchestrate logs NAME"),
        (["init", "--model", "nothing-like-it"], "orchestrate models"),
    ],
    ids=shown,
)
def test_wrong_input_exits_2_with_a_hint(machine: World, words: list[str], hint: str) -> None:
    ran = machine.run(*words, ok=False)

    assert ran.code == 2
    assert ran.err.startswith("error: ")
    assert hint in ran.err
    assert "\nhint: " in ran.err or not hint
    assert "Traceback" not in ran.err
    assert ran.out == ""


@pytest.mark.parametrize("words", [["status"], ["logs", "x", "-f"], ["events", "-f"], ["wait"]])
def test_no_daemon_exits_3(machine: World, words: list[str]) -> None:
    ran = machine.run(*words, ok=False)

    assert ran.code == 3
    assert "Traceback" not in ran.err


@pytest.mark.parametrize("words", [["down"], ["daemon", "stop"]], ids=" ".join)
def test_ending_what_does_not_run_is_no_error(machine: World, words: list[str]) -> None:
    machine.run(*words)


JSON = [
    (["models", "--json"], 0),
    (["profiles", "--json"], 0),
    (["doctor", "--json"], 0),
    (["schema"], 0),
    (["status", "--json"], 3),
    (["daemon", "status", "--json"], 3),
    (["validate", "good.yaml", "--json"], 0),
    (["validate", "bad.yaml", "--json"], 2),
    (["plan", "good.yaml", "--json"], 0),
    (["plan", "bad.yaml", "--json"], 2),
    (["apply", "bad.yaml", "--json"], 2),
]


@pytest.mark.parametrize(("words", "code"), JSON, ids=shown)
def test_json_is_one_document_and_nothing_else(machine: World, words: list[str], code: int) -> None:
    machine.profile({"a": None}, name="good.yaml")
    machine.write("bad.yaml", "instances: {a: {modle: x}}\n")

    ran = machine.run(*words, ok=False)

    assert ran.code == code, ran.err
    assert isinstance(json.loads(ran.out), dict)
    assert "Traceback" not in ran.err


COLOURED = [["models"], ["profiles"], ["doctor"], ["status"], ["plan", "p.yaml"], ["--help"]]


@pytest.mark.parametrize("words", COLOURED, ids=" ".join)
def test_a_pipe_gets_no_escapes(machine: World, words: list[str]) -> None:
    machine.profile({"a": None})
    machine.profile({"a": None}, name="profiles/p.yaml")
    (machine.folder / "models").symlink_to(machine.model.parent)

    ran = machine.run(*words, ok=False)

    assert ran.out
    assert ESCAPE not in ran.out + ran.err


COLOURFUL = pytest.mark.parametrize("words", [["doctor"], ["profiles"]], ids=" ".join)


@COLOURFUL
def test_a_terminal_gets_colour(machine: World, words: list[str]) -> None:
    machine.profile({"a": None}, name="profiles/p.yaml")

    assert ESCAPE in machine.on_a_terminal(*words)


@COLOURFUL
def test_a_terminal_that_wants_no_colour_gets_none(machine: World, words: list[str]) -> None:
    machine.profile({"a": None}, name="profiles/p.yaml")

    assert ESCAPE not in machine.on_a_terminal(*words, NO_COLOR="1")


@pytest.mark.parametrize("words", [[], ["daemon"]], ids=str)
def test_a_group_alone_shows_its_help(machine: World, words: list[str]) -> None:
    ran = machine.run(*words, ok=False)

    assert (ran.out + ran.err).startswith("Usage: orchestrate")


def test_no_option_is_spelled_in_two_ways() -> None:
    """One thing, one spelling: `--json` is `--json` everywhere."""
    spellings: dict[str, set[str]] = {}
    for parameter in itertools.chain(*(command.params for command in ALL.values())):
        if isinstance(parameter, click.Option):
            name: Any = parameter.opts[0]
            spellings.setdefault(name, set()).add("/".join(parameter.opts))
    assert all(len(ways) == 1 for ways in spellings.values()), spellings
