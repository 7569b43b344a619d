"""What a terminal sends, as keys: a character as itself, all others by name."""

from __future__ import annotations

import codecs
import re

from msgspec import Struct

ENTER, ESCAPE, BACKSPACE, TAB = "enter", "escape", "backspace", "tab"

_SEQUENCE = re.compile(
    r"\x1b(?:\[(?P<csi>[0-?]*[ -/]*[@-~])|O(?P<ss3>[A-Za-z])|(?P<meta>[^\[O\x1b]))"
)
_BEGUN = re.compile(r"\x1b(?:\[[0-?]*[ -/]*|O)?$")
_ENDINGS = {"A": "up", "B": "down", "C": "right", "D": "left", "H": "home", "F": "end"}
_NUMBERS = {"1": "home", "4": "end", "5": "page-up", "6": "page-down", "7": "home", "8": "end"}
_CONTROLS = {"\r": ENTER, "\n": ENTER, "\x7f": BACKSPACE, "\x08": BACKSPACE, "\t": TAB}
_PASTE, _PASTED = "\x1b[200~", "\x1b[201~"
_MODE = re.compile(r"\?(\d+);(\d)\$y")


class Pasted(Struct, frozen=True):
    """Text that was not typed: whatever is in it, it is no key."""

    text: str


class Offered(Struct, frozen=True):
    """What the terminal says of a mode that it was asked about."""

    mode: int
    known: bool


Key = str | Pasted | Offered


class Keys:
    """Takes bytes as they come, however they are cut."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""

    @property
    def open(self) -> bool:
        """Whether what has come may be the beginning of something longer: an escape, by itself,
        is a key."""
        return bool(self._rest)

    def feed(self, data: bytes) -> list[Key]:
        """The keys that are complete."""
        text = self._rest + self._decoder.decode(data)
        self._rest = ""
        keys: list[Key] = []
        while text:
            if text.startswith(_PASTE):
                pasted, end, after = text.removeprefix(_PASTE).partition(_PASTED)
                if not end:
                    self._rest = text
                    break
                keys.append(Pasted(pasted))
                text = after
            elif text[0] == "\x1b":
                match = _SEQUENCE.match(text)
                if match is None:
                    if _BEGUN.match(text):
                        self._rest = text
                        break
                    keys.append(ESCAPE)
                    text = text[1:]
                    continue
                keys += _of_sequence(match)
                text = text[match.end() :]
            else:
                keys.append(_of_character(text[0]))
                text = text[1:]
        return keys

    def flush(self) -> list[Key]:
        """Nothing more came: what looked like a beginning is all there is."""
        rest, self._rest = self._rest, ""
        if rest.startswith(_PASTE):
            self._rest = rest
            return []
        return [ESCAPE] if rest == "\x1b" else []


def _of_character(character: str) -> Key:
    if character in _CONTROLS:
        return _CONTROLS[character]
    if character < " ":
        return f"ctrl-{chr(ord(character) + 96)}"
    return character


def _of_sequence(match: re.Match[str]) -> list[Key]:
    """None for what is not known here."""
    if match["meta"]:
        # Escape, and at once another key: both were pressed.
        return [ESCAPE, _of_character(match["meta"])]
    said = match["csi"] or match["ss3"]
    if mode := _MODE.fullmatch(said):
        return [Offered(int(mode[1]), mode[2] in "12")]
    number, _, _ = said[:-1].partition(";")
    name = _NUMBERS.get(number) if said[-1] == "~" else _ENDINGS.get(said[-1])
    return [name] if name else []
