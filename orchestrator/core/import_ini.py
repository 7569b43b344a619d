"""INI files as llama-server reads its presets: sections, `key = value`, and where each stands.

A `;` or a `#` begins a comment wherever it stands, also within a value. A section that comes twice
is the last one; keys before the first section belong to `default`.
"""

from __future__ import annotations

import re

from msgspec import Struct, field
from msgspec.structs import replace

from orchestrator.core.import_draft import UnreadableError, read_foreign
from orchestrator.core.problem import Problem
from orchestrator.core.secret import is_secret_name

DEFAULT = "default"
"""The section of what stands before any."""
_MAX_PROBLEMS = 20

_HEADER = re.compile(r"\s*\[[ \t]*([^\]]+?)[ \t]*\][ \t]*([;#].*)?")
_SETTING = re.compile(r"[ \t]*([A-Za-z_][A-Za-z0-9_.-]*)[ \t]*=[ \t]*(.*)")
_NOTHING = re.compile(r"[ \t]*([;#].*)?")
_END = re.compile(r"[ \t]*[;#]|[ \t]*$")


class Line(Struct, frozen=True):
    """One setting. `cut` is the character that ended its value in the middle of a word."""

    key: str
    value: str
    number: int
    cut: str = ""


class Section(Struct):
    """A section at its header; `again` says that another of this name was there before it."""

    name: str
    number: int
    lines: list[Line] = field(default_factory=list[Line])
    again: bool = False


def read_ini(data: bytes, file: str) -> list[Section]:
    """The sections of a file. Raises `UnreadableError` with every line that is none of these."""
    source = read_foreign(data, file)
    sections: dict[str, Section] = {DEFAULT: Section(DEFAULT, 1)}
    current = sections[DEFAULT]
    problems: list[Problem] = []
    for number, text in enumerate(source.lines, start=1):
        header, setting = _HEADER.fullmatch(text), _SETTING.fullmatch(text)
        if header is not None:
            again = bool(sections.pop(header[1], Section("", 0)).lines)
            current = sections[header[1]] = Section(header[1], number, again=again)
        elif setting is not None:
            current.lines.append(_line(setting[1], setting[2], number))
        elif _NOTHING.fullmatch(text) is None and len(problems) < _MAX_PROBLEMS:
            column = len(text) - len(text.lstrip()) + 1
            hint = "write [section], key = value, or begin a comment with ';'"
            problem = source.problem("this is no setting", number, column, hint=hint)
            if any(is_secret_name(word) for word in re.split(r"[^\w-]+", text)):
                # The line is shown with the problem, and this one may hold a secret.
                problem = replace(problem, place=replace(problem.place, source=""))
            problems.append(problem)
    if problems:
        raise UnreadableError(*problems)
    return list(sections.values())


def _line(key: str, rest: str, number: int) -> Line:
    end = _END.search(rest)
    assert end is not None
    value, mark = rest[: end.start()], end[0]
    within = mark in (";", "#") and end.start() > 0 and rest[end.end() :].strip() != ""
    return Line(key, value, number, mark if within else "")
