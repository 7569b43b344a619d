"""What a YAML document is made of: nodes that know where they stand, and YAML 1.2 core scalars.

Owned by `document`, which builds the tree, and read by `interpolate` and `parse`. Loads neither
yaml nor pydantic, so whoever only looks for `${env:...}` names pays for neither.
"""

from __future__ import annotations

import re

from msgspec import Struct

from orchestrator.core.problem import Path

Value = str | int | float | bool | None
"""What a scalar may be."""

Plain = Value | list["Plain"] | dict[str, "Plain"]
"""A tree with no positions left."""


class ScalarNode(Struct):
    """One value. `text` is how it is spelled, so that `1.10` can stay `1.10` where text is meant.

    `plain` is True when it was written in the file without quotes, and not put together from
    references.
    """

    value: Value
    text: str
    line: int
    column: int
    plain: bool


class ListNode(Struct):
    """A sequence, at its first item or its opening bracket."""

    items: list[Node]
    line: int
    column: int


class Entry(Struct):
    """A key of a mapping: `line` and `column` are the key's own, the value has its own."""

    key: str
    line: int
    column: int
    value: Node


class MapNode(Struct):
    """A mapping in the order of the document; what a `<<` brings in comes last."""

    entries: dict[str, Entry]
    line: int
    column: int


Node = ScalarNode | ListNode | MapNode


def plain(node: Node) -> Plain:
    """The value of `node` and all below it, positions dropped."""
    if isinstance(node, ScalarNode):
        return node.value
    if isinstance(node, ListNode):
        return [plain(item) for item in node.items]
    return {key: plain(entry.value) for key, entry in node.entries.items()}


def locate(root: Node, path: Path, *, key: bool) -> tuple[int, int]:
    """Line and column of what `path` names, or of its nearest ancestor in the document.

    `key`: of the key at `path` rather than of its value. An ancestor is always shown by its key,
    for its value is not what is meant.
    """
    node, found = root, (root.line, root.column)
    for depth, part in enumerate(path, start=1):
        last = depth == len(path)
        if isinstance(node, MapNode) and part in node.entries:
            entry = node.entries[str(part)]
            node, found = entry.value, (entry.line, entry.column)
        elif isinstance(node, ListNode) and isinstance(part, int) and part < len(node.items):
            node = node.items[part]
            found = (node.line, node.column)
        else:
            return found
        if last and not key:
            return node.line, node.column
    return found


_NUMBER_STARTS = frozenset("+-.0123456789")
_WORDS: dict[str, Value] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_INTEGER = re.compile(r"[-+]?[0-9]+")
_BASED = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"([-+]?)\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_LONGEST_NUMBER = 1000
"""Characters. Python refuses to print much longer ones, and no setting needs them."""


def read_scalar(text: str) -> Value:
    """What `text`, written without quotes, means by the core schema of YAML 1.2.

    So `on`, `12:30` and `1_000` are text, and `010` is ten. Raises OverflowError for a number
    beyond what can be held.
    """
    if text in _WORDS:
        return _WORDS[text]
    if text[0] not in _NUMBER_STARTS:
        return text
    if _INTEGER.fullmatch(text) or _BASED.fullmatch(text):
        if len(text) > _LONGEST_NUMBER:
            raise OverflowError(f"a number of {len(text)} digits is too large")
        return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
    if _FLOAT.fullmatch(text):
        number = float(text)
        if number in (float("inf"), float("-inf")):
            raise OverflowError("the number is too large")
        return number
    special = _NOT_FINITE.fullmatch(text)
    if special is None:
        return text
    return float("nan") if special[1] is None else float(f"{special[1]}inf")


def shown(value: object, *, limit: int = 40) -> str:
    """A value as a message names it: `'soon'`, `true`, `a list`, `nothing`."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return repr(value if len(value) <= limit else value[: limit - 3] + "...")
    if isinstance(value, int | float):
        digits = str(value)
        return digits if len(digits) <= limit else digits[: limit - 3] + "..."
    return "a list" if isinstance(value, list) else "a mapping"
