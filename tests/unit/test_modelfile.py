"""Modelfiles are read as Ollama reads them; what is wrong is said with its line."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.modelfile import (
    Modelfile,
    ModelfileOnDisk,
    absolute,
    bases_of,
    parse_modelfile,
)
from orchestrator.core.modelfile_text import INSTRUCTIONS, ModelfileError, read_instructions
from tests.growth import assert_grows_with_its_length


def settings(text: str) -> dict[str, Any]:
    return parse_modelfile(f"FROM tiny\n{text}").settings


def refused(text: str) -> tuple[str, int]:
    with pytest.raises(ModelfileError) as caught:
        parse_modelfile(text)
    return caught.value.message, caught.value.line


WHOLE = '''\
# A reviewer.
FROM llama3.1:8b

system """
You review "code".
  Be brief.
"""
TEMPLATE "{{ .Prompt }}"
PARAMETER temperature 0.2
PARAMETER num_ctx 4096
PARAMETER use_mmap false
PARAMETER stop "<end>"
PARAMETER stop   two words\t
MESSAGE user hi: there
MESSAGE assistant """hello
you"""
LICENSE one
LICENSE two
RENDERER qwen3
PARSER qwen3
REQUIRES v0.14.0
PARAMETER mirostat 1
'''


def test_all_that_one_may_say() -> None:
    found = parse_modelfile(WHOLE)
    assert found.bases == ("llama3.1:8b",)
    assert found.settings == {
        "system": '\nYou review "code".\n  Be brief.\n',
        "template": "{{ .Prompt }}",
        "messages": [
            {"role": "user", "content": "hi: there"},
            {"role": "assistant", "content": "hello\nyou"},
        ],
        "license": ["one", "two"],
        "renderer": "qwen3",
        "parser": "qwen3",
        "requires": "0.14.0",
        "parameters": {
            "temperature": 0.2,
            "num_ctx": 4096,
            "use_mmap": False,
            "stop": ["<end>", "two words"],
        },
    }


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("SYSTEM plain words # all of them", "plain words # all of them"),
        ('SYSTEM "quoted"', "quoted"),
        ('SYSTEM " blanks "', " blanks "),
        ('SYSTEM "over\ntwo lines"', "over\ntwo lines"),
        ('SYSTEM a "quote" inside', 'a "quote" inside'),
        ('SYSTEM "a "quote" inside"', 'a "quote" inside'),
        ('SYSTEM """"quoted" twice"""', '"quoted" twice'),
        ('SYSTEM """a""b"""', 'a""b'),
        ('SYSTEM "', None),
        ('SYSTEM """a"', None),
        ('SYSTEM """"""', ""),
        ('SYSTEM ""', ""),
        ("SYSTEM  \t two", "two"),
        ("SYSTEM\ttab", "tab"),
        ("SYSTEM bell\x07 and \x00nul", "bell and nul"),
        ("SYSTEM é日\N{NO-BREAK SPACE}x", "é日x"),
        ("SYSTEM 'single'", "'single'"),
        ("sYsTeM a\r\n# b\r\n", "a"),
        ("SYSTEM a\nSYSTEM b", "b"),
    ],
)
def test_values(text: str, value: str | None) -> None:
    if value is None:
        assert refused(f"FROM a\n{text}")[0] == "a quote that is opened here is never closed"
    else:
        assert settings(text) == {"system": value}


def test_a_byte_order_mark_is_no_word() -> None:
    assert parse_modelfile("\ufeffFROM a").bases == ("a",)


@pytest.mark.parametrize(
    ("text", "message", "line"),
    [
        ("", "there is no FROM line", 0),
        ("SYSTEM x", "there is no FROM line", 0),
        ("FROM", "nothing comes after FROM", 1),
        ("FROM \n", "FROM names nothing", 1),
        ("\n# c\nFORM a", "expected one of FROM, LICENSE,", 3),
        ("FROM: a", "expected one of FROM, LICENSE,", 1),
        ("FROM a\nSYSTEM\nb", "nothing comes after SYSTEM", 2),
        ('FROM a\nSYSTEM """\n\n\nPARAMETER x 1', "a quote that is opened here is never closed", 2),
        ("FROM a\n\nMESSAGE bob hi", "the role of a message is system, user, assistant", 3),
        ("FROM a\nMESSAGE user", "this line is not complete", 2),
        ("FROM a\nPARAMETER  top_k 1", "Ollama wants exactly one space", 2),
        ("FROM a\nPARAMETER topk 1", "unknown parameter 'topk' (did you mean 'top_k'?)", 2),
        ("FROM a\r\nPARAMETER top_k 1.5\r\n", "parameter 'top_k' takes a whole number", 2),
        ("FROM a\nPARAMETER top_k 1_0", "parameter 'top_k' takes a whole number", 2),
        ("FROM a\nPARAMETER seed 99999999999999999999", "parameter 'seed' takes a whole number", 2),
        ("FROM a\nPARAMETER top_p high", "parameter 'top_p' takes a number", 2),
        ("FROM a\nPARAMETER top_p nan", "parameter 'top_p' takes a number", 2),
        ("FROM a\nPARAMETER use_mmap yes", "parameter 'use_mmap' takes true or false", 2),
        ("FROM a\nREQUIRES soon", "expected a version such as 0.14.0, not 'soon'", 2),
        ("FROM a\nADAPTER ./lora", "Ollama takes no adapters (ADAPTER) any more", 2),
        ("FROM a\nDRAFT ./small", "a draft model (DRAFT) is not supported", 2),
    ],
)
def test_what_is_wrong(text: str, message: str, line: int) -> None:
    said, at = refused(text)
    assert said.startswith(message)
    assert at == line


@given(st.text())
def test_no_text_is_too_odd(text: str) -> None:
    line, bases = 0, ("none",)
    try:
        bases = parse_modelfile(f"FROM {text}").bases
    except ModelfileError as error:
        line = error.line
    assert 0 <= line <= text.count("\n") + 1
    assert all(bases)


_VALUE = st.text(st.characters(categories=["L", "N", "P", "S"], exclude_characters='"'), min_size=1)


@given(st.lists(st.tuples(st.sampled_from(["system", "template", "license"]), _VALUE)))
def test_what_is_written_is_read(lines: list[tuple[str, str]]) -> None:
    text = "".join(f'{name.upper()} """{value}"""\n' for name, value in lines)
    read = [(one.name, one.value) for one in read_instructions(text)]
    assert read == lines


def test_a_long_text_takes_no_longer_than_it_has_to() -> None:
    def read(lines: int) -> None:
        parse_modelfile('FROM a\nLICENSE """' + '\nx"' * lines + '"""')

    assert_grows_with_its_length(read, 200_000)


def test_every_instruction_of_ollama_is_known() -> None:
    assert len(INSTRUCTIONS) == 11


# --- what it is built from ------------------------------------------------------------------------


def bases(text: str, *present: str) -> list[str]:
    file = ModelfileOnDisk("/p/a.Modelfile", text, frozenset(present))
    return bases_of(parse_modelfile(text), file)


@pytest.mark.parametrize(
    ("text", "present", "found"),
    [
        ("FROM llama3.1", (), ["llama3.1:latest"]),
        ("FROM registry.ollama.ai/library/tiny", (), ["tiny:latest"]),
        ("FROM ./tiny.gguf", ("./tiny.gguf",), ["/p/tiny.gguf"]),
        ("FROM tiny", ("tiny",), ["/p/tiny"]),
        ("FROM /m/a.gguf\nFROM ../eyes.gguf", ("/m/a.gguf", "../eyes.gguf"), None),
        ("FROM ~/a.gguf", ("~/a.gguf",), ["~/a.gguf"]),
    ],
)
def test_bases(text: str, present: tuple[str, ...], found: list[str] | None) -> None:
    assert bases(text, *present) == (found or ["/m/a.gguf", "/eyes.gguf"])


@pytest.mark.parametrize(
    ("text", "message", "line"),
    [
        ("FROM ./tiny.gguf", "there is no /p/tiny.gguf, or no GGUF file in it", 1),
        ("\nFROM tiny.GGUF", "there is no /p/tiny.GGUF", 2),
        ("FROM ~/x", "there is no ~/x", 1),
        ("FROM a\nFROM b", "'a' is not the only base (FROM)", 1),
        ("FROM two words", "'two words' cannot be the name of a model, and there is no such", 1),
    ],
)
def test_what_is_no_base(text: str, message: str, line: int) -> None:
    with pytest.raises(ModelfileError) as caught:
        bases(text)
    assert caught.value.message.startswith(message)
    assert caught.value.line == line


def test_paths() -> None:
    assert absolute("../a", "/p/q") == "/p/a"
    assert absolute("/a/./b", "/p") == "/a/b"
    assert absolute("~/a", "/p") == "~/a"


def test_an_empty_one_is_equal_to_itself() -> None:
    assert parse_modelfile("FROM a") == Modelfile(tuple(read_instructions("FROM a")))
