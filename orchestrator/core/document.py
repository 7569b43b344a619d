"""YAML text to a tree of nodes with positions, for text that nobody vouches for.

Composed here from parser events, not by yaml's own composer: so nesting, number of nodes and the
expansion of aliases are bounded while they happen, duplicate keys and tags are seen, and scalars
are YAML 1.2 core. Aliased nodes are shared, never copied; what they would expand to is counted.

Called by `parse` only. Never raises for bad input: what is wrong is in `Document.problems`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import cast

import yaml
from msgspec import Struct
from yaml.events import (
    AliasEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
)

from orchestrator.core.nodes import (
    Entry,
    ListNode,
    MapNode,
    Node,
    ScalarNode,
    Value,
    read_scalar,
    shown,
)
from orchestrator.core.problem import Path, Problem
from orchestrator.core.source import Source
from orchestrator.core.syntax import explain

MAX_DEPTH = 32
"""Levels of nesting. A profile has six."""

MAX_NODES = 50_000
"""Nodes with every alias expanded. A profile of 200 instances has about 6,000."""

# libyaml where PyYAML was built with it, ten times as fast; else the same events from Python.
_LOADER: type[yaml.CSafeLoader] | type[yaml.SafeLoader] = getattr(
    yaml, "CSafeLoader", yaml.SafeLoader
)

_CORE = "tag:yaml.org,2002:"
_SCALAR_TAGS: dict[str, tuple[type, ...]] = {
    f"{_CORE}int": (int,),
    f"{_CORE}float": (float, int),
    f"{_CORE}bool": (bool,),
    f"{_CORE}null": (type(None),),
}
_TEXT_TAGS = ("!", f"{_CORE}str")
# Escapes in double quotes can spell both; neither can be a part of a path or an argument.
_UNUSABLE = re.compile("[\0\ud800-\udfff]")


class Document(Struct, frozen=True):
    """One file read: `root` is None when there is nothing sound to look at further."""

    source: Source
    root: Node | None
    problems: tuple[Problem, ...]


class _RefusedError(Exception):
    """Ends the reading: a bound was passed. Holds the last problem."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


def read_document(source: Source) -> Document:
    """Compose `source`. A duplicate key or a foreign tag does not hide what else is wrong.

    After a syntax error or a passed bound there is no root: half a tree would be blamed for what
    its other half says.
    """
    composer = _Composer(source)
    try:
        root = composer.document()
    except _RefusedError as refused:
        root, last = None, refused.problem
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        # ValueError and OverflowError: an escape beyond Unicode, from the parser in Python.
        root, last = None, explain(error, source)
    else:
        return Document(source, root, tuple(composer.problems))
    return Document(source, root, (*composer.problems, last))


class _Composer:
    """Builds nodes from events. Collects what is wrong in `problems`, with the path it is at."""

    def __init__(self, source: Source) -> None:
        self.problems: list[Problem] = []
        self._source = source
        # yaml's types know nothing of the parser in C. The stream's end is always the last event,
        # and nobody asks for one more.
        self._next = cast("Callable[[], Event]", _LOADER(source.text).get_event)  # pyright: ignore[reportUnknownMemberType]
        self._path: list[str | int] = []
        self._anchors: dict[str, tuple[Node, int]] = {}
        self._unfinished: set[str] = set()
        self._count = 0

    def document(self) -> Node | None:
        """The root of the only document, None when there is none."""
        self._next()  # stream start
        if isinstance(self._next(), StreamEndEvent):
            return None
        root = self._node(self._next())
        self._next()  # document end
        event = self._next()
        if not isinstance(event, StreamEndEvent):
            self._report(
                "a second document starts here",
                event,
                hint="a profile is one document: remove the '---' or use two files",
            )
        return root

    def _report(self, message: str, at: Event | Node | Entry, *, hint: str = "") -> None:
        line, column = _position(at) if isinstance(at, Event) else (at.line, at.column)
        path: Path = tuple(self._path)
        self.problems.append(self._source.problem(message, line, column, hint=hint, path=path))

    def _refuse(self, message: str, event: Event, *, hint: str = "") -> _RefusedError:
        line, column = _position(event)
        path: Path = tuple(self._path)
        return _RefusedError(self._source.problem(message, line, column, hint=hint, path=path))

    def _spend(self, nodes: int, event: Event) -> None:
        self._count += nodes
        if self._count > MAX_NODES:
            what = "its aliases expand to" if isinstance(event, AliasEvent) else "it has"
            raise self._refuse(
                f"the document is too large: {what} more than {MAX_NODES:,} values", event
            )

    def _node(self, event: Event) -> Node:
        if isinstance(event, AliasEvent):
            return self._alias(event)
        self._spend(1, event)
        assert isinstance(event, NodeEvent)
        # yaml's types leave the anchor open; it is a name or None.
        anchor: str | None = event.anchor  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        if anchor is None:
            return self._fresh(event)
        before = self._count - 1
        self._unfinished.add(anchor)
        node = self._fresh(event)
        self._unfinished.discard(anchor)
        self._anchors[anchor] = (node, self._count - before)
        return node

    def _fresh(self, event: Event) -> Node:
        if isinstance(event, ScalarEvent):
            return self._scalar(event)
        if len(self._path) >= MAX_DEPTH:
            raise self._refuse(f"nested more than {MAX_DEPTH} levels deep", event)
        if isinstance(event, SequenceStartEvent):
            return self._list(event)
        assert isinstance(event, MappingStartEvent)
        return self._map(event)

    def _alias(self, event: AliasEvent) -> Node:
        name = str(event.anchor)  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
        if name in self._unfinished:
            raise self._refuse(f"the alias '*{name}' stands inside what it refers to", event)
        if name not in self._anchors:
            line, column = _position(event)
            self._report(
                f"unknown alias '*{name}'",
                event,
                hint=f"define '&{name}' above it, or quote text that starts with '*'",
            )
            return ScalarNode(f"*{name}", f"*{name}", line, column, False)
        node, weight = self._anchors[name]
        self._spend(weight, event)
        if not isinstance(node, ScalarNode):
            return node
        # What is wrong with a single value is wrong where it is used.
        line, column = _position(event)
        return ScalarNode(node.value, node.text, line, column, node.plain)

    def _scalar(self, event: ScalarEvent) -> ScalarNode:
        text, tag, bare = str(event.value), event.tag, event.style in (None, "")
        line, column = _position(event)
        if event.style == '"' and _UNUSABLE.search(text):
            self._report("text must not hold NUL or half of a surrogate pair", event)
            text = _UNUSABLE.sub("?", text)
        if tag in _TEXT_TAGS or (tag is None and not bare):
            return ScalarNode(text, text, line, column, False)
        try:
            value: Value = read_scalar(text)
        except OverflowError as error:
            self._report(str(error), event, hint="quote it if it is meant as text")
            value = 0
        if tag is not None and not self._tagged(tag, value, event):
            value = text
        return ScalarNode(value, text, line, column, bare)

    def _tagged(self, tag: str, value: Value, event: ScalarEvent) -> bool:
        """Whether `value` is what `tag` says; reports when not."""
        if tag not in _SCALAR_TAGS:
            self._foreign(tag, event)
            return True
        fits = isinstance(value, _SCALAR_TAGS[tag])
        if not fits:
            word = tag.removeprefix(_CORE)
            self._report(f"expected a value of type !!{word}, got {shown(event.value)}", event)
        return fits

    def _foreign(self, tag: str, event: Event) -> None:
        word = tag.replace(_CORE, "!!", 1)
        self._report(
            f"the tag {shown(word)} is not allowed",
            event,
            hint="a profile needs no tags: remove it",
        )

    def _list(self, start: SequenceStartEvent) -> ListNode:
        if start.tag not in (None, "!", f"{_CORE}seq"):
            self._foreign(str(start.tag), start)
        items: list[Node] = []
        line, column = _position(start)
        while not isinstance(event := self._next(), SequenceEndEvent):
            self._path.append(len(items))
            items.append(self._node(event))
            self._path.pop()
        return ListNode(items, line, column)

    def _map(self, start: MappingStartEvent) -> MapNode:
        if start.tag not in (None, "!", f"{_CORE}map"):
            self._foreign(str(start.tag), start)
        line, column = _position(start)
        node = MapNode({}, line, column)
        merged: list[Node] = []
        while not isinstance(event := self._next(), MappingEndEvent):
            self._entry(event, node.entries, merged)
        for source in merged:
            self._merge(source, node.entries)
        return node

    def _entry(self, event: Event, entries: dict[str, Entry], merged: list[Node]) -> None:
        """Read one key and its value, the key's event being read already."""
        self._path.append("?")
        key = self._node(event)
        word = key.value if isinstance(key, ScalarNode) else None
        self._path[-1] = word if isinstance(word, str) else "?"
        # An alias puts its key where it was defined; what counts is where it is used.
        line, column = _position(event)
        if not isinstance(word, str):
            self._bad_key(key, event)
        elif word in entries:
            first = entries[word].line
            self._report(f"duplicate key {shown(word)}", event, hint=f"first given in line {first}")
        value = self._node(self._next())
        if isinstance(word, str) and isinstance(key, ScalarNode) and word == "<<" and key.plain:
            if merged:
                self._report("duplicate key '<<'", event, hint="write '<<: [*one, *two]'")
            merged.append(value)
        elif isinstance(word, str) and word not in entries:
            entries[word] = Entry(word, line, column, value)
        self._path.pop()

    def _bad_key(self, key: Node, event: Event) -> None:
        if isinstance(key, ScalarNode):
            self._report(
                f"expected text as a key, got {shown(key.value)}",
                event,
                hint=f'write "{key.text}" in quotes' if len(key.text) < 40 else "",
            )
        else:
            self._report(
                f"expected text as a key, got {shown([] if isinstance(key, ListNode) else {})}",
                event,
                hint='put text with "${...}", "{" or "[" in quotes',
            )

    def _merge(self, source: Node, entries: dict[str, Entry]) -> None:
        """Bring in what `<<` names: keys given here win, and so does the earlier of two sources."""
        for node in source.items if isinstance(source, ListNode) else [source]:
            if not isinstance(node, MapNode):
                self._report("'<<' takes a mapping or a list of mappings", node)
                continue
            for word, entry in node.entries.items():
                entries.setdefault(word, entry)


def _position(event: Event) -> tuple[int, int]:
    mark = event.start_mark
    assert mark is not None
    return mark.line + 1, mark.column + 1
