"""The model that a form asks for: `multipart/form-data`, as sounds and pictures are sent. Pure.

A form may hold hundreds of megabytes, so it is searched where it lies, and copied only when its
model is called otherwise where it goes.
"""

from __future__ import annotations

import re

from msgspec import Struct

_BOUNDARY = re.compile(rb'boundary=(?:"([^"\r\n]{1,200})"|([^;\s"]{1,200}))', re.IGNORECASE)
_NAMED_MODEL = re.compile(
    rb'^content-disposition:[^\r\n]*;\s*name=(?:"model"|model)(?=[;\r\n\s]|$)',
    re.IGNORECASE | re.MULTILINE,
)

HEAD = 8 << 10
"""Bytes that the headers of one part may have."""

PARTS = 1000
"""Parts that are looked at."""


class Span(Struct, frozen=True):
    """Where the value of the field stands."""

    begin: int
    end: int


def model_span(content_type: bytes, body: bytes) -> Span | None:
    """Where the form says its `model`; None where it does not, or is no form at all."""
    boundary = _BOUNDARY.search(content_type)
    if boundary is None:
        return None
    mark = b"--" + (boundary[1] or boundary[2])
    at = 0 if body.startswith(mark) else body.find(b"\r\n" + mark) + 2
    for _ in range(PARTS):
        head = at + len(mark)
        # After the last part the mark is followed by two dashes.
        if at < 0 or body[head : head + 2] != b"\r\n":
            return None
        begin = body.find(b"\r\n\r\n", head, head + HEAD)
        end = body.find(b"\r\n" + mark, begin)
        if begin < 0 or end < 0:
            return None
        if _NAMED_MODEL.search(body[head + 2 : begin]):
            return Span(min(begin + 4, end), end)
        at = end + 2
    return None


def value(body: bytes, span: Span) -> str:
    """What stands there."""
    return body[span.begin : span.end].decode("utf-8", "replace").strip()


def replaced(body: bytes, span: Span, model: str) -> bytes:
    """The form with another model."""
    return b"".join((body[: span.begin], model.encode(), body[span.end :]))
