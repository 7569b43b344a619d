"""What an importer makes of another tool's configuration: a profile to be, and what to say of it.

Text in a draft is as its source has it. What becomes a reference in the profile is marked by
characters of a private area, which no source may hold: so nobody's `${` turns into one of ours.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, cast

from msgspec import Struct, field

from orchestrator.core.fields import is_name
from orchestrator.core.nodes import shown
from orchestrator.core.problem import Path, Problem
from orchestrator.core.source import Source, read_source

Kind = Literal["lost", "changed"]
"""`lost` could not be carried over; `changed` was, but there is something to know about it."""

OPEN, CLOSE, PORT = "\ue000", "\ue001", "\ue002"
MARKS = re.compile(f"[{OPEN}{CLOSE}{PORT}]")
"""What a source must not hold."""

_NAME_PART = re.compile(r"[^a-z0-9._-]+")
_MARKED = re.compile(f"{OPEN}+([^{OPEN}{CLOSE}]*){CLOSE}")


class UnreadableError(Exception):
    """A source that cannot be read at all: what is wrong with it, and where."""

    def __init__(self, *problems: Problem) -> None:
        super().__init__(problems[0].message)
        self.problems = problems


class _Gone:
    """Stands in a draft where something was left out, so that what is said of it has its place."""

    def __repr__(self) -> str:
        return "GONE"


GONE = _Gone()


class Remark(Struct, frozen=True):
    """One thing to know about an import.

    `key` is what it is about, in the part of the source that is `part`; `line` counts from 1 and is
    0 where no line is meant; `at` is where in the profile it is said.
    """

    kind: Kind
    message: str
    part: str = ""
    key: str = ""
    line: int = 0
    at: Path = ()

    @property
    def path(self) -> str:
        """All of what it is about, as the source calls it."""
        between = " " if self.part.endswith("]") else "."
        return between.join(word for word in (self.part, self.key) if word)

    @property
    def instance(self) -> str:
        """The instance that it is about; empty for the whole."""
        return str(self.at[1]) if len(self.at) > 1 and self.at[0] == "instances" else ""

    def as_json(self, file: str) -> dict[str, Any]:
        """A row of `import --json`."""
        return {
            "kind": self.kind,
            "file": file,
            "line": self.line or None,
            "path": self.path,
            "instance": self.instance,
            "message": self.message,
        }


class Imported(Struct):
    """A profile as a tree, marks and `GONE` in it, and what is to be said of it."""

    document: dict[str, Any]
    remarks: tuple[Remark, ...]

    @property
    def instances(self) -> list[str]:
        """The names of those that came over."""
        entries = cast("dict[str, Any]", self.document["instances"])
        return [name for name, value in entries.items() if value is not GONE]


class Notes(Struct):
    """Collects remarks about one place after the other."""

    remarks: list[Remark] = field(default_factory=list[Remark])

    def lost(
        self, message: str, *, part: str = "", key: str = "", line: int = 0, at: Path = ()
    ) -> None:
        """Note what could not be carried over."""
        self.remarks.append(Remark("lost", message, part, key, line, at))

    def changed(
        self, message: str, *, part: str = "", key: str = "", line: int = 0, at: Path = ()
    ) -> None:
        """Note what is not quite as it was."""
        self.remarks.append(Remark("changed", message, part, key, line, at))


def read_foreign(data: bytes, file: str) -> Source:
    """The text of another tool's file. Raises `UnreadableError` for what is no bounded text."""
    source = read_source(data, file)
    if isinstance(source, Problem):
        raise UnreadableError(source)
    mark = MARKS.search(source.text)
    if mark is not None:
        line = source.text.count("\n", 0, mark.start()) + 1
        code = ord(mark[0])
        raise UnreadableError(source.problem(f"the character U+{code:04X} is not allowed", line, 1))
    return source


def env_reference(name: str) -> str:
    """A reference to an environment variable, as a draft has it."""
    return f"{OPEN}{name}{CLOSE}"


def is_reference(text: str) -> bool:
    """Whether a text of a draft is a reference, and nothing besides."""
    return _MARKED.fullmatch(text) is not None


def expanded(text: str, env: Mapping[str, str]) -> str:
    """`text` with its references replaced; what is not set is empty."""
    return _MARKED.sub(lambda match: env.get(match[1], ""), text)


def filled(text: str) -> str:
    """`text` with a letter where a reference stands, to see whether it could mean something."""
    return _MARKED.sub("x", text)


def spelled(value: Any) -> Any:
    """A part of a draft as a profile spells it: marks are references, any other `${` is text."""
    if isinstance(value, str):
        return _MARKED.sub(r"${env:\1}", value.replace("${", "$${")).replace(PORT, "PORT")
    if isinstance(value, Mapping):
        entries = cast("Mapping[str, Any]", value).items()
        return {key: spelled(one) for key, one in entries if one is not GONE}
    if isinstance(value, list | tuple):
        return [spelled(one) for one in cast("Sequence[Any]", value)]
    return value


def readable(text: str) -> str:
    """A part of a draft in a message: short, on one line, references as people write them."""
    return shown(_MARKED.sub(r"${env:\1}", text).replace(PORT, "${PORT}"))


def located(path: str, folder: str) -> str:
    """A path of a source, absolute unless it begins with a reference: relative ones are relative
    to `folder`."""
    if not path or path.startswith(("/", OPEN)):
        return path
    if path.startswith("~/"):
        return f"{env_reference('HOME')}{path[1:]}"
    return posixpath.normpath(posixpath.join(folder, path))


class Names(Struct):
    """Gives names to what has one in a profile, each but once."""

    _taken: set[str] = field(default_factory=set[str])
    _numbers: dict[str, int] = field(default_factory=dict[str, int])

    def name(self, wanted: str) -> str:
        """A name for an instance, as near to `wanted` as may be, that no other has."""
        plain = _NAME_PART.sub("-", wanted.casefold()).strip("-._")[:63].rstrip("-._") or "model"
        stem, name = plain[:54], plain
        while name in self._taken:
            # From where the last of its namesakes left off: there may be very many.
            number = self._numbers[stem] = self._numbers.get(stem, 1) + 1
            name = f"{stem}-{number}"
        self._taken.add(name)
        return name

    def all(self, wanted: Iterable[str]) -> list[str]:
        """A name for each. Whoever can be called exactly so is, whoever comes before it."""
        words = list(wanted)
        order = sorted(range(len(words)), key=lambda at: not is_name(words[at]))
        names = {at: self.name(words[at]) for at in order}
        return [names[at] for at in range(len(words))]


def typed(word: str) -> str | int | float:
    """A word of a command line as a profile says it: a number where that is the very same word."""
    if len(word) > 40 or not word.isascii():
        return word
    for kind in (int, float):
        try:
            number = kind(word)
        except ValueError:
            continue
        if repr(number) == word and word[-1].isdigit():
            return number
    return word
