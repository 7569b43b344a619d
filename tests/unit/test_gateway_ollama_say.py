"""A llama-server's answers, said in Ollama's words, however their bytes are cut."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.gateway.ollama_ask import Asked, Form
from orchestrator.gateway.ollama_say import Asker, Say, say
from tests.unit.test_gateway_ollama_ask import ANYTHING

SSE = b"text/event-stream"
JSON = b"application/json"
CALLS = (Path(__file__).parent.parent / "data/llama-server-b11434-tool-calls.sse").read_bytes()
"""What a real llama-server said."""

USAGE = {"completion_tokens": 3, "prompt_tokens": 26}
TIMINGS = {"prompt_n": 20, "cache_n": 6, "prompt_ms": 92.5, "predicted_n": 3, "predicted_ms": 35.25}


def asker() -> Asker:
    return Asker("mine", lambda: 1_700_000_000.0, lambda: 1.5, lambda: 0.25)


def begun(
    form: Form = "chat", *, status: int = 200, kind: bytes = SSE, body: Any = None, **more: Any
) -> Say:
    asked = Asked(b"/", form, {"input": ["a", "b"]} if body is None else body, **more)
    return say(asked, status, kind, asker())


def fed(one: Say, *pieces: bytes) -> list[dict[str, Any]]:
    raw = b"".join([*(one.feed(piece) for piece in pieces), one.end()])
    assert raw.endswith(b"\n") or not raw
    return [json.loads(line) for line in raw.splitlines()]


def events(*bodies: Any) -> bytes:
    return b"".join(
        b"data: " + json.dumps(b, ensure_ascii=False).encode() + b"\n\n" for b in bodies
    )


def delta(reason: str | None = None, **said: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": said, "finish_reason": reason}]}


STREAM = (
    events(
        delta(role="assistant", content=None),
        delta(reasoning_content="hm"),
        delta(content="grüß"),
        delta(content=" 🎉"),
        delta("length"),
        {"choices": [], "usage": USAGE, "timings": TIMINGS},
    )
    + b"data: [DONE]\n\n"
)


def test_a_chat_as_lines() -> None:
    lines = fed(begun(), STREAM)
    assert [one["message"]["content"] for one in lines] == ["", "grüß", " 🎉", ""]
    assert lines[0]["message"]["thinking"] == "hm"
    assert [one["done"] for one in lines] == [False, False, False, True]
    assert {one["model"] for one in lines} == {"mine"}
    assert lines[-1] | {"message": None} == {
        "model": "mine",
        "created_at": "2023-11-14T22:13:20Z",
        "message": None,
        "done": True,
        "done_reason": "length",
        "total_duration": 1_500_000_000,
        "load_duration": 250_000_000,
        "prompt_eval_count": 26,
        "prompt_eval_duration": 92_500_000,
        "eval_count": 3,
        "eval_duration": 35_250_000,
    }


def test_the_same_as_a_generation() -> None:
    lines = fed(begun("generate"), STREAM)
    assert [one["response"] for one in lines] == ["", "grüß", " 🎉", ""]
    assert lines[0]["thinking"] == "hm"
    assert lines[-1]["done_reason"] == "length"


def test_a_completion_as_lines() -> None:
    pieces = events(
        {"content": " a", "stop": False, "tokens_predicted": 1},
        {
            "content": "",
            "stop": True,
            "stop_type": "eos",
            "tokens_predicted": 2,
            "tokens_evaluated": 7,
            "timings": TIMINGS,
        },
    )
    lines = fed(begun("completion"), pieces)
    assert [one["response"] for one in lines] == [" a", ""]
    assert (lines[-1]["done_reason"], lines[-1]["eval_count"]) == ("stop", 2)
    assert lines[-1]["prompt_eval_count"] == 7


def test_calls_of_tools_are_told_whole() -> None:
    lines = fed(begun(), CALLS)
    call, cut = lines[-2]["message"], lines[-1]
    assert call["tool_calls"][0]["function"] == {
        "index": 0,
        "name": "look",
        "arguments": {"at": "hot"},
    }
    assert call["tool_calls"][0]["id"]
    # The last was cut off by the limit: nothing of it is lost, and it is not taken for a call.
    assert len(call["tool_calls"]) == len({c["id"] for c in call["tool_calls"]})
    assert call["content"].startswith("look(")
    assert cut["done_reason"] == "length"


@given(st.sampled_from([STREAM, CALLS, STREAM.replace(b"\n", b"\r\n")]), st.data())
def test_any_cut_gives_the_same_lines(stream: bytes, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=20)))
    pieces = [stream[a:b] for a, b in itertools.pairwise([0, *cuts, len(stream)])]
    assert fed(begun(), *pieces) == fed(begun(), stream)


def test_every_byte_by_itself_gives_the_same_lines() -> None:
    assert fed(begun(), *(bytes([one]) for one in STREAM)) == fed(begun(), STREAM)


def test_lines_go_out_as_soon_as_they_are_whole() -> None:
    one = begun()
    assert one.feed(events(delta(content="a"))).count(b"\n") == 1
    assert one.feed(b"data: {") == b""


def test_an_error_in_the_middle_ends_the_stream_with_its_message() -> None:
    pieces = events(delta(content="a"), {"error": {"message": "out of memory"}}, delta(content="b"))
    lines = fed(begun(), pieces)
    assert lines[-1] == {"error": "out of memory"}
    assert len(lines) == 2


@pytest.mark.parametrize("rest", [b"", b"data: {nonsense}\n\n"])
def test_a_stream_that_ends_too_early_says_so(rest: bytes) -> None:
    lines = fed(begun(), events(delta(content="a")) + rest)
    assert list(lines[-1]) == ["error"]


def test_a_stream_that_was_broken_off_says_so_once() -> None:
    one = begun()
    one.feed(events(delta(content="a")))
    assert json.loads(one.broken("it is gone")) == {"error": "it is gone"}
    assert (one.end(), one.broken("again")) == (b"", b"")


def test_a_whole_chat() -> None:
    call = {"id": "x", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
    message = {"role": "assistant", "content": "hi", "tool_calls": [call]}
    whole = {
        "choices": [{"message": message, "finish_reason": "tool_calls"}],
        "usage": USAGE,
        "timings": TIMINGS,
    }
    (found,) = fed(begun(kind=JSON), json.dumps(whole).encode())
    assert found["message"]["content"] == "hi"
    assert found["message"]["tool_calls"][0]["function"]["arguments"] == {"a": 1}
    assert (found["done"], found["done_reason"], found["eval_count"]) == (True, "stop", 3)


def test_vectors_in_the_order_of_the_texts() -> None:
    rows = [{"index": 1, "embedding": [0, 1.0]}, {"index": 0, "embedding": [3.0, 4.0]}]
    whole = json.dumps({"data": rows, "usage": {"prompt_tokens": 5}}).encode()
    (found,) = fed(begun("embed", kind=JSON), whole)
    assert found["embeddings"] == [[3.0, 4.0], [0.0, 1.0]]
    assert found["prompt_eval_count"] == 5
    (short,) = fed(begun("embed", kind=JSON, dimensions=1), whole)
    assert short["embeddings"] == [[1.0], [0.0]]
    (old,) = fed(begun("embeddings", kind=JSON), whole)
    assert old == {"embedding": [3.0, 4.0]}


def test_an_answer_that_is_none_is_a_502() -> None:
    for body in (b"", b"nonsense", b"[]", b'{"data": []}'):
        one = begun("embed", kind=JSON)
        (found,) = fed(one, body)
        assert (one.status, list(found)) == (502, ["error"])


def test_errors_keep_their_status_and_message() -> None:
    one = begun(status=400, kind=JSON)
    assert fed(one, b'{"error":{"code":400,"message":"too', b' long"}}') == [{"error": "too long"}]
    assert one.status == 400
    assert fed(begun(status=500), b"<html>") == [{"error": "<html>"}]


def test_nothing_to_do_is_a_load() -> None:
    one = say(Asked(b"/health", "chat"), 200, JSON, asker())
    (found,) = fed(one, b'{"status":"ok"}')
    assert (found["done"], found["done_reason"], found["message"]["content"]) == (True, "load", "")


@given(
    st.sampled_from(["chat", "generate", "completion", "embed", "embeddings"]),
    st.sampled_from([SSE, JSON]),
    st.lists(ANYTHING | st.fixed_dictionaries({"choices": st.lists(ANYTHING, max_size=2)})),
)
def test_whatever_an_engine_says_is_told_as_lines(
    form: Form, kind: bytes, bodies: list[Any]
) -> None:
    raw = events(*bodies) if kind == SSE else json.dumps(bodies[0] if bodies else None).encode()
    lines = fed(begun(form, kind=kind), raw)
    assert lines
    assert "error" in lines[-1] or lines[-1].get("done") or "embedding" in "".join(lines[-1])
