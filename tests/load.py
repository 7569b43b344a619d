"""Requests over HTTP at a rate, or one after the other on some connections, and how each went.

One thread with plain sockets and `epoll`: every microsecond that it takes is missing to what it
measures. It knows of HTTP what it needs to see the end of an answer, and keeps its connections, as
the clients of every language do.
"""

from __future__ import annotations

import json
import selectors
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

GIVES_UP = 60.0
"""Seconds after which a request that has no whole answer has failed."""


@dataclass(slots=True)
class Went:
    """One request: when it began, what it took to the first byte of a body and to the last.

    `wrong` is why it has failed; empty where it has not.
    """

    began: float
    first: float = 0.0
    took: float = 0.0
    wrong: str = ""
    streamed: bool = False


def completion(model: str, *, stream: bool = False, tokens: int = 1, path: str = "") -> bytes:
    """The bytes of a request."""
    body = json.dumps(
        {"model": model, "prompt": "one", "max_tokens": tokens, "stream": stream}
    ).encode()
    head = (
        f"POST {path or '/v1/completions'} HTTP/1.1\r\nHost: localhost\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


@dataclass(slots=True, eq=False)
class _Line:
    """A connection, and the request that is under way on it."""

    sock: socket.socket
    used: bool = False
    went: Went | None = None
    request: bytes = b""
    answer: bytearray = field(default_factory=bytearray)


class Load:
    """Requests to one port; `done` has those that are over, as they end."""

    def __init__(self, port: int) -> None:
        self.done: list[Went] = []
        self._port = port
        self._selector = selectors.EpollSelector()
        self._idle: list[_Line] = []
        self._busy: set[_Line] = set()

    def close(self) -> None:
        for line in [*self._idle, *self._busy]:
            line.sock.close()
        self._selector.close()

    def in_a_row(self, request: bytes, *, connections: int, count: int) -> list[Went]:
        """`count` requests, each connection asking again as soon as it has its answer."""
        before = len(self.done)
        begun = 0
        while len(self.done) - before < count:
            while begun < count and len(self._busy) < connections:
                self._ask(request, time.perf_counter())
                begun += 1
            self._wait(1.0)
        return self.done[before:]

    def at_a_rate(
        self, requests: Sequence[bytes], *, a_second: float, until: Callable[[], bool]
    ) -> list[Went]:
        """One after the other in turn, whether the earlier ones are answered or not, until it is
        so; then until all are answered. A request begins when it is due, not when there was time.
        """
        before, began, at = len(self.done), time.perf_counter(), 0
        while not until():
            due = began + at / a_second
            now = time.perf_counter()
            if now < due:
                self._wait(due - now)
                continue
            self._ask(requests[at % len(requests)], due)
            at += 1
            self._wait(0.0)
        while self._busy:
            self._wait(0.1)
        return self.done[before:]

    def _ask(self, request: bytes, due: float) -> None:
        line = self._idle.pop() if self._idle else _Line(socket.socket())
        line.went, line.request = Went(due, streamed=b'"stream": true' in request), request
        line.answer.clear()
        self._busy.add(line)
        try:
            if not line.used:
                line.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                line.sock.connect(("127.0.0.1", self._port))
            line.sock.sendall(request)
        except OSError as error:
            self._over(line, f"could not ask: {error}")
            return
        if not line.used:
            line.used = True
            self._selector.register(line.sock, selectors.EVENT_READ, line)

    def _wait(self, seconds: float) -> None:
        for key, _ in self._selector.select(seconds):
            self._read(key.data)
        now = time.perf_counter()
        for line in [one for one in self._busy if one.went and now - one.went.began > GIVES_UP]:
            self._over(line, "no whole answer")

    def _read(self, line: _Line) -> None:
        try:
            data = line.sock.recv(1 << 16)
        except OSError as error:
            self._over(line, f"broke off: {error}")
            return
        if line.went is None:
            # Closed while nobody asked: that is its right.
            self._selector.unregister(line.sock)
            line.sock.close()
            self._idle.remove(line)
            return
        if not data:
            self._over(line, f"ended after {bytes(line.answer[-200:])!r}")
            return
        line.answer += data
        head = line.answer.find(b"\r\n\r\n")
        if head < 0:
            return
        if not line.went.first and len(line.answer) > head + 4:
            line.went.first = time.perf_counter() - line.went.began
        if _is_whole(line.answer, head):
            self._over(line, _wrong(line.answer))

    def _over(self, line: _Line, wrong: str) -> None:
        assert line.went is not None
        line.went.took = time.perf_counter() - line.went.began
        line.went.wrong = wrong
        self.done.append(line.went)
        line.went = None
        self._busy.discard(line)
        if wrong or b"\r\nconnection: close" in line.answer[:2000].lower():
            if line.used:
                self._selector.unregister(line.sock)
            line.sock.close()
        else:
            self._idle.append(line)


def _is_whole(answer: bytearray, head: int) -> bool:
    lower = bytes(answer[:head]).lower()
    at = lower.find(b"\r\ncontent-length:")
    if at >= 0:
        length = int(lower[at + 17 :].split(b"\r\n", 1)[0])
        return len(answer) >= head + 4 + length
    return answer.endswith(b"\r\n0\r\n\r\n")


def _wrong(answer: bytearray) -> str:
    """Why an answer is no success; a stream must have come to its own end."""
    if not answer.startswith(b"HTTP/1.1 200"):
        return bytes(answer[:600]).decode("latin-1")
    if b"text/event-stream" in answer[:1000] and b"data: [DONE]" not in answer[-100:]:
        return f"a stream ended with {bytes(answer[-300:])!r}"
    return ""


class Beside:
    """Load in a thread of its own, while a test does something; `with` ends it."""

    def __init__(self, port: int, requests: Sequence[bytes], *, a_second: float) -> None:
        self.load = Load(port)
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=self.load.at_a_rate,
            args=(requests,),
            kwargs={"a_second": a_second, "until": self._stop.is_set},
        )

    @property
    def answered(self) -> int:
        return len(self.load.done)

    @property
    def wrong(self) -> list[str]:
        return [one.wrong for one in self.load.done if one.wrong]

    def __enter__(self) -> Beside:
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._stop.set()
        self._thread.join()
        self.load.close()


def percentile(seconds: Sequence[float], part: float) -> float:
    """The least that so many of them do not exceed."""
    return sorted(seconds)[min(len(seconds) - 1, int(len(seconds) * part))]
