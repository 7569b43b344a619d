"""An answer on its way to the client: as its instance gives it, or said in other words."""

from __future__ import annotations

import asyncio
import time

from orchestrator.gateway import answers
from orchestrator.gateway.call import Call
from orchestrator.gateway.cloud import KEPT_BACK
from orchestrator.gateway.early import EVENTS
from orchestrator.gateway.inbound import Inbound
from orchestrator.gateway.message import HOP_BY_HOP, Headers, head_bytes
from orchestrator.gateway.ollama_ask import Asked
from orchestrator.gateway.ollama_say import Asker, Say, say
from orchestrator.gateway.outbound import Head, Outbound
from orchestrator.gateway.record import STREAMS
from orchestrator.gateway.table import Target

OURS = (b"access-control-", b"x-request-id", b"x-orchestrate-instance")
"""Beginnings of headers that are the gateway's to say: which pages may read an answer, and whose it
is."""


class Reply:
    """The answer of one target. As it is, its head goes first and its pieces as they come; said in
    other words, both go when there is something to say."""

    __slots__ = (
        "_begun",
        "_call",
        "_chunked",
        "_events",
        "_flow",
        "_head",
        "_inbound",
        "_loop",
        "_outbound",
        "_say",
        "_streams",
        "_tail",
        "_target",
        "_unsent",
    )

    def __init__(
        self,
        inbound: Inbound,
        outbound: Outbound,
        call: Call,
        head: Head,
        target: Target,
        asked: Asked | None,
    ) -> None:
        self._inbound, self._outbound = inbound, outbound
        self._call, self._head, self._target = call, head, target
        self._loop = asyncio.get_running_loop()
        self._say = self._say_of(asked) if asked is not None else None
        self._begun = False
        self._chunked = False
        self._tail = b""
        kind = head.header(b"content-type").partition(b";")[0].strip().lower()
        self._streams = kind in STREAMS and not head.header(b"content-length")
        self._events = kind == EVENTS
        call.record.target, call.record.status = target.name, head.status
        self._flow = call.record.watch(
            call.request.path, head.header(b"content-type"), head.header(b"content-encoding")
        )
        self._unsent = b""
        if call.begun:
            # It has begun as a stream while nobody served it.
            self._begun, self._chunked = True, call.request.chunked_is_known

    def begin(self) -> None:
        """No more of it is there for now: what is there is sent, at the least its head."""
        if self._say is None and not self._begun:
            self._begin()
        self._flush()

    def write(self, piece: bytes) -> None:
        """A piece of the instance's answer has come. It waits where the client does not take it."""
        if self._call.record.first_byte is None:
            self._call.record.first_byte = self._loop.time()
        self._flow.take(piece)
        self._send(piece if self._say is None else self._say.feed(piece))
        if self._inbound.full:
            self._outbound.pause()

    def end(self) -> None:
        """It was the last."""
        if self._say is not None:
            self._send(self._say.end())
        self._finish()

    def broken(self, message: str) -> None:
        """The instance is gone in the middle: a stream is told, anything else is cut off."""
        if self._say is not None:
            self._send(self._say.broken(message))
            self._finish()
        elif self._streams:
            self._send(self._gap() + answers.error_event(self._call.protocol, message))
            self._finish()
        else:
            self._inbound.abort()

    def _gap(self) -> bytes:
        """What was cut off in the middle of a line, or of an event, must not become one with what
        follows: only an empty line ends an event, and none is to stand between lines of JSON."""
        if not self._tail:
            return b""
        if self._events:
            return b"" if self._tail == b"\n\n" else b"\n\n"
        return b"" if self._tail.endswith(b"\n") else b"\n"

    def _say_of(self, asked: Asked) -> Say:
        record, loop = self._call.record, self._loop
        asker = Asker(
            self._call.asked_as,
            time.time,
            lambda: loop.time() - record.began,
            lambda: record.waited,
        )
        return say(asked, self._head.status, self._head.header(b"content-type"), asker)

    def _begin(self) -> None:
        self._begun = True
        headers: Headers = [
            one
            for one in self._head.headers
            if one[0] not in HOP_BY_HOP and not one[0].startswith(OURS)
        ]
        if self._target.is_cloud:
            headers = [one for one in headers if one[0] not in KEPT_BACK]
        status, length = self._head.status, self._head.header(b"content-length")
        if self._say is not None:
            status, length = self._say.status, b""
            headers = [(b"content-type", self._say.type)]
            self._call.record.status = status
        headers += [(b"x-orchestrate-instance", self._target.name.encode())]
        headers += self._call.record.marks
        self._unsent = head_bytes(status, headers + self._framing(length))
        # Nothing of that is needed any more, and the stream may go on for hours.
        self._head.headers.clear()
        self._call.record.marks.clear()

    def _framing(self, length: bytes) -> Headers:
        """How the end of the answer is told."""
        request, headers = self._call.request, Headers()
        has_body = request.method != b"HEAD" and self._head.status not in (204, 304)
        self._chunked = has_body and not length and request.chunked_is_known
        if length:
            headers.append((b"content-length", length))
        elif self._chunked:
            headers.append((b"transfer-encoding", b"chunked"))
        elif has_body:
            request.keep_alive = False
        if not request.keep_alive:
            headers.append((b"connection", b"close"))
        return headers

    def _send(self, data: bytes) -> None:
        if not data:
            return
        if not self._begun:
            self._begin()
        self._tail = data[-2:] if len(data) > 1 else self._tail[-1:] + data
        self._call.record.sent += len(data)
        framed = b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data
        if self._unsent:
            # One segment for the head and what came with it.
            framed, self._unsent = self._unsent + framed, b""
        self._inbound.write(framed)

    def _flush(self) -> None:
        if self._unsent:
            self._inbound.write(self._unsent)
            self._unsent = b""

    def _finish(self) -> None:
        if not self._begun:
            self._begin()
        self._flush()
        if self._chunked:
            self._inbound.write(b"0\r\n\r\n")
