"""The model that a form asks for."""

from __future__ import annotations

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.gateway.form import model_span, replaced, value


def form(data: dict[str, str], file: bytes = b"RIFF\r\n--x\r\n\0") -> tuple[bytes, bytes]:
    """As a real client writes it."""
    files = {"file": ("a.wav", file, "audio/wav")}
    request = httpx.Request("POST", "http://x", data=data, files=files)
    return request.headers["content-type"].encode(), request.read()


@given(st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=40), st.binary())
def test_the_model_is_found_and_replaced_and_nothing_else(model: str, file: bytes) -> None:
    kind, body = form({"language": "de", "model": model, "prompt": "model"}, file)
    span = model_span(kind, body)
    assert span is not None
    assert value(body, span) == model.strip()
    again = replaced(body, span, "other name")
    known = model_span(kind, again)
    assert known is not None
    assert value(again, known) == "other name"
    assert replaced(again, known, model) == body


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--B",
        b"--B\r\n",
        b"--B--\r\n",
        b"--B\r\n\r\n",
        b'--B\r\ncontent-disposition: form-data; name="model"\r\n\r\nx',
        b'--B\r\ncontent-disposition: form-data; name="models"\r\n\r\nx\r\n--B--',
        b'--B\r\ncontent-disposition: form-data; filename="model"\r\n\r\nx\r\n--B--',
    ],
)
def test_a_form_without_one_has_none(body: bytes) -> None:
    assert model_span(b"multipart/form-data; boundary=B", body) is None


def test_odd_forms() -> None:
    part = b"--B\r\nContent-Disposition:form-data;name=model\r\nX: y\r\n\r\n\r\n--B--\r\n"
    kind = b'multipart/form-data; boundary="B"; charset=utf-8'
    for begin in (b"", b"before\r\n"):
        span = model_span(kind, begin + part)
        assert span is not None
        assert value(begin + part, span) == ""
    assert model_span(b"multipart/form-data", part) is None


@given(st.binary(max_size=60))
def test_nonsense_is_no_form(body: bytes) -> None:
    model_span(b"multipart/form-data; boundary=B", b"--B" + body)
