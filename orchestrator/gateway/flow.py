"""What an answer says of itself as it passes by: how much of it there is, and how many tokens.

A piece costs a search for line ends and a copy of its last bytes; nothing is parsed until the
answer is over. What is counted is the same however the answer is cut into pieces.
"""

from __future__ import annotations

import re
from typing import NamedTuple

HEAD = 768
"""Bytes of the beginning that are looked at: Anthropic and embeddings tell of the prompt there."""

TAIL = 1024
"""Bytes of the end that are looked at: everybody else tells of all tokens there."""

SLACK = 512
"""Bytes that come together before the oldest are let go of; every stream under way keeps them."""

MOST = 10**8
"""Tokens that one answer may claim: a server elsewhere says what it likes."""

# The quotes of a key cannot be mistaken for a part of what was generated: there they are escaped.
_COUNT = re.compile(
    rb'"(completion_tokens|output_tokens|eval_count|predicted_n'
    rb"|prompt_tokens|input_tokens|cache_read_input_tokens|cache_creation_input_tokens"
    rb'|prompt_eval_count|prompt_n|cache_n)"\s*:\s*(\d{1,12})(?=[\s,}\]])'
)

_MARKS = (b'"usage"', b'"timings"', b'"prompt_eval_count"', b'"eval_count"')
"""Behind the last of each stand the counts: what is before is not looked at."""

_GENERATED = ("completion_tokens", "output_tokens", "eval_count", "predicted_n")
"""OpenAI's, Anthropic's and of `/v1/responses`, Ollama's, llama-server's own."""

_PROMPT = (
    ("prompt_tokens",),
    ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"),
    ("prompt_eval_count",),
    ("prompt_n", "cache_n"),
)
"""The first that is said counts, with what had been in the cache."""


class Tokens(NamedTuple):
    """Of one answer; None where nothing says."""

    prompt: int | None = None
    generated: int | None = None


class Flow:
    """The body of one answer, passing by. `counts`: its lines are tokens, nearly one for one."""

    __slots__ = ("_head", "_tail", "counts", "lines")

    def __init__(self, *, counts: bool = False) -> None:
        self.counts = counts
        self.lines = 0
        self._head = b""
        self._tail = bytearray()

    def take(self, piece: bytes) -> None:
        """The next piece."""
        self.lines += piece.count(b"\n")
        if len(self._head) < HEAD:
            self._head += piece[: HEAD - len(self._head)]
        tail = self._tail
        tail += piece
        if len(tail) > TAIL + SLACK:
            del tail[:-TAIL]

    @property
    def events(self) -> int:
        """How many events of a stream have passed; 0 where these would say nothing."""
        if not self.counts:
            return 0
        # With an `event:` before the `data:` and an empty line behind; with the latter; or neither.
        begin = self._head[:6]
        return self.lines // (3 if begin == b"event:" else 1 if begin[:1] == b"{" else 2)

    def tokens(self, *, whole: bool) -> Tokens:
        """As the server says, at the end of the answer. Where it does not say what it generated, or
        was not heard to the end, the events of a stream are taken for tokens."""
        said = _said(bytes(self._tail[-TAIL:]))
        prompt = _prompt(said)
        if prompt is None:
            said = _said(self._head) | said
            prompt = _prompt(said)
        generated = next((said[key] for key in _GENERATED if key in said), None)
        if self.counts and (generated is None or not whole):
            generated = max(generated or 0, self.events)
        return Tokens(prompt, generated)


def _prompt(said: dict[str, int]) -> int | None:
    keys = next((keys for keys in _PROMPT if keys[0] in said), None)
    return sum(said.get(key, 0) for key in keys) if keys is not None else None


def _said(text: bytes) -> dict[str, int]:
    """What is said last of each."""
    begins = [at for at in map(text.rfind, _MARKS) if at >= 0]
    if not begins:
        return {}
    found = _COUNT.findall(text, min(begins))
    return {key.decode(): min(int(value), MOST) for key, value in found}
