"""Where secrets stand in text that is shown as it is written: a line of a profile beside what is
wrong with it, or a profile that is no YAML. Pure.

By the look of it alone, for it may be anything: what follows a word that names a secret, up to
where it ends for certain. Rather too much is hidden than too little.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from orchestrator.core.secret import has_secret_word, is_secret_name

LONGEST = 4096
"""Characters of a line that are looked at; what is beyond is hidden."""

_NAME = re.compile(
    r"(?P<flag>-{1,2})?\b(?P<name>[A-Za-z_][\w.-]*)[\"']?(?P<then>\s*[:=]|\s*,|\s|$)"
)
_REFERENCE = re.compile(r"([\"']?)\$\{(?:env:)?[A-Za-z_][\w-]*\}\1(?=\s*(?:[,}\]]|\s#|$))")
_BLOCK = re.compile(r"[|>][-+\d]*\s*(#.*)?")


def secret_spans(lines: Sequence[str]) -> Iterator[tuple[int, int, int]]:
    """Line (from 0), begin and end of what must not be shown, in order."""
    number = 0
    while number < len(lines):
        line, open_flag, opens = lines[number][:LONGEST], False, False
        for start, end, flag in _spans(line) if has_secret_word(line) else ():
            if start == end:
                opens, open_flag = True, flag
            else:
                yield number, start, end
        if len(line) < len(lines[number]):
            # Nobody reads so far.
            yield number, LONGEST, len(lines[number])
        number += 1
        if opens:
            for start, end in _continued(lines, number, _indent(line), flag=open_flag):
                yield number, start, end
                number += 1


def masked_lines(lines: Sequence[str]) -> list[str]:
    """The lines, as far as they are shown, without secrets. Nothing moves: a caret still fits."""
    shown = [line[:LONGEST] for line in lines]
    for number, start, end in secret_spans(shown):
        line = shown[number]
        shown[number] = line[:start] + "*" * (end - start) + line[end:]
    return shown


def _spans(line: str) -> Iterator[tuple[int, int, bool]]:
    """Begin and end of each value of a secret, and whether it is that of a flag; an empty one at
    the end of the line where it goes on in the next."""
    at = 0
    while found := _NAME.search(line, at):
        at = max(found.end("name"), at + 1)
        flag, then = bool(found["flag"]), found["then"].strip()
        if not is_secret_name(found["name"]) or (not flag and then not in (":", "=")):
            continue
        begin = found.end()
        begin += len(line[begin:]) - len(line[begin:].lstrip())
        rest = line[begin:]
        if not rest or rest.startswith("#") or _BLOCK.fullmatch(rest):
            yield len(line), len(line), flag and not then.startswith((":", "="))
            return
        if reference := _REFERENCE.match(rest):
            at = begin + reference.end()
            continue
        at = begin + _length(rest, in_flow=bool(re.search(r"[{\[]", line[:begin])))
        yield begin, at, flag


def _length(value: str, *, in_flow: bool) -> int:
    """Of what stands there first: quoted, up to what ends it in `{}` and `[]`, or all of it."""
    if value[0] in "\"'":
        quoted = re.match(r"\"(?:[^\"\\]|\\.)*\"|'(?:[^']|'')*'", value)
        return quoted.end() if quoted else len(value)
    end = re.search(r"\s#|[,}\]]" if in_flow and value[0] not in "{[" else r"\s#", value)
    return len(value[: end.start()].rstrip()) if end else len(value.rstrip())


def _continued(
    lines: Sequence[str], number: int, indent: int, *, flag: bool
) -> Iterator[tuple[int, int]]:
    """What belongs to a secret whose value begins in the next line: of a flag the next word, else
    all that stands deeper."""
    for line in lines[number:]:
        begin = _indent(line)
        if flag:
            dash = re.match(r"\s*-\s+", line)
            yield (dash.end() if dash else begin), len(line)
            return
        if line.strip() and begin <= indent:
            return
        yield begin, len(line)


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())
