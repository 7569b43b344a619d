"""`${name}`, `${env:NAME}` and `${env:NAME:-default}` in a profile's values.

A string that is exactly one reference takes the variable's own type; elsewhere the value is put in
as it is spelled. An environment value, or its default, is read as a YAML 1.2 core scalar. `$${` is
a literal `${`. Variables may refer to the environment and to each other. Keys are left alone.

Called by `parse` once a document has been read. What cannot be replaced is an issue, and stays.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from graphlib import TopologicalSorter

from msgspec import Struct

from orchestrator.core.cycles import find_cycles
from orchestrator.core.engine import Issue
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
from orchestrator.core.problem import Path
from orchestrator.core.reference import (
    TOKEN,
    Reference,
    env_names,
    read_reference,
    references,
)
from orchestrator.core.suggestion import MAX_ISSUES, suggest

__all__ = ["Interpolated", "env_names", "interpolate"]

MAX_EXPANSION = 1 << 20
"""Characters that all references of a profile may bring in together."""

_SURROGATE = re.compile("[\ud800-\udfff]")
_HINT = "write ${name}, ${env:NAME} or ${env:NAME:-default}; $${ for a literal '${'"


class Interpolated(Struct, frozen=True):
    """The tree with references replaced. `broken` are the paths whose value could not be made.

    What stands at a broken path is the text as written: whoever looks further must not blame it
    a second time.
    """

    root: MapNode
    issues: tuple[Issue, ...]
    broken: frozenset[Path]
    env_names: frozenset[str]


def interpolate(root: MapNode, env: Mapping[str, str]) -> Interpolated:
    """Replace every reference in the values of `root`; places stay those of the values."""
    work = _Interpolation(env)
    entry = root.entries.get("vars")
    if entry is not None and isinstance(entry.value, MapNode):
        work.define(entry.value)
    resolved = work.tree(root, (), skip="vars")
    assert isinstance(resolved, MapNode)
    if entry is not None and isinstance(entry.value, MapNode):
        values = MapNode(work.resolved_entries(entry.value), entry.value.line, entry.value.column)
        variables = {"vars": Entry("vars", entry.line, entry.column, values)}
        resolved = MapNode(resolved.entries | variables, root.line, root.column)
    return Interpolated(
        resolved, tuple(work.issues), frozenset(work.broken), frozenset(work.env_names)
    )


class _Interpolation:
    """One pass over one document: variables first, in the order of their references."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self.issues: list[Issue] = []
        self.broken: set[Path] = set()
        self.env_names: set[str] = set()
        self._env = env
        # None: declared, but without a usable value; that is reported where it is declared.
        self._variables: dict[str, ScalarNode | None] = {}
        self._spent = 0

    def define(self, variables: MapNode) -> None:
        """Give each variable its value; circles and lists are reported."""
        scalars: dict[str, ScalarNode] = {}
        for name, entry in variables.entries.items():
            self._variables[name] = None
            if isinstance(entry.value, ScalarNode):
                scalars[name] = entry.value
        needs = {
            name: [ref.name for ref in references(node.value) if not ref.env]
            for name, node in scalars.items()
        }
        for circle in find_cycles(needs):
            chain = " -> ".join(repr(name) for name in circle)
            self._fail(("vars", circle[0]), f"variables in a circle: {chain}")
            for name in circle[:-1]:
                self.broken.add(("vars", name))
                needs.pop(name, None)
        if find_cycles(needs, limit=1):
            return
        for name in TopologicalSorter(needs).static_order():
            if name in needs:
                node = self._scalar(scalars[name], ("vars", name))
                path: Path = ("vars", name)
                self._variables[name] = None if path in self.broken else node

    def resolved_entries(self, variables: MapNode) -> dict[str, Entry]:
        """The entries of `vars` with what their values came to."""
        return {
            name: Entry(name, entry.line, entry.column, self._variables.get(name) or entry.value)
            for name, entry in variables.entries.items()
        }

    def tree(self, node: Node, path: Path, *, skip: str = "") -> Node:
        """`node` with references replaced in it and below; untouched parts are shared."""
        if isinstance(node, ScalarNode):
            return self._scalar(node, path)
        if isinstance(node, ListNode):
            items = [self.tree(item, (*path, index)) for index, item in enumerate(node.items)]
            return ListNode(items, node.line, node.column)
        changed: dict[str, Entry] = {}
        for key, entry in node.entries.items():
            value = entry.value if key == skip else self.tree(entry.value, (*path, key))
            if value is not entry.value:
                changed[key] = Entry(key, entry.line, entry.column, value)
        return MapNode(node.entries | changed, node.line, node.column) if changed else node

    def _scalar(self, node: ScalarNode, path: Path) -> ScalarNode:
        text = node.value
        if not isinstance(text, str) or "${" not in text:
            return node
        whole = TOKEN.fullmatch(text)
        if whole is not None and whole[1] is not None:
            found = self._look_up(whole[1], path)
            if found is None:
                return node
            value, spelled = found
        else:
            spelled = TOKEN.sub(self._replacement(path), text)
            value = spelled
        self._spent += len(spelled)
        if self._spent > MAX_EXPANSION:
            self._fail(path, f"references bring in more than {MAX_EXPANSION:,} characters in all")
            return node
        return ScalarNode(value, spelled, node.line, node.column, False)

    def _replacement(self, path: Path) -> Callable[[re.Match[str]], str]:
        def replace(match: re.Match[str]) -> str:
            if match[0] == "$${":
                return "${"
            if self._spent > MAX_EXPANSION:
                return ""
            if match[1] is None:
                self._fail(path, "'${' is never closed", _HINT)
                return match[0]
            found = self._look_up(match[1], path)
            if found is None:
                return match[0]
            # Counted here too, or one string of many references could grow without bound.
            self._spent += len(found[1])
            return "" if found[0] is None else found[1]

        return replace

    def _look_up(self, inner: str, path: Path) -> tuple[Value, str] | None:
        """The value of `${inner}` and its spelling; None when there is none, which is reported."""
        reference = read_reference(inner)
        if reference is None:
            self._fail(path, f"{shown('${' + inner + '}')} is not a reference", _HINT)
            return None
        if reference.env:
            return self._environment(reference, path)
        if reference.name not in self._variables:
            message = f"unknown variable {shown(reference.name)}"
            enough = len(self.issues) > MAX_ISSUES
            hint = "" if enough else suggest(reference.name, self._variables)
            self._fail(path, message, hint or "declare it under 'vars'")
            return None
        node = self._variables[reference.name]
        if node is None:
            self.broken.add(path)
            return None
        return node.value, node.text

    def _environment(self, reference: Reference, path: Path) -> tuple[Value, str] | None:
        name = reference.name
        self.env_names.add(name)
        text = self._env.get(name)
        if not text and reference.default is not None:
            text = reference.default
        if text is None:
            hint = f"set it, or give a default: ${{env:{name}:-value}}"
            self._fail(path, f"the environment variable {name} is not set", hint)
            return None
        if "\0" in text or (not text.isascii() and _SURROGATE.search(text)):
            self._fail(path, f"the environment variable {name} is not valid UTF-8 text")
            return None
        try:
            # An empty variable is empty text: nobody sets one to say "null".
            return (read_scalar(text) if text else ""), text
        except OverflowError:
            return text, text

    def _fail(self, path: Path, message: str, hint: str = "") -> None:
        self.broken.add(path)
        self.issues.append(Issue(path, message, hint, key=False))
