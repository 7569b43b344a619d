"""What is a secret, by its name, and how it is shown: never."""

from __future__ import annotations

import re
from collections.abc import Iterable

MASK = "***"

_WORDS = "KEY|TOKEN|SECRET|PASS(WORD|WD|PHRASE)?|CREDENTIAL|AUTH"
_SECRET = re.compile(rf"({_WORDS})S?($|[_-])|^HFT$", re.IGNORECASE)
_WORD = re.compile(f"{_WORDS}|HFT", re.IGNORECASE)
_NOT_SECRET = re.compile(r"(KEY[_-]FILE|[_-]FILE$|MAX[_-]TOKENS?$|TOKENS$)", re.IGNORECASE)


def is_secret_name(name: str) -> bool:
    """True for `LLAMA_API_KEY` and `api-key`, not for `ssl-key-file` or `max-tokens`."""
    return bool(_SECRET.search(name)) and not _NOT_SECRET.search(name)


def has_secret_word(text: str) -> bool:
    """False where no name in a text can be that of a secret: most texts need no closer look."""
    return bool(_WORD.search(text))


def masked_argv(argv: Iterable[str]) -> list[str]:
    """`argv` with the value of a secret flag hidden: raw `args:` may hold one."""
    shown: list[str] = []
    hide = False
    for word in argv:
        flag, equals, _ = word.partition("=")
        secret = word.startswith("-") and is_secret_name(flag.lstrip("-"))
        shown.append(MASK if hide else f"{flag}={MASK}" if secret and equals else word)
        hide = secret and not equals
    return shown
