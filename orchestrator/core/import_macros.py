"""The macros of llama-swap: `${name}`, replaced as it replaces them, within bounds.

A macro may name those that were declared before it. One of a model takes the place of the one of
that name which all models have. `${env.NAME}` becomes a mark before the file is read as YAML, since
llama-swap replaces it there; `${PORT}` one that says "the port of this model, whatever it is".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from msgspec import Struct, field

from orchestrator.core.import_draft import CLOSE, OPEN, PORT

MAX_EXPANSION = 1 << 20
"""Characters that all macros of a file may bring in together."""
MAX_DEPTH = 64
"""Macros within macros."""

_ENV = re.compile(r"\$\{env\.([A-Za-z_][A-Za-z0-9_]*)\}")
_MACRO = re.compile(r"\$\{([A-Za-z0-9_-]+)\}")
_MODEL_ID = "MODEL_ID"


class TooMuchError(Exception):
    """The macros of a file bring in more than they may."""


class Spent(Struct):
    """What the macros of one file brought in so far."""

    characters: int = 0

    def more(self, count: int) -> None:
        """Count some more. Raises `TooMuchError`."""
        self.characters += count
        if self.characters > MAX_EXPANSION:
            raise TooMuchError


class Macros(Struct, frozen=True):
    """What stands for what: for all models, and for the one called `model`."""

    everywhere: Mapping[str, str]
    spent: Spent
    order: Mapping[str, int]
    own: Mapping[str, str] = field(default_factory=dict[str, str])
    own_order: Mapping[str, int] = field(default_factory=dict[str, int])
    model: str = ""

    @classmethod
    def declared(cls, values: Mapping[str, str]) -> Macros:
        """Those that all models have, in the order of their declarations."""
        return cls(values, Spent(), _numbered(values, 0))

    def of_model(self, model: str, own: Mapping[str, str]) -> Macros:
        """These, as a model with macros of its own has them. Its own that no other has come last,
        the others in the place of their namesakes."""
        places = {
            **_numbered(own, len(self.order)),
            **{n: self.order[n] for n in own if n in self.order},
        }
        return Macros(self.everywhere, self.spent, self.order, own, places, model)

    def expanded(self, text: str) -> str:
        """`text` with its macros replaced. Raises `TooMuchError`."""
        most = len(self.everywhere) + len(self.own)
        return self._expanded(text, most, 0).replace("${PORT}", PORT)

    def _expanded(self, text: str, below: int, depth: int) -> str:
        if "${" not in text:
            return text
        if depth > MAX_DEPTH:
            raise TooMuchError

        def replace(match: re.Match[str]) -> str:
            name = match[1]
            if name == _MODEL_ID and self.model:
                return self.model
            at = self.own_order.get(name, self.order.get(name))
            if at is None or at >= below:
                return match[0]
            value = self.own.get(name, self.everywhere.get(name, ""))
            whole = self._expanded(value, at, depth + 1)
            self.spent.more(len(whole) + 1)
            return whole

        return _MACRO.sub(replace, text)


def _numbered(names: Iterable[str], start: int) -> dict[str, int]:
    return {name: at for at, name in enumerate(names, start=start)}


def env_marked(text: str) -> str:
    """`${env.NAME}` as marks, just as long: places in the text stay what they are."""
    return _ENV.sub(lambda match: f"{OPEN * 6}{match[1]}{CLOSE}", text)


def unknown_macro(text: str) -> str:
    """The first macro of an expanded text that nothing stands for; empty if there is none."""
    return next((one for one in _MACRO.findall(text) if one != "PID"), "")
