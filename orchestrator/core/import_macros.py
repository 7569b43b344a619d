"""The macros of llama-swap: `${name}`, replaced as it replaces them, within bounds.

The last one that was declared is replaced first, so one may name those before it. `${env.NAME}`
becomes a mark before the file is read as YAML, since llama-swap replaces it there; `${PORT}` one
that says "the port of this model, whatever it is".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.core.import_draft import CLOSE, OPEN, PORT

MAX_EXPANSION = 1 << 20
"""Characters that all macros of a file may bring in together."""

_ENV = re.compile(r"\$\{env\.([A-Za-z_][A-Za-z0-9_]*)\}")
_LEFT = re.compile(r"\$\{([A-Za-z0-9_-]+)\}")


class TooMuchError(Exception):
    """The macros of a file bring in more than they may."""


@dataclass(slots=True)
class Macros:
    """What stands for what, in the order of declaration. `spent` is shared by one file."""

    values: Mapping[str, str]
    spent: list[int]

    def expanded(self, text: str) -> str:
        """`text` with its macros replaced. Raises `TooMuchError`."""
        if "${" not in text:
            return text
        for name, value in reversed(tuple(self.values.items())):
            token = f"${{{name}}}"
            count = text.count(token)
            if count:
                self.spent[0] += count * len(value)
                if self.spent[0] > MAX_EXPANSION:
                    raise TooMuchError
                text = text.replace(token, value)
        return text.replace("${PORT}", PORT)


def env_marked(text: str) -> str:
    """`${env.NAME}` as marks, just as long: places in the text stay what they are."""
    return _ENV.sub(lambda match: f"{OPEN * 6}{match[1]}{CLOSE}", text)


def unknown_macro(text: str) -> str:
    """The first macro of an expanded text that nothing stands for; empty if there is none."""
    match = _LEFT.search(text)
    return match[1] if match is not None and match[1] != "PID" else ""


def scoped(model: str, everywhere: Mapping[str, str], own: Mapping[str, str]) -> dict[str, str]:
    """The macros of one model: its own take the place of those with the same name."""
    return {"MODEL_ID": model, **everywhere, **own}
