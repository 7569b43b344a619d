"""The text of an imported profile: YAML, with what is to be said of it as comments at the place."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from orchestrator.core.import_draft import GONE, Imported, Remark, spelled
from orchestrator.core.problem import Path

WIDTH = 100
_PLAIN = re.compile(r"(\.{0,2}/)?[A-Za-z]([\w./:-]*\w)?", re.ASCII)
_WORDS = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n"})
KINDS = {"lost": "not carried over", "changed": "note"}


def render(imported: Imported, head: Sequence[str]) -> str:
    """The profile's text; `head` are the lines of its first comment."""
    said = _placed(imported)
    lines = [line for one in head for line in _comment(one, 0)]
    lines += _remarks(said.pop((), []), 0)
    document = imported.document
    for key, value in document.items():
        lines += ["", *_entry(key, value, (key,), 0, said)]
    return "\n".join(lines) + "\n"


def _placed(imported: Imported) -> dict[Path, list[Remark]]:
    """Remarks by where they are said: at their place, or at the nearest one above it."""
    placed: dict[Path, list[Remark]] = {}
    for remark in imported.remarks:
        at = remark.at
        while at and not _is_there(imported.document, at):
            at = at[:-1]
        placed.setdefault(at, []).append(remark)
    return placed


def _is_there(document: Mapping[str, Any], at: Path) -> bool:
    node: Any = document
    for part in at:
        if not isinstance(node, Mapping) or part not in node:
            return False
        node = cast("Mapping[Any, Any]", node)[part]
    return True


def _entry(
    key: str, value: Any, path: Path, depth: int, said: dict[Path, list[Remark]]
) -> Iterator[str]:
    """A key with its value, and before it what is said of it."""
    yield from _remarks(said.pop(path, []), depth)
    if value is GONE:
        return
    start = f"{'  ' * depth}{_text(key)}:"
    if isinstance(value, Mapping) and value:
        yield start
        yield from _remarks(said.pop((*path, ""), []), depth + 1)
        for name, one in cast("Mapping[str, Any]", value).items():
            yield from _entry(name, one, (*path, name), depth + 1, said)
        if all(one is GONE for one in cast("Mapping[str, Any]", value).values()):
            yield f"{'  ' * (depth + 1)}{{}}"
        return
    if isinstance(value, list) and value:
        items = [_scalar(spelled(one)) for one in cast("list[Any]", value)]
        line = f"{start} [{', '.join(items)}]"
        if len(line) <= WIDTH:
            yield line
            return
        yield start
        yield from (f"{'  ' * (depth + 1)}- {item}" for item in items)
        return
    yield f"{start} {_scalar(spelled(value))}"


def _remarks(remarks: Sequence[Remark], depth: int) -> Iterator[str]:
    for remark in remarks:
        yield from _comment(f"{KINDS[remark.kind]}: {told(remark)}", depth)


def told(remark: Remark) -> str:
    """A remark in one sentence, what it is about first."""
    return f"{remark.path}: {remark.message}" if remark.path else remark.message


def _comment(text: str, depth: int) -> list[str]:
    """`text` as a comment that holds nothing which could end it."""
    start = f"{'  ' * depth}# "
    plain = "".join(one if one.isprintable() else "?" for one in text)
    return textwrap.wrap(
        plain,
        WIDTH,
        initial_indent=start,
        subsequent_indent=f"{start}  ",
        break_on_hyphens=False,
        break_long_words=False,
    )


def _scalar(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | Mapping):
        return "[]" if isinstance(value, list) else "{}"
    return _text(str(value))


def _text(text: str) -> str:
    """Plain where that is safe, else as a JSON string, which YAML reads too."""
    if _PLAIN.fullmatch(text) and text.casefold() not in _WORDS:
        return text
    quoted = json.dumps(text, ensure_ascii=False)
    return quoted if quoted.isprintable() else "".join(map(_character, quoted))


def _character(one: str) -> str:
    """Pairs of halves, as JSON escapes what is beyond four digits, are nothing that YAML reads."""
    code = ord(one)
    return one if one.isprintable() else f"\\u{code:04x}" if code < 1 << 16 else f"\\U{code:08x}"
