"""Who may come in over TCP: the token, the cookie that stands for it, links that work once.

Everything is compared in constant time. The cookie is signed with the token, so it outlives a
daemon, and ends with the token.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable, Iterable

COOKIE = "orchestrate"
COOKIE_LASTS = 30 * 24 * 3600
"""Seconds."""

CODE_LASTS = 300
"""Seconds in which a one-time link is to be opened."""

MOST_CODES = 16

STRONG = 22
"""Characters from which on a token is taken for one that nobody can guess: 128 bits in base64."""


class Keys:
    """`token` is asked for when somebody comes, and made then if there is none yet."""

    def __init__(self, token: Callable[[], str], clock: Callable[[], float] = time.time) -> None:
        self._token_now = token
        self._clock = clock
        self._codes: dict[str, float] = {}

    @property
    def _token(self) -> bytes:
        return self._token_now().encode()

    @property
    def guessable(self) -> bool:
        """Whether somebody could come upon the token by trying."""
        return len(self._token) < STRONG

    def is_token(self, word: str) -> bool:
        return hmac.compare_digest(word.encode("utf-8", "replace"), self._token)

    def cookie(self) -> str:
        """A value for the cookie, good from now on for `COOKIE_LASTS` seconds."""
        expiry = str(int(self._clock()) + COOKIE_LASTS)
        return f"{expiry}.{self._signed(expiry)}"

    def is_cookie(self, value: str) -> bool:
        expiry, _, signature = value.partition(".")
        genuine = hmac.compare_digest(
            signature.encode("utf-8", "replace"), self._signed(expiry).encode()
        )
        return genuine and int(expiry) > self._clock()

    def _signed(self, expiry: str) -> str:
        what = f"orchestrate cookie {expiry}".encode("utf-8", "replace")
        return hmac.new(self._token, what, hashlib.sha256).hexdigest()

    def new_code(self) -> str:
        """A word that opens the door once, and soon."""
        now = self._clock()
        fresh = [(code, until) for code, until in self._codes.items() if until > now]
        self._codes = dict(fresh[-(MOST_CODES - 1) :])
        code = secrets.token_urlsafe(24)
        self._codes[code] = now + CODE_LASTS
        return code

    def take_code(self, word: str) -> bool:
        """Whether it is one that was given out; from then on it is not."""
        found = [code for code in self._codes if hmac.compare_digest(code, _ascii(word))]
        return any(self._codes.pop(code) > self._clock() for code in found)


def _ascii(word: str) -> str:
    """What can be compared: nothing that we gave out has anything else in it."""
    return word if word.isascii() else ""


def cookies(headers: Iterable[tuple[bytes, bytes]]) -> list[str]:
    """The values under our name, a few at most: other pages of this host may have set some."""
    found: list[str] = []
    for name, value in headers:
        if name == b"cookie":
            for part in value.decode("latin-1").split(";"):
                key, _, one = part.strip().partition("=")
                if key == COOKIE:
                    found.append(one)
    return found[:4]
