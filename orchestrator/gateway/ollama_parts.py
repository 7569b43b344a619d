"""What a llama-server said, piece by piece: text, thinking, calls, counts. Pure, and distrustful:
what is of the wrong type is not there."""

from __future__ import annotations

import math
from typing import cast

from msgspec import Struct, field

from orchestrator.gateway.ollama_ask import Form, Json

_REASONS = {"stop": "stop", "eos": "stop", "word": "stop", "limit": "length", "length": "length"}
"""Why an answer ended, in Ollama's words; what is not here is a stop."""


class Part(Struct):
    """A piece of an answer, or what is known of it in all. Seconds; `reason` is why it ended."""

    text: str = ""
    thinking: str = ""
    calls: list[Json] = field(default_factory=list[Json])
    logprobs: list[Json] = field(default_factory=list[Json])
    reason: str = ""
    last: bool = False
    tokens: int = 0
    tokens_s: float = 0.0
    prompt_tokens: int = 0
    prompt_s: float = 0.0

    def add(self, part: Part) -> None:
        """What is known after another piece, but for what was said: that has gone on."""
        self.reason = part.reason or self.reason
        self.tokens = part.tokens or self.tokens
        self.tokens_s = part.tokens_s or self.tokens_s
        self.prompt_tokens = part.prompt_tokens or self.prompt_tokens
        self.prompt_s = part.prompt_s or self.prompt_s


def part_of(said: object, form: Form) -> Part:
    """One event of a stream, or a whole answer."""
    return _completion(said) if form == "completion" else _chat(said)


def _chat(said: object) -> Part:
    choices = objects(said, "choices")
    choice: Json = choices[0] if choices else {}
    message = _object(choice, "delta") or _object(choice, "message")
    usage, timings = _object(said, "usage"), _object(said, "timings")
    reason = _text(choice, "finish_reason")
    return Part(
        text=_text(message, "content"),
        thinking=_text(message, "reasoning_content"),
        calls=objects(message, "tool_calls"),
        logprobs=objects(_object(choice, "logprobs"), "content"),
        reason=_REASONS.get(reason, "stop") if reason else "",
        tokens=_count(usage, "completion_tokens") or _count(timings, "predicted_n"),
        tokens_s=_number(timings, "predicted_ms") / 1000,
        prompt_tokens=_count(usage, "prompt_tokens")
        or _count(timings, "prompt_n") + _count(timings, "cache_n"),
        prompt_s=_number(timings, "prompt_ms") / 1000,
    )


def _completion(said: object) -> Part:
    timings = _object(said, "timings")
    over = _at(said, "stop") is True
    return Part(
        text=_text(said, "content"),
        reason=_REASONS.get(_text(said, "stop_type"), "stop") if over else "",
        last=over,
        tokens=_count(said, "tokens_predicted") if over else 0,
        tokens_s=_number(timings, "predicted_ms") / 1000,
        prompt_tokens=_count(said, "tokens_evaluated") if over else 0,
        prompt_s=_number(timings, "prompt_ms") / 1000,
    )


def embeddings(said: object, dimensions: int | None) -> tuple[list[list[float]], int]:
    """The vectors in the order of the texts, cut to `dimensions`, and the tokens of all texts."""
    rows = sorted(objects(said, "data"), key=lambda row: _number(row, "index"))
    vectors = [_numbers(row) for row in rows]
    if dimensions is not None:
        vectors = [_cut(vector, dimensions) for vector in vectors]
    return vectors, _count(_object(said, "usage"), "prompt_tokens")


def _cut(vector: list[float], dimensions: int) -> list[float]:
    """Its first numbers, of length 1 again."""
    if dimensions <= 0 or dimensions >= len(vector):
        return vector
    short = vector[:dimensions]
    length = math.hypot(*short)
    return [x / length for x in short] if length > 0 else short


def error_text(said: object) -> str:
    """The message of an error, however it is wrapped; empty where it is none."""
    error = _at(said, "error")
    if isinstance(error, str):
        return error
    return _text(error, "message") or ("an error" if error else "")


def objects(said: object, key: str) -> list[Json]:
    """The objects of a list under that key."""
    values = _at(said, key)
    found = cast("list[object]", values) if isinstance(values, list) else []
    return [cast("Json", one) for one in found if isinstance(one, dict)]


def _at(said: object, key: str) -> object:
    return cast("Json", said).get(key) if isinstance(said, dict) else None


def _object(said: object, key: str) -> Json:
    value = _at(said, key)
    return cast("Json", value) if isinstance(value, dict) else {}


def _text(said: object, key: str) -> str:
    value = _at(said, key)
    return value if isinstance(value, str) else ""


def _number(said: object, key: str) -> float:
    value = _at(said, key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e15:
        return 0.0
    return float(value)


def _count(said: object, key: str) -> int:
    return int(_number(said, key))


def _numbers(row: Json) -> list[float]:
    values = _at(row, "embedding")
    found = cast("list[object]", values) if isinstance(values, list) else []
    return [float(one) for one in found if isinstance(one, int | float) and abs(one) < 1e300]
