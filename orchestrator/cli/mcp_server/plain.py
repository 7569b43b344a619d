"""Text from outside, as it may be shown: without what steers a terminal, without secrets."""

from __future__ import annotations

import re
from typing import Any

import yaml

from orchestrator.core.secret import MASK, is_secret_name

_ESCAPE = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?"
    r"|[PX^_][^\x1b]*(?:\x1b\\)?|[ -/]*[0-~])"
    r"|\x9b[0-?]*[ -/]*[@-~]"
)
_CONTROL = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]"
)
"""Controls but for line feed and tab; what turns the direction of writing; halves of characters,
which no UTF-8 can hold. Joiners stay: scripts and pictures need them."""

_SECRET_LINE = re.compile(r"^(\s*(?:-\s+)?[\"']?([\w.-]+)[\"']?\s*[:=]\s*)(\S.*)$", re.MULTILINE)
_REFERENCE = re.compile(r"\$\{env:\w+\}")


def plain(text: str) -> str:
    """Lines of text that can do no harm: escapes are gone, other controls are marked."""
    text = _ESCAPE.sub("", text).replace("\r\n", "\n").replace("\r", "\n")
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def tidy(value: Any) -> Any:
    """A document with every text in it made plain."""
    if isinstance(value, str):
        return plain(value)
    if isinstance(value, dict):
        return {tidy(key): tidy(one) for key, one in value.items()}  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, list | tuple):
        return [tidy(one) for one in value]  # pyright: ignore[reportUnknownVariableType]
    return value


def without_secrets(text: str) -> str:
    """YAML with the values of keys that name a secret hidden; references stay as they are."""
    try:
        # The C loader's marks count bytes in some versions; these count characters.
        loader: Any = yaml.SafeLoader(text)
        root: Any = loader.get_single_node()
    except (yaml.YAMLError, ValueError, RecursionError):
        return lines_without_secrets(text)
    spans: set[tuple[int, int]] = set()
    _collect(root, spans, hidden=False, seen=set[tuple[int, bool]]())
    for start, end in sorted(spans, reverse=True):
        value = text[start:end]
        if value.strip() and not _REFERENCE.fullmatch(value.strip("\"' \n")):
            # A block ends where the next line begins.
            line_end = "\n" if value.endswith("\n") else ""
            text = f"{text[:start]}{MASK}{line_end}{text[end:]}"
    return text


def lines_without_secrets(text: str) -> str:
    """The same for what is no YAML: line by line, by the word before the colon."""
    return _SECRET_LINE.sub(
        lambda found: f"{found[1]}{MASK}" if is_secret_name(found[2]) else found[0], text
    )


def _collect(
    node: Any, spans: set[tuple[int, int]], *, hidden: bool, seen: set[tuple[int, bool]]
) -> None:
    """The places of all scalars below a secret key, and of words that follow a secret flag."""
    if node is None or (id(node), hidden) in seen:
        return
    seen.add((id(node), hidden))
    if isinstance(node, yaml.ScalarNode):
        if hidden:
            spans.add((node.start_mark.index, node.end_mark.index))
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            secret = isinstance(key, yaml.ScalarNode) and is_secret_name(str(key.value))
            _collect(value, spans, hidden=hidden or secret, seen=seen)
    elif isinstance(node, yaml.SequenceNode):
        follows = False
        for one in node.value:
            word = str(one.value) if isinstance(one, yaml.ScalarNode) else ""
            flag, equals, _ = word.partition("=")
            secret = word.startswith("-") and is_secret_name(flag.lstrip("-"))
            _collect(one, spans, hidden=hidden or follows or (secret and bool(equals)), seen=seen)
            follows = secret and not equals
