"""Flags as others write them, brought to what a profile says: by the table of a real help."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.core.import_command import Command, read_command, words_of
from orchestrator.core.import_draft import Notes, spelled
from orchestrator.core.import_flags import Secrets, Settings, Table
from orchestrator.engines.help_parser import parse_help

HELP = Path(__file__).parent.parent / "data" / "llama-server-b11434-help.txt"
PARSED = parse_help(HELP.read_text())
TABLE = Table(PARSED.by_spelling, PARSED.by_env)


def settings(table: Table | None = TABLE) -> Settings:
    return Settings(table, Notes(), Secrets(), "/cwd", ("instances", "a"), "models.a", "cmd", 3)


def read(text: str, table: Table | None = TABLE) -> Settings:
    """The settings of a command line, without its program."""
    made = settings(table)
    made.words(words_of(text))
    return made


def said(made: Settings) -> list[str]:
    return [f"{one.kind} {one.path}: {one.message}" for one in made.notes.remarks]


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        ("-c 4096 -ngl 99", {"ctx-size": 4096, "n-gpu-layers": 99}),
        ("--ctx_size 4096", {"ctx-size": 4096}),
        ("--CTX-SIZE 4096", {"ctx-size": 4096}),
        ("--jinja --no-warmup --metrics", {"jinja": True, "warmup": False, "metrics": True}),
        ("-fa on", {"flash-attn": "on"}),
        ("-fa 1", {"flash-attn": True}),
        ("-n -1", {"n-predict": -1}),
        ("--temp 0.70", {"temperature": "0.70"}),
        ("--temp 0.7", {"temperature": 0.7}),
        ("--alias 0x10", {"alias": "0x10"}),
        ("-ts 3,1", {"tensor-split": "3,1"}),
        ("--lora a.gguf --lora /b.gguf", {"lora": ["/cwd/a.gguf", "/b.gguf"]}),
        ("-c 1 -c 2", {"ctx-size": 2}),
        ("--chat-template-file 't.jinja'", {"chat-template-file": "/cwd/t.jinja"}),
        ("""--chat-template-kwargs '{"a": 1}'""", {"chat-template-kwargs": '{"a": 1}'}),
        ("--control-vector-layer-range 1 2", {"control-vector-layer-range": [1, 2]}),
    ],
)
def test_flags_come_under_their_canonical_names(text: str, flags: dict[str, Any]) -> None:
    made = read(text)

    assert made.flags == flags
    assert made.notes.remarks == []


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("-m models/x.gguf", {"model": "/cwd/models/x.gguf"}),
        ("--model /x.gguf --host 0.0.0.0", {"model": "/x.gguf", "host": "0.0.0.0"}),
        ("-hf a/b:Q8_0 -hff x.gguf", {"hf-repo": "a/b:Q8_0", "hf-file": "x.gguf"}),
        ("--port 8080 -mm p.gguf", {"port": "8080", "mmproj": "/cwd/p.gguf"}),
    ],
)
@pytest.mark.parametrize("table", [TABLE, None], ids=["table", "none"])
def test_what_has_a_key_of_its_own_is_known_anyway(
    text: str, places: dict[str, str], table: Table | None
) -> None:
    made = read(text, table)

    assert made.places == places
    assert made.flags == {}


def test_a_value_that_was_left_out_is_what_it_used_to_mean() -> None:
    made = read("--flash-attn --slots")

    assert made.flags == {"flash-attn": "on", "slots": True}
    assert "changed models.a.cmd --flash-attn: it stands there without a value" in said(made)[0]


def test_what_the_binary_does_not_have_is_passed_on() -> None:
    made = read("--frobnicate 1 2 -c 5 --whirr")

    assert made.args == ["--frobnicate", "1", "2", "--whirr"]
    assert made.flags == {"ctx-size": 5}
    assert [one.at for one in made.notes.remarks] == [("instances", "a", "args")] * 2


def test_without_a_table_flags_stay_as_they_are_written() -> None:
    made = read("-c 4096 --jinja --temp -1 -ngl 99", table=None)

    assert made.flags == {"c": 4096, "jinja": True, "temp": -1, "ngl": 99}
    assert made.args == []


def test_of_another_binary_nobody_knows_what_it_takes() -> None:
    made = settings()
    made.ours = False
    made.words(["--frobnicate", "1", "-c", "5"])

    assert made.flags == {"frobnicate": 1, "ctx-size": 5}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("--draft-max 16", "removed from llama-server: use --spec-draft-n-max"),
        ("--version", "it prints something and exits"),
        ("-mu https://x/y.gguf", "a profile names a model on this machine"),
        ("--reuse-port", "two servers on one port"),
        ("--ctx-size", "it needs a value, and has none"),
        ("stray", "a word that belongs to no flag was left out"),
    ],
)
def test_what_cannot_be_said_is_lost_and_told(text: str, message: str) -> None:
    made = read(text)

    assert (made.flags, made.args, made.places) == ({}, [], {})
    assert message in said(made)[0]
    assert made.notes.remarks[0].line == 3


def test_a_secret_is_never_written_out() -> None:
    made = read("--api-key hunter2 --unheard-of-token hunter3")

    assert spelled(made.flags) == {
        "api-key": "${env:LLAMA_API_KEY}",
        "unheard-of-token": "${env:UNHEARD_OF_TOKEN}",
    }
    assert "hunter" not in str(said(made))
    assert "set LLAMA_API_KEY in the shell" in said(made)[0]


def test_two_secrets_are_two_variables() -> None:
    secrets = Secrets()

    assert secrets.reference("KEY", "a", "one") == "KEY"
    assert secrets.reference("KEY", "a", "two") == "KEY"
    assert secrets.reference("KEY", "b", "two-b.1") == "TWO_B_1_KEY"
    assert secrets.reference("KEY", "c", "3") == "_3_KEY"


def test_variables_are_flags_that_the_command_line_wins_over() -> None:
    made = read("-c 5")

    assert made.variable("LLAMA_ARG_CTX_SIZE", "6")
    assert made.variable("LLAMA_ARG_JINJA", "off")
    assert made.variable("LLAMA_ARG_MODEL", "/x.gguf")
    assert not made.variable("CUDA_VISIBLE_DEVICES", "0")
    assert made.flags == {"ctx-size": 5, "jinja": False}
    assert made.places == {"model": "/x.gguf"}


@pytest.mark.parametrize(
    ("key", "value", "flags"),
    [
        ("c", "1", {"ctx-size": 1}),
        ("LLAMA_ARG_CTX_SIZE", "1", {"ctx-size": 1}),
        ("jinja", "true", {"jinja": True}),
        ("jinja", "disabled", {"jinja": False}),
        ("no-jinja", "1", {"jinja": False}),
        ("no-jinja", "off", {"jinja": True}),
        ("flash-attn", "true", {"flash-attn": True}),
        ("spec-default", "0", {"spec-default": False}),
    ],
)
def test_lines_of_a_preset(key: str, value: str, flags: dict[str, Any]) -> None:
    made = settings()
    made.preset(key, value)

    assert made.flags == flags
    assert made.notes.remarks == []


def test_of_a_line_given_twice_the_last_counts() -> None:
    made = settings()
    made.preset("lora", "/a")
    made.preset("lora", "/b")

    assert made.flags == {"lora": "/b"}


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("llama-server -m x", Command("llama-server", ("-m", "x"), {})),
        ("/opt/llama-server-cuda -m x", Command("/opt/llama-server-cuda", ("-m", "x"), {})),
        ("env A=b=c llama-server -c 1", Command("llama-server", ("-c", "1"), {"A": "b=c"})),
        ("nice -n 5 llama-server", Command("llama-server", (), {}, ("nice", "-n", "5"))),
        ("docker run x llama-server", "a container (docker): only programs of this machine"),
        ("bash -c 'llama-server'", "it runs through a shell (bash)"),
        ("python -m llama_cpp.server", "'python' is no llama-server"),
        ("/usr/bin/ollama serve", "an Ollama"),
        ("nice -n 5 vllm serve", "'nice' is no llama-server"),
        ("", "the command is empty"),
    ],
)
def test_which_program_a_command_starts(text: str, command: Command | str) -> None:
    found = read_command(words_of(text))

    if isinstance(command, str):
        assert isinstance(found, str)
        assert command in found
    else:
        assert found == command


def test_words_are_those_of_a_shell_and_no_more() -> None:
    text = "a \\\n  'b c'\n# a comment\n  d$(e) `f` \"g # h\" ; rm"

    assert words_of(text) == ["a", "b c", "d$(e)", "`f`", "g # h", ";", "rm"]
    with pytest.raises(ValueError, match="quotation"):
        words_of("a 'b")
