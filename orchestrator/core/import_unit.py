"""The environment that a systemd unit gives its service, read from the unit's text alone."""

from __future__ import annotations

import re
import shlex

from msgspec import Struct, field

_ASSIGNMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.DOTALL)
_SPECIFIER = re.compile(r"%(.)")


class UnitEnvironment(Struct):
    """What was read so far. `files` are environment files still to be read, in their order;
    `unread` are lines that could not be, with the file that they stand in."""

    variables: dict[str, str] = field(default_factory=dict[str, str])
    files: list[str] = field(default_factory=list[str])
    user: str = ""
    unread: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])

    def unit(self, text: str, file: str, *, home: str) -> None:
        """Take a unit, or a drop-in of one: what comes later wins, empty forgets what was."""
        section = ""
        for number, line in _lines(text):
            if line.startswith("["):
                section = line
            key, _, value = line.partition("=")
            if section == "[Service]":
                self._setting(key.strip(), value.strip(), (file, number), home)

    def _setting(self, key: str, value: str, place: tuple[str, int], home: str) -> None:
        if key == "User":
            self.user = value
        elif key == "EnvironmentFile":
            self.files = [*self.files, value.removeprefix("-")] if value else []
        elif key == "Environment" and not value:
            self.variables.clear()
        elif key == "Environment":
            self._words(value, place, home)

    def _words(self, value: str, place: tuple[str, int], home: str) -> None:
        for word in _split(value):
            match = _ASSIGNMENT.fullmatch(word)
            plain = _unspecified(match[2], home) if match is not None else None
            if match is None or plain is None:
                self.unread.append(place)
            else:
                self.variables[match[1]] = plain

    def environment_file(self, text: str, file: str) -> None:
        """Take a file of `NAME=value` lines."""
        for number, line in _lines(text):
            match = _ASSIGNMENT.fullmatch(line)
            words = _split(match[2]) if match is not None else []
            if match is None:
                self.unread.append((file, number))
            else:
                self.variables[match[1]] = " ".join(words)


def _lines(text: str) -> list[tuple[int, str]]:
    """Lines that say something, with their numbers; a backslash at an end joins two."""
    found: list[tuple[int, str]] = []
    joined, start = "", 0
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip()[:1] in ("#", ";"):
            continue
        start = start or number
        if line.endswith("\\"):
            joined += f"{line[:-1]} "
            continue
        whole, first = (joined + line).strip(), start
        joined, start = "", 0
        if whole:
            found.append((first, whole))
    return found


def _split(value: str) -> list[str]:
    """The words of a line, quotes taken off; one that is never closed is no quote."""
    try:
        return shlex.split(value)
    except ValueError:
        return value.split()


def _unspecified(value: str, home: str) -> str | None:
    """`%%` and `%h` replaced; None for a specifier that only systemd knows."""
    if set(_SPECIFIER.findall(value)) - {"%", "h"}:
        return None
    return _SPECIFIER.sub(lambda match: home if match[1] == "h" else "%", value)
