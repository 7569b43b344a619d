"""Reads the table of flags from what `llama-server --help` prints.

An entry starts with `-` in column 0; its text stands from column 40, on the same line when the
head is short and below it otherwise:

    -c,    --ctx-size N                     size of the prompt context (default: 0, ...)
                                            (env: LLAMA_ARG_CTX_SIZE)

A text in another layout (a wrapper script's) yields few or no rows: then the table is not
`trusted`, and whoever checks against it should doubt rather than refuse.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from orchestrator.engines.flags import Flag, FlagTable, Kind, longest

TEXT_COLUMN = 40

_NAME = re.compile(r"(--?[A-Za-z0-9][A-Za-z0-9._+-]*)(,\s*|\s+|$)")
_ENV = re.compile(r"\(env: ([A-Z][A-Z0-9_]*)\)")
_DEFAULT = re.compile(r"default: '?([^\s,;()']+)")
_ALLOWED = re.compile(r"allowed values: ([^\s,]+(?:, [^\s,]+)*)")
_BULLET = re.compile(r"\s*- ([A-Za-z][\w+.-]*)(?: \([^)]*\))?:")
_QUOTED = re.compile(r"'([a-z][a-z0-9_+-]*)'")
_RANGE = re.compile(r"<(\d+)\.\.\.(\d+)>")
_PATH = re.compile(r"(FNAME|FILE|PATH|DIR|\w+_FILE)(:SCALE,\.\.\.)?")
_REMOVED = "the argument has been removed."
_EXITS = ("and exit", "show version", "print source-able", "show list of models in cache")
_FRACTIONS = ("rope", "yarn", "thold", "scale", "prob", "penalty", "temp")


def parse_help(text: str) -> FlagTable:
    """Read the table from what `llama-server --help` printed. Never fails: noise is passed over."""
    flags: list[Flag] = []
    lines = text.splitlines()
    at = 0
    while at < len(lines):
        head, first = _head_and_text(lines[at])
        at += 1
        if not head:
            continue
        body = [first] if first else []
        while at < len(lines) and lines[at].startswith(" " * TEXT_COLUMN):
            body.append(lines[at][TEXT_COLUMN:])
            at += 1
        flag = _entry(head, body)
        if flag is not None:
            flags.append(flag)
    return FlagTable(tuple(flags))


def _head_and_text(line: str) -> tuple[str, str]:
    """Split an entry's first line; an empty head says that no entry starts here."""
    if not line.startswith("-") or not _NAME.match(line):
        return "", ""
    # A head that reaches into the last columns before the text has its text on the next line.
    gap = line[TEXT_COLUMN - 3 : TEXT_COLUMN]
    if len(line) <= TEXT_COLUMN or gap.strip():
        return line.rstrip(), ""
    return line[:TEXT_COLUMN].rstrip(), line[TEXT_COLUMN:]


def _entry(head: str, body: Sequence[str]) -> Flag | None:
    names, metavar = _names(head)
    positive, negative = _sides(names, metavar)
    text = " ".join(line.strip() for line in body)
    key = longest(positive).lstrip("-")
    env = _ENV.search(text)
    removed = text.partition(_REMOVED)
    default = _DEFAULT.search(text)
    word = default[1] if default else ""
    comma = bool(metavar) and (",.." in metavar or metavar.count(",") > 2 or "comma-sep" in text)
    comma = comma and not metavar.startswith("{")
    number = "" if comma else _number(key, metavar, word)
    path = _PATH.fullmatch(metavar)
    remote = text.startswith("Hugging Face")
    bounds = _RANGE.fullmatch(metavar)
    return Flag(
        key=key,
        kind=_kind(metavar, negative),
        positive=positive,
        negative=negative,
        metavar=metavar,
        number=number,
        choices=_choices(metavar, text),
        words=_words(metavar, body, text, word, number=number),
        range=(int(bounds[1]), int(bounds[2])) if bounds else None,
        env=env[1] if env else "",
        removed=_ENV.sub("", removed[2]).strip() if removed[1] else "",
        comma=comma,
        path="" if not path or remote else "scaled" if path[2] else "path",
        exits=any(sign in text for sign in _EXITS),
        downloads="can download weights" in text,
    )


def _names(head: str) -> tuple[list[str], str]:
    """The spellings of a head, and what follows the last of them: the value's placeholder."""
    names: list[str] = []
    at = 0
    while match := _NAME.match(head, at):
        names.append(match[1])
        at = match.end()
        if not match[2].startswith(","):
            break
    return names, head[at:].strip()


def _sides(names: Sequence[str], metavar: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Positive and negative spellings: all that follows the last long positive one is negative.

    So `-kvo, --kv-offload, -nkvo, --no-kv-offload` is told apart although `-nkvo` has no `no-`,
    and a lone `--no-host` stays the positive flag that it is.
    """
    longs = [name for name in names if name.startswith("--")]
    affirmative = [name for name in longs if not name.startswith("--no-")]
    if metavar or not affirmative or len(affirmative) == len(longs):
        return tuple(names), ()
    cut = names.index(affirmative[-1]) + 1
    return tuple(names[:cut]), tuple(names[cut:])


def _kind(metavar: str, negative: Sequence[str]) -> Kind:
    if not metavar:
        return "pair" if negative else "bare"
    return "two" if re.fullmatch(r"[A-Z]\w*( [A-Z]\w*)+", metavar) else "value"


def _choices(metavar: str, text: str) -> tuple[str, ...]:
    """The closed enumerations: `[on|off]`, `<0|1>`, `{a,b}` and `allowed values: a, b`."""
    if re.fullmatch(r"(\[[^\[\]<>:/]+\]|<[^<>]+>)", metavar) and "|" in metavar:
        return tuple(metavar[1:-1].split("|"))
    if re.fullmatch(r"\{[^{}]+\}", metavar):
        return tuple(metavar[1:-1].split(","))
    allowed = _ALLOWED.search(text)
    return tuple(allowed[1].split(", ")) if allowed else ()


def _words(
    metavar: str, body: Sequence[str], text: str, default: str, *, number: str
) -> tuple[str, ...]:
    if number:
        return tuple(dict.fromkeys(_QUOTED.findall(text)))
    if metavar.count(",") > 2 and not re.search(r"[<\[{.]", metavar):
        return tuple(metavar.split(","))
    words = [match[1] for line in body if (match := _BULLET.match(line))]
    if words and re.fullmatch(r"[a-z][\w+-]*", default):
        words.append(default)
    return tuple(dict.fromkeys(words))


def _number(key: str, metavar: str, default: str) -> Literal["", "integer", "number"]:
    """Whether the value is a number, and a whole one: told by the placeholder and the default."""
    if re.fullmatch(r"-?\d+", default) and re.fullmatch(r"[A-Z]+", metavar):
        return "integer"
    if re.fullmatch(r"-?\d+\.\d*", default) and re.fullmatch(r"[A-Z]+", metavar):
        return "number"
    if metavar in ("PORT", "INDEX") or _RANGE.fullmatch(metavar):
        return "integer"
    if metavar == "N":
        return "number" if any(part in key for part in _FRACTIONS) else "integer"
    return ""
