"""The text of a Modelfile taken apart, as Ollama's own parser takes it apart.

What Ollama drops without a word (characters that cannot be printed) is dropped here too.
"""

from __future__ import annotations

from msgspec import Struct

INSTRUCTIONS = (
    "from",
    "license",
    "template",
    "system",
    "adapter",
    "draft",
    "renderer",
    "parser",
    "parameter",
    "message",
    "requires",
)
ROLES = ("system", "user", "assistant")


class ModelfileError(ValueError):
    """What is wrong with a Modelfile, and in which of its lines (0: in none of them)."""

    def __init__(self, message: str, line: int = 0) -> None:
        super().__init__(f"line {line}: {message}" if line else message)
        self.message = message
        self.line = line


class Instruction(Struct, frozen=True):
    """One of them: its name in small letters (that of a parameter itself), and what it says."""

    name: str
    value: str
    line: int
    parameter: bool = False


def read_instructions(text: str) -> list[Instruction]:
    """All of them, in their order. Raises `ModelfileError`."""
    return _Reader(text).instructions()


class _Reader:
    """Character by character, as in Ollama's own parser: values end with the line, quoted ones
    with their quotes."""

    def __init__(self, text: str) -> None:
        self._text = text.removeprefix("\ufeff")
        self._at = 0
        self._line = 1

    def instructions(self) -> list[Instruction]:
        found: list[Instruction] = []
        while self._skip_to_a_word():
            line = self._line
            name = self._word().lower()
            if name in INSTRUCTIONS and self._peek() in ("\n", "\r", None):
                raise ModelfileError(f"nothing comes after {name.upper()}", line)
            if name not in INSTRUCTIONS or self._peek() not in (" ", "\t"):
                message = f"expected one of {', '.join(INSTRUCTIONS).upper()}"
                raise ModelfileError(message, line)
            self._advance()
            found.append(self._instruction(name, line))
        return found

    def _instruction(self, name: str, line: int) -> Instruction:
        if name == "parameter":
            parameter = self._second_word("PARAMETER and its name", line, digits=True)
            return Instruction(parameter, self._value(line), line, parameter=True)
        if name == "message":
            role = self._second_word("MESSAGE and its role", line)
            if role not in ROLES:
                message = f"the role of a message is {', '.join(ROLES)}, not {role!r}"
                raise ModelfileError(message, line)
            return Instruction(name, f"{role}: {self._value(line)}", line)
        return Instruction(name, self._value(line), line)

    def _skip_to_a_word(self) -> bool:
        while (character := self._peek()) is not None:
            if character == "#":
                while self._peek() not in (None, "\n", "\r"):
                    self._advance()
            elif character in " \t\n\r":
                self._advance()
            else:
                return True
        return False

    def _word(self, *, digits: bool = False) -> str:
        start = self._at
        while (character := self._peek()) is not None:
            more = digits and (character in "_0123456789")
            if not (character.isascii() and character.isalpha()) and not more:
                break
            self._advance()
        return self._text[start : self._at]

    def _second_word(self, between: str, line: int, *, digits: bool = False) -> str:
        word = self._word(digits=digits)
        if not word and self._peek() in (" ", "\t"):
            raise ModelfileError(f"Ollama wants exactly one space between {between}", line)
        if not word or self._peek() not in (" ", "\t"):
            raise ModelfileError("this line is not complete", line)
        self._advance()
        return word

    def _value(self, line: int) -> str:
        said: list[str] = []
        end = 0
        while True:
            character = self._peek()
            if character in ("\n", "\r", None):
                if _is_closed(said, end):
                    return _unquoted("".join(said[:end]))
                if character is None:
                    raise ModelfileError("a quote that is opened here is never closed", line)
                said.append(character)
            elif (said or not character.isspace()) and (
                character.isprintable() or character == "\t"
            ):
                said.append(character)
                end = end if character.isspace() else len(said)
            self._advance()

    def _peek(self) -> str | None:
        return self._text[self._at] if self._at < len(self._text) else None

    def _advance(self) -> None:
        self._line += self._text[self._at] == "\n"
        self._at += 1


def _is_closed(said: list[str], end: int) -> bool:
    """False while a quote is open. `end` is where blanks begin that do not count."""
    head, tail = "".join(said[:3]), "".join(said[max(end - 3, 0) : end])
    if head == '"""':
        return end >= 6 and tail == '"""'
    return head[:1] != '"' or (end >= 2 and tail[-1:] == '"')


def _unquoted(text: str) -> str:
    for quote in ('"""', '"'):
        if text.startswith(quote):
            return text[len(quote) : -len(quote)]
    return text
