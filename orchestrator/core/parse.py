"""A profile's bytes to a profile, or to everything that is wrong with them, each at its place.

The one way from text to `Profile`: the command line's `validate`, the daemon and the watcher all
call `parse_profile`. Never raises for what a file holds.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from msgspec import Struct

from orchestrator.core.check import check
from orchestrator.core.document import Document, read_document
from orchestrator.core.engine import Issue
from orchestrator.core.interpolate import interpolate
from orchestrator.core.nodes import (
    Entry,
    ListNode,
    MapNode,
    Node,
    ScalarNode,
    locate,
    plain,
    shown,
)
from orchestrator.core.problem import Path, Place, Problem
from orchestrator.core.profile import Profile
from orchestrator.core.salvage import salvage
from orchestrator.core.source import Source, read_source
from orchestrator.core.suggestion import MAX_ISSUES

_WIDTH = 100
"""Cells of a source line that are shown."""


@dataclass(frozen=True, slots=True)
class LoadedProfile:
    """A valid profile and the file it came from. `revision` is `sha256:` and the bytes' digest.

    `env_names` are the environment variables it was read with, set or not.
    """

    file: str
    name: str
    revision: str
    config: Profile
    env_names: frozenset[str]
    _source: Source = field(repr=False)
    _root: MapNode = field(repr=False)

    @property
    def folder(self) -> str:
        """What relative paths in the profile are relative to."""
        folder, slash, _ = self.file.rpartition("/")
        return (folder or "/") if slash else "."

    def written(self) -> dict[str, Any]:
        """What the file says, as it says it: references are not followed."""
        return cast("dict[str, Any]", plain(self._root))

    def place(self, path: Path, *, key: bool = True) -> Place:
        """Where `path` stands, or its nearest ancestor that the document has.

        `key`: of its key, not of its value.
        """
        return self._source.place(*locate(self._root, path, key=key))


class Parsed(Struct, frozen=True):
    """What came of one file. `profile` is None whenever there are problems.

    Then `rest` may be what remains without them: good for finding more errors, for nothing else.
    """

    profile: LoadedProfile | None
    problems: tuple[Problem, ...]
    rest: LoadedProfile | None = None


def parse_profile(data: bytes, *, file: str, env: Mapping[str, str]) -> Parsed:
    """Read `data`, the content of `file`, with `env` for its `${env:...}`."""
    source = read_source(data, file)
    if isinstance(source, Problem):
        return Parsed(None, (source,))
    document = read_document(source)
    root = document.root
    if not isinstance(root, MapNode):
        return Parsed(None, _ordered([*document.problems, *_no_profile(document)]))
    interpolated = interpolate(root, env)
    values = plain(_spelled(interpolated.root))
    config, found = check(values)
    broken = interpolated.broken
    issues = [*interpolated.issues, *(one for one in found if not _below(one.path, broken))]
    placed = (_placed(issue, source, root) for issue in issues)
    # What the document was blamed for is not blamed again for what it was taken as instead.
    blamed = {problem.place for problem in document.problems}
    problems = [*document.problems, *(one for one in placed if one.place not in blamed)]
    revision = f"sha256:{hashlib.sha256(data).hexdigest()}"

    def loaded(config: Profile) -> LoadedProfile:
        name, names = config.name or _stem(file), interpolated.env_names
        return LoadedProfile(file, name, revision, config, names, source, root)

    if config is not None and not problems:
        return Parsed(loaded(config), ())
    blamed = [*broken, *(issue.path for issue in issues)]
    rest = salvage(values, blamed)
    return Parsed(None, _ordered(problems), loaded(rest) if rest is not None else None)


def _no_profile(document: Document) -> list[Problem]:
    """What to say of a document whose root is no mapping; nothing when it could not be read."""
    root = document.root
    if root is None or (isinstance(root, ScalarNode) and root.value is None):
        message = "the file is empty"
        if document.problems:
            return []
    else:
        message = f"expected a mapping with 'instances:', got {shown(plain(root))}"
    line, column = (root.line, root.column) if root else (1, 1)
    hint = "a profile with nothing to run is 'instances: {}'"
    return [document.source.problem(message, line, column, hint=hint)]


def _below(path: Path, broken: frozenset[Path]) -> bool:
    """Whether `path` is, or is inside, a value that could not be made and was blamed already."""
    return bool(broken) and any(path[:length] in broken for length in range(1, len(path) + 1))


def _spelled(root: MapNode) -> MapNode:
    """`root` with the numbers in every `env` and `args`, and in what the gateway keeps secret, as
    the text they are written as.

    There text is meant, and `1.10` must not become `1.1`. Nor can a reference be quoted to say so:
    what it brings in is text here, whatever it looks like.
    """
    entries = dict(root.entries)
    for section in ("defaults", "instances"):
        entry = entries.get(section)
        if entry is not None:
            value = _map_values(entry.value, _spelled_block)
            entries[section] = Entry(section, entry.line, entry.column, value)
    gateway = entries.get("gateway")
    if gateway is not None:
        value = _changed(gateway.value, ("token",), _as_text)
        value = _changed(value, ("tokens", "*", "token"), _as_text)
        value = _changed(value, ("cloud", "*", "key"), _as_text)
        entries["gateway"] = Entry("gateway", gateway.line, gateway.column, value)
    return MapNode(entries, root.line, root.column)


def _changed(node: Node, path: tuple[str, ...], change: Callable[[Node], Node]) -> Node:
    """`node` with `change` applied to what is at `path` in it, `*` being every key."""
    if not path:
        return change(node)
    if not isinstance(node, MapNode):
        return node
    entries = {
        key: Entry(key, entry.line, entry.column, _changed(entry.value, path[1:], change))
        if path[0] in (key, "*")
        else entry
        for key, entry in node.entries.items()
    }
    return MapNode(entries, node.line, node.column)


def _spelled_block(block: Node) -> Node:
    if not isinstance(block, MapNode) or not block.entries.keys() & {"env", "args"}:
        return block
    entries = dict(block.entries)
    for key in ("env", "args"):
        entry = entries.get(key)
        if entry is not None:
            value = _map_values(entry.value, _as_text)
            entries[key] = Entry(key, entry.line, entry.column, value)
    return MapNode(entries, block.line, block.column)


def _map_values(node: Node, change: Callable[[Node], Node]) -> Node:
    """`node` with `change` applied to each of its direct values."""
    if isinstance(node, ListNode):
        return ListNode([change(item) for item in node.items], node.line, node.column)
    if isinstance(node, ScalarNode):
        return node
    entries = {
        key: Entry(key, entry.line, entry.column, change(entry.value))
        for key, entry in node.entries.items()
    }
    return MapNode(entries, node.line, node.column)


def _as_text(node: Node) -> Node:
    if not isinstance(node, ScalarNode) or isinstance(node.value, str | None):
        return node
    if isinstance(node.value, bool) and node.plain:
        return node
    return ScalarNode(node.text, node.text, node.line, node.column, False)


def _placed(issue: Issue, source: Source, root: MapNode) -> Problem:
    line, column = locate(root, issue.path, key=issue.key)
    return source.problem(issue.message, line, column, hint=issue.hint, path=issue.path)


def _ordered(problems: list[Problem]) -> tuple[Problem, ...]:
    """In the order of the file, each once, and no more than anybody reads."""
    unique = {(p.place.line, p.place.column, p.message): p for p in problems}
    ordered = [unique[at] for at in sorted(unique)]
    if len(ordered) <= MAX_ISSUES:
        return tuple(ordered)
    last = ordered[MAX_ISSUES]
    more = Problem("and more problems from here on", last.place)
    return (*ordered[:MAX_ISSUES], more)


def _stem(file: str) -> str:
    """The file's name without folder and ending."""
    name = file.rpartition("/")[2]
    for ending in (".yaml", ".yml"):
        name = name.removesuffix(ending)
    return name


def render_problem(problem: Problem) -> str:
    """`file:line:column: message (hint)`, below it the source line, and a caret below that."""
    place = problem.place
    hint = f" ({problem.hint})" if problem.hint else ""
    head = f"{place.file}:{place.line}:{place.column}: {problem.message}{hint}"
    # File names, and what is quoted of other files, are no more to be trusted than the source.
    head = "".join(_cell(character)[0] for character in head)
    if not place.source.strip() or place.column - 1 > len(place.source):
        return head
    text, before = _excerpt(place.source, place.column - 1)
    return f"{head}\n  {text}\n  {' ' * before}^"


def _excerpt(source: str, at: int) -> tuple[str, int]:
    """The part of `source` around character `at` that fits, and the cells that stand before it."""
    cells = [_cell(character) for character in source]
    start = 0
    if sum(width for _, width in cells) > _WIDTH and at > _WIDTH // 2:
        start = at - _WIDTH // 2
    text, used, before = ("..." if start else ""), (3 if start else 0), 0
    for index in range(start, len(cells)):
        shape, width = cells[index]
        if used + width > _WIDTH:
            text += "..."
            break
        if index < at:
            before = used + width
        text, used = text + shape, used + width
    return text.rstrip(), before if at > start else (3 if start else 0)


def _cell(character: str) -> tuple[str, int]:
    """How a character is shown, and the cells of a terminal that takes."""
    if character == "\t":
        return "    ", 4
    kind = unicodedata.category(character)
    if kind in ("Cc", "Cs", "Co", "Cn", "Cf"):
        # Could move the cursor, or turn the direction of what follows.
        return "?", 1
    if kind in ("Mn", "Me"):
        return character, 0
    return character, 2 if unicodedata.east_asian_width(character) in "WF" else 1
