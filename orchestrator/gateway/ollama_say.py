"""What a llama-server answers, said in Ollama's words. Pure.

Fed with pieces of the answer as they come, cut anywhere, each gives what is to go on to the
client by now. What the engine says is not trusted to be of the right type: nothing here raises.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from datetime import UTC, datetime
from typing import cast

from msgspec import Struct, field

from orchestrator.gateway.ollama_ask import Asked, Form, Json
from orchestrator.gateway.ollama_parts import Part, embeddings, error_text, part_of
from orchestrator.gateway.sse import Events

LINES = b"application/x-ndjson"
DOCUMENT = b"application/json; charset=utf-8"

WHOLE = 256 << 20
"""Bytes of an answer that is no stream, beyond which it is no answer."""


class Asker(Struct, frozen=True):
    """What the client called the model, and clocks: wall-clock seconds; seconds since the request
    came, and those of them in which it waited for its turn."""

    model: str
    now: Callable[[], float]
    elapsed: Callable[[], float]
    waited: Callable[[], float]

    def stamp(self) -> str:
        """The instant, as Ollama writes it."""
        return datetime.fromtimestamp(self.now(), UTC).isoformat().replace("+00:00", "Z")


class Say(ABC):
    """How one answer is written. `status` is right by the time that there is anything to write."""

    type = DOCUMENT

    def __init__(self, status: int) -> None:
        self.status = status

    @abstractmethod
    def feed(self, piece: bytes) -> bytes:
        """What goes on to the client, now that this piece has come; often nothing."""

    @abstractmethod
    def end(self) -> bytes:
        """What goes on after the last piece."""

    def broken(self, message: str) -> bytes:
        """What ends an answer that its instance has broken off."""
        return as_line({"error": message})


def say(asked: Asked, status: int, content_type: bytes, asker: Asker) -> Say:
    """How the answer to `asked`, which begins with this status and type, is to be written."""
    if status >= 400:
        return Refusal(status)
    if asked.body is None:
        return Nothing(asked.form, asker)
    if content_type.partition(b";")[0].strip().lower() == b"text/event-stream":
        return Stream(asked.form, asker)
    return Whole(asked, asker)


def as_line(value: Json) -> bytes:
    try:
        return json.dumps(value, separators=(",", ":")).encode("ascii") + b"\n"
    except RecursionError:
        return b'{"error":"the instance said what is nested too deeply"}\n'


class Stream(Say):
    """Events of a chat or a completion, as lines."""

    type = LINES

    def __init__(self, form: Form, asker: Asker) -> None:
        super().__init__(200)
        self._form: Form = form
        self._asker = asker
        self._events = Events()
        self._told = Part()
        self._calls = Calls()
        self._over = False

    def feed(self, piece: bytes) -> bytes:
        return b"".join(self._lines(data) for data in self._events.feed(piece))

    def end(self) -> bytes:
        if self._over:
            return b""
        if not self._told.reason:
            return self.broken("the answer ended in the middle")
        return self._last()

    def broken(self, message: str) -> bytes:
        already, self._over = self._over, True
        return b"" if already else as_line({"error": message})

    def _lines(self, data: bytes) -> bytes:
        if self._over:
            return b""
        if data.strip() == b"[DONE]":
            return self.end()
        try:
            said: object = json.loads(data)
        except (ValueError, RecursionError):
            return self.broken("the instance said what is no JSON")
        if problem := error_text(said):
            return self.broken(problem)
        part = part_of(said, self._form)
        self._told.add(part)
        self._calls.add(part.calls)
        lines = b""
        if part.text or part.thinking or part.logprobs:
            lines = as_line(_row(self._form, self._asker, part))
        # The last piece of a completion says that it is the last; of a chat, more comes.
        return lines + (self._last() if part.last and self._told.reason else b"")

    def _last(self) -> bytes:
        self._over = True
        lines = b""
        rest = self._calls.whole()
        if rest.calls or rest.text:
            lines = as_line(_row(self._form, self._asker, rest))
        row = _row(self._form, self._asker, Part())
        return lines + as_line({**row, **_final(self._asker, self._told)})


class Whole(Say):
    """An answer in one piece."""

    def __init__(self, asked: Asked, asker: Asker) -> None:
        super().__init__(200)
        self._asked, self._asker = asked, asker
        self._pieces = Pieces()

    def feed(self, piece: bytes) -> bytes:
        self._pieces.add(piece)
        return b""

    def end(self) -> bytes:
        said = self._pieces.json()
        row = self._row(said)
        if row is None:
            self.status = 502
            row = {"error": error_text(said) or "the instance said what is no answer"}
        return as_line(row)

    def broken(self, message: str) -> bytes:
        self.status = 502
        return super().broken(message)

    def _row(self, said: object) -> Json | None:
        asked, asker = self._asked, self._asker
        if asked.form in ("embed", "embeddings"):
            return _vectors(asked, asker, said)
        part = part_of(said, asked.form)
        if not part.reason:
            return None
        calls = Calls()
        calls.add(part.calls)
        whole = calls.whole()
        part.calls, part.text = whole.calls, part.text + whole.text
        return {**_row(asked.form, asker, part), **_final(asker, part)}


class Refusal(Say):
    """An error, in whatever form: its message."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self._pieces = Pieces()

    def feed(self, piece: bytes) -> bytes:
        self._pieces.add(piece)
        return b""

    def end(self) -> bytes:
        message = error_text(self._pieces.json()) or self._pieces.text()
        return as_line({"error": message or f"the instance answered {self.status}"})


class Nothing(Say):
    """There was nothing to compute: the instance is there, and that is all."""

    def __init__(self, form: Form, asker: Asker) -> None:
        super().__init__(200)
        self._form: Form = form
        self._asker = asker

    def feed(self, piece: bytes) -> bytes:  # noqa: ARG002 (what it says of its health is not told)
        return b""

    def end(self) -> bytes:
        if self._form == "embeddings":
            return as_line({"embedding": []})
        if self._form == "embed":
            return as_line({"model": self._asker.model, "embeddings": []})
        row = _row(self._form, self._asker, Part())
        return as_line({**row, "done": True, "done_reason": "load"})


class Pieces(Struct):
    """An answer that is looked at when it is whole."""

    _kept: list[bytes] = field(default_factory=list[bytes])
    _size: int = 0

    def add(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._size <= WHOLE:
            self._kept.append(piece)
        else:
            self._kept = []

    def json(self) -> object:
        try:
            return json.loads(b"".join(self._kept))
        except (ValueError, RecursionError):
            return None

    def text(self) -> str:
        """Its beginning, for people."""
        return b"".join(self._kept)[:500].decode("utf-8", "replace").strip()


class Calls:
    """Calls of tools, which come in fragments: the arguments of each are a text that grows."""

    def __init__(self) -> None:
        self._found: dict[int, list[str]] = {}

    def add(self, fragments: list[Json]) -> None:
        for at, fragment in enumerate(fragments):
            index = fragment.get("index")
            place = index if isinstance(index, int) else at
            whole = self._found.setdefault(place, ["", "", ""])
            function = fragment.get("function")
            said = cast("Json", function) if isinstance(function, dict) else {}
            for part, value in enumerate((fragment.get("id"), said.get("name"))):
                if isinstance(value, str) and value:
                    whole[part] = value
            if isinstance(said.get("arguments"), str):
                whole[2] += said["arguments"]

    def whole(self) -> Part:
        """The calls; one whose arguments were cut off is told as the text that it is."""
        part = Part()
        for place, (name, tool, text) in sorted(self._found.items()):
            arguments = _object_in(text or "{}")
            if arguments is None:
                part.text += f"{tool}({text}"
                continue
            function: Json = {"index": place, "name": tool, "arguments": arguments}
            part.calls.append({**({"id": name} if name else {}), "function": function})
        return part


def _object_in(text: str) -> Json | None:
    try:
        said: object = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return cast("Json", said) if isinstance(said, dict) else None


def _row(form: Form, asker: Asker, part: Part) -> Json:
    """One line of an answer, as this endpoint writes it."""
    row: Json = {"model": asker.model, "created_at": asker.stamp()}
    thinking: Json = {"thinking": part.thinking} if part.thinking else {}
    if form == "chat":
        calls: Json = {"tool_calls": part.calls} if part.calls else {}
        row["message"] = {"role": "assistant", "content": part.text, **thinking, **calls}
    else:
        row |= {"response": part.text, **thinking}
    row["done"] = False
    if part.logprobs:
        row["logprobs"] = part.logprobs
    return row


def _final(asker: Asker, told: Part) -> Json:
    """What stands on the last line: why it ended, how much it was, and nanoseconds."""
    return {
        "done": True,
        "done_reason": told.reason,
        "total_duration": _ns(asker.elapsed()),
        "load_duration": _ns(asker.waited()),
        "prompt_eval_count": told.prompt_tokens,
        "prompt_eval_duration": _ns(told.prompt_s),
        "eval_count": told.tokens,
        "eval_duration": _ns(told.tokens_s),
    }


def _vectors(asked: Asked, asker: Asker, said: object) -> Json | None:
    vectors, tokens = embeddings(said, asked.dimensions)
    if asked.body is None or len(vectors) != len(asked.body["input"]):
        return None
    if asked.form == "embeddings":
        return {"embedding": vectors[0]}
    return {
        "model": asker.model,
        "embeddings": vectors,
        "total_duration": _ns(asker.elapsed()),
        "load_duration": _ns(asker.waited()),
        "prompt_eval_count": tokens,
    }


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)
