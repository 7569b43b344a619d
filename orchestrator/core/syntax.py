"""What YAML's parser complains of, in words for somebody who writes a profile."""

from __future__ import annotations

import re

import yaml
from msgspec import Struct

from orchestrator.core.problem import Problem
from orchestrator.core.source import Source


class _Wording(Struct, frozen=True):
    """`pattern` finds the parser's own message; `opening` points at where the construct began."""

    pattern: str
    message: str
    hint: str = ""
    opening: bool = False


_INDENTATION = "is it indented like its neighbours, and is text with special characters quoted?"
_WORDINGS = (
    _Wording(
        r"mapping values are not allowed",
        "a ':' is not expected here",
        "is the line indented too far, or does text with ': ' need quotes?",
    ),
    _Wording(
        r"found unexpected ':'", "a ':' is not expected here", "put a space after it, or quote it"
    ),
    _Wording(r"could not find expected ':'", "expected ':' after this key", opening=True),
    _Wording(
        r"found unexpected end of stream",
        "this quote is never closed",
        "add the closing quote",
        opening=True,
    ),
    _Wording(r"expected ',' or '([\]}])'", "expected ',' or '{0}' here", _INDENTATION),
    _Wording(r"entries are not allowed", "a list may not start here", "begin it on its own line"),
    _Wording(
        r"undefined tag handle|\bURI\b|'>'|' '|octet|whitespace or line break",
        "tags are not allowed",
        "a profile needs none: remove it, or quote text that starts with '!'",
    ),
    _Wording(
        r"comment or (a )?line break|indentation indicator",
        "unexpected text after '|' or '>'",
        "quote text that starts with one of them",
    ),
    _Wording(r"directive name", "text cannot start with '%' here", "put it in quotes"),
    _Wording(r"document (indicator|separator)", "this quote is never closed", opening=True),
    _Wording(r"unknown escape character", "unknown escape in double quotes", r"write '\\' for '\'"),
    _Wording(
        r"character escape|hexdecimal|escape sequence|chr\(\) arg|too large",
        "an escape that is no character",
    ),
    _Wording(r"<document start>", "a second document starts here", "a profile is one document"),
    _Wording(r"incompatible YAML document", "only YAML 1.x is understood", "remove '%YAML'"),
    _Wording(
        r"mapping keys are not", "a '?' is not expected here", "quote text that starts with it"
    ),
    _Wording(r"node content", "expected a value here", _INDENTATION),
    _Wording(r"alphabetic or numeric", "expected a name after '&' or '*'", "is it text? quote it"),
    _Wording(r"'-' indicator|block collection", "expected '-' here", _INDENTATION),
    _Wording(r"expected key|<block end>", "expected a key here", _INDENTATION),
)


def explain(error: Exception, source: Source) -> Problem:
    """The one problem that a syntax error is."""
    said, opened, mark = str(error), None, None
    if isinstance(error, yaml.MarkedYAMLError):
        said = _said(error.context or "", error.problem or "")
        opened, mark = error.context_mark, error.problem_mark or error.context_mark
    line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
    if "cannot start any token" in said or "tab character" in said:
        return _character(source, line, column)
    for wording in _WORDINGS:
        match = re.search(wording.pattern, said)
        if match is None:
            continue
        message = wording.message.format(*match.groups())
        if wording.opening and opened is not None:
            line, column = opened.line + 1, opened.column + 1
        elif "',' or" in message and opened is not None:
            return _unclosed(source, message, (line, column), (opened.line + 1, opened.column + 1))
        else:
            line, column = _visible(source, line, column)
        return source.problem(message, line, column, hint=wording.hint)
    return source.problem(f"not valid YAML: {said[:200]}", line, column)


def _said(context: str, problem: str) -> str:
    """The parser's own message, or its context where that alone tells what is meant."""
    if "directive" in context:
        return "directive name"
    if "block collection" in context and "<block end>" in problem:
        return "block collection"
    return problem


def _visible(source: Source, line: int, column: int) -> tuple[int, int]:
    """Where text ends, for an error at an empty line where something is missing."""
    if source.line(line).strip():
        return line, column
    while line > 1 and not source.line(line).strip():
        line -= 1
    return line, len(source.line(line).rstrip()) + 1


def _character(source: Source, line: int, column: int) -> Problem:
    at = source.line(line)[column - 1 : column]
    if at == "\t":
        return source.problem(
            "a tab cannot indent", line, column, hint="use spaces: YAML knows no tabs here"
        )
    return source.problem(
        f"text cannot start with {at!r} here", line, column, hint="put it in quotes"
    )


def _unclosed(
    source: Source, message: str, here: tuple[int, int], opened: tuple[int, int]
) -> Problem:
    """A list or mapping in brackets broke off: by a `${` without quotes, or by a missing end."""
    line = source.line(here[0])
    if not line[here[1] - 1 :].strip():
        bracket = source.line(opened[0])[opened[1] - 1 : opened[1]]
        return source.problem(f"this '{bracket}' is never closed", *opened)
    before = line[: here[1] - 1]
    if before.rstrip().endswith("$") or re.search(r"\$\{[^}\"']*$", before):
        return source.problem(message, *here, hint='inside { } and [ ], write "${...}" in quotes')
    hint = f"it was opened in line {opened[0]}, column {opened[1]}"
    return source.problem(message, *here, hint=hint)
