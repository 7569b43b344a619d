"""What an answer says of itself as it passes by, however it is cut; and what is written of it."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.gateway.access_log import CONTENT, AccessLog, line_of
from orchestrator.gateway.flow import HEAD, MOST, SLACK, TAIL, Flow
from orchestrator.gateway.message import Request
from orchestrator.gateway.record import Record

CHAT = (
    b'data: {"choices":[{"finish_reason":null,"index":0,"delta":{"role":"assistant"}}]}\n\n'
    + b"".join(
        b'data: {"choices":[{"index":0,"delta":{"content":" w%d"}}],"id":"chatcmpl-1"}\n\n' % n
        for n in range(40)
    )
    + b'data: {"choices":[{"finish_reason":"stop","index":0,"delta":{}}],"timings":{"cache_n":7,'
    b'"prompt_n":18,"prompt_ms":8.7,"predicted_n":40,"predicted_ms":124.1}}\n\ndata: [DONE]\n\n'
)
USAGE = (
    b'data: {"choices":[{"index":0,"delta":{"content":"hi"}}],"usage":null}\n\n'
    b'data: {"choices":[],"usage":{"prompt_tokens": 6, "completion_tokens": 3, "total_tokens": 9,'
    b'"prompt_tokens_details":{"cached_tokens":5}}}\n\ndata: [DONE]\n\n'
)
MESSAGES = (
    b'event: message_start\ndata: {"type":"message_start","message":{"id":"1","usage":'
    b'{"cache_read_input_tokens":24,"input_tokens":1,"output_tokens":0}}}\n\n'
    + b'event: content_block_delta\ndata: {"delta":{"type":"text_delta","text":" a"}}\n\n'
    * 40
    + b'event: message_delta\ndata: {"type":"message_delta","usage":{"output_tokens":40}}\n\n'
    b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
)
RESPONSES = (
    b'event: response.created\ndata: {"type":"response.created"}\n\n'
    b'event: response.completed\ndata: {"response":{"output":[{"text":"%s"}],"usage":'
    b'{"input_tokens":25,"output_tokens":3,"input_tokens_details":{"cached_tokens":24}}},"timings":{"cache_n":24,'
    b'"prompt_n":1,"predicted_n":3}}\n\n' % (b"x" * 5000)
)
OLLAMA = b'{"response":"a","done":false}\n' * 50 + (
    b'{"response":"","done":true,"context":[%s],"total_duration":5,"prompt_eval_count":26,'
    b'"prompt_eval_duration":1,"eval_count":50,"eval_duration":9}\n' % b",".join([b"12345"] * 2000)
)
WHOLE = json.dumps(
    {
        "choices": [{"message": {"content": "x" * 9000}}],
        "usage": {"completion_tokens": 30, "prompt_tokens": 25, "total_tokens": 55},
        "timings": {"prompt_n": 1, "cache_n": 24, "predicted_n": 30},
    }
).encode()
EMBEDDED = (
    b'{"model":"m","object":"list","usage":{"prompt_tokens":14,"total_tokens":14},"data":[{"embed'
    b'ding":[' + b"0.25," * 5000 + b"0]}]}"
)

SAID = [
    (CHAT, True, (25, 40)),
    (USAGE, True, (6, 3)),
    (MESSAGES, True, (25, 40)),
    (RESPONSES, True, (25, 3)),
    (OLLAMA, True, (26, 50)),
    (WHOLE, False, (25, 30)),
    (EMBEDDED, False, (14, None)),
    (b"", False, (None, None)),
    (b'{"error":{"message":"no"}}', False, (None, None)),
]


def passed(body: bytes, cuts: list[int], *, counts: bool) -> Flow:
    flow = Flow(counts=counts)
    ends = sorted({0, len(body), *(cut % (len(body) + 1) for cut in cuts)})
    for begin, end in itertools.pairwise(ends):
        flow.take(body[begin:end])
    return flow


@pytest.mark.parametrize(("body", "streamed", "said"), SAID)
def test_what_the_server_says_is_heard(body: bytes, streamed: bool, said: Any) -> None:
    assert passed(body, [], counts=streamed).tokens(whole=True) == said


@given(
    one=st.sampled_from(SAID),
    cuts=st.lists(st.integers(0, 1 << 20), max_size=60),
    whole=st.booleans(),
    ends=st.integers(0, 1 << 20),
)
def test_cuts_change_nothing(one: Any, cuts: list[int], whole: bool, ends: int) -> None:
    """Of a whole answer, and of one that ends anywhere."""
    body, streamed, _ = one
    if not whole:
        body = body[: ends % (len(body) + 1)]
    first = passed(body, [], counts=streamed)
    other = passed(body, cuts, counts=streamed)
    by_bytes = passed(body, list(range(min(len(body), 9000))), counts=streamed)
    assert first.tokens(whole=whole) == other.tokens(whole=whole) == by_bytes.tokens(whole=whole)
    assert first.events == other.events == by_bytes.events


@given(st.text(max_size=400), st.lists(st.integers(0, 1 << 20), max_size=9))
def test_what_is_generated_says_nothing_of_tokens(text: str, cuts: list[int]) -> None:
    """Whatever a model writes, its text is escaped where the counts stand."""
    lie = f'{text}"usage":{{"completion_tokens":999,"prompt_tokens":999}},"eval_count":999'
    body = json.dumps({"choices": [{"message": {"content": lie}}]}).encode()
    assert passed(body, cuts, counts=False).tokens(whole=True) == (None, None)


def test_a_stream_that_says_nothing_counts_by_its_events() -> None:
    body = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n' * 12
    assert passed(body, [], counts=True).tokens(whole=True).generated == 12
    assert passed(body, [], counts=False).tokens(whole=True).generated is None


def test_a_stream_that_breaks_off_counts_by_what_came() -> None:
    events = MESSAGES.split(b"\n\n")
    body = b"\n\n".join(events[:21]) + b"\n\n"
    # What stood at its beginning was true then.
    assert passed(body, [], counts=True).tokens(whole=False) == (25, 21)


def test_a_number_that_is_cut_off_is_not_believed() -> None:
    cut = passed(b'{"usage":{"prompt_tokens":1', [], counts=False)
    assert cut.tokens(whole=False).prompt is None


def test_numbers_of_strangers_are_bounded() -> None:
    body = b'{"usage":{"prompt_tokens":999999999999,"completion_tokens":-5}}'
    assert passed(body, [], counts=False).tokens(whole=True) == (MOST, None)


def test_a_long_stream_keeps_little() -> None:
    flow = Flow(counts=True)
    for _ in range(2000):
        flow.take(b"data: " + b"x" * 200 + b"\n\n")
        assert len(flow._head) <= HEAD
        assert len(flow._tail) <= TAIL + SLACK
    flow.take(b"y" * (1 << 20))
    assert len(flow._tail) <= TAIL + SLACK
    assert flow.events == 2000


def test_only_streams_of_tokens_are_counted_by_events() -> None:
    def watched(path: str, kind: bytes, encoding: bytes = b"") -> bool:
        return Record(0.0).watch(path, kind, encoding).counts

    sse = b"text/event-stream; charset=utf-8"
    assert watched("/v1/chat/completions", sse)
    assert watched("/instances/a/completion", sse)
    assert watched("/api/chat", b"application/x-ndjson")
    assert not watched("/api/pull", b"application/x-ndjson")
    assert not watched("/v1/chat/completions", b"application/json")
    assert not watched("/v1/chat/completions", sse, b"gzip")


# --- the log ----------------------------------------------------------------------------------


def request(body: bytes = b"{}", target: bytes = b"/v1/chat/completions") -> Request:
    return Request(b"POST", target, [], body, True, True)


def written(*records: Record, requests: str = "all") -> list[Any]:
    """The lines that a log writes of these, once it is told to write what waits."""
    ours, theirs = os.pipe()

    async def scene() -> None:
        log = AccessLog(theirs, requests)
        for record in records:
            log.put(record, request(), 2.0)
        log.flush()

    try:
        asyncio.run(scene())
    finally:
        os.close(theirs)
    with open(ours, "rb") as file:
        return [json.loads(line) for line in file]


def test_a_line_is_one_line_whatever_is_asked() -> None:
    record = Record(1.0, "id", client="x\n\x1b[31m\u202e", model='"}\n{"status":500', status=200)
    line = line_of(record, request(target=b"/a\xff\x00\n?key=secret"), now=1.5, at=0.25)
    assert line.isascii()
    assert line.isprintable()
    assert "secret" not in line
    row = json.loads(line)
    assert row["time"] == "1970-01-01T00:00:00.250Z"
    assert (row["ms"], row["status"], row["model"]) == (500.0, 200, '"}\n{"status":500')


def test_what_was_asked_is_written_only_where_it_is_wanted() -> None:
    text = "what is é? " * 4000
    body = json.dumps({"prompt": text}, ensure_ascii=False).encode()
    record = Record(1.0, "id", status=200)
    assert "what" not in line_of(record, request(body), now=2.0, at=0.0)
    row = json.loads(line_of(record, request(body), now=2.0, at=0.0, content=True))
    assert row["content"].startswith('{"prompt": "what is é?')
    assert len(row["content"]) == CONTENT


@pytest.mark.parametrize(
    ("requests", "ids"), [("all", list("abcd")), ("errors", list("bcd")), ("off", [])]
)
def test_the_profile_says_which_requests_have_a_line(requests: str, ids: list[str]) -> None:
    told = [
        Record(1.0, "a", status=200),
        Record(1.0, "b", status=404),
        Record(1.0, "c", status=200, lost=True),
        Record(1.0, "d", status=200, gone=True),
    ]
    rows = written(*told, requests=requests)
    assert [row["id"] for row in rows] == ids
    assert all(
        ("lost" in row, "gone" in row) == (row["id"] == "c", row["id"] == "d") for row in rows
    )


def test_lines_wait_for_one_another_but_not_for_long() -> None:
    ours, theirs = os.pipe()

    async def scene() -> list[bytes]:
        log = AccessLog(theirs)
        log.put(Record(1.0, "a"), request(), 2.0)
        log.put(Record(1.0, "b"), request(), 2.0)
        return (await asyncio.to_thread(os.read, ours, 1 << 16)).splitlines()

    try:
        assert [json.loads(line)["id"] for line in asyncio.run(scene())] == ["a", "b"]
    finally:
        os.close(ours)
        os.close(theirs)


def test_a_log_that_cannot_be_written_stops_nobody() -> None:
    full = os.open("/dev/full", os.O_WRONLY)

    async def scene() -> None:
        log = AccessLog(full)
        log.put(Record(1.0, "a"), request(), 2.0)
        log.flush()
        log.flush()

    try:
        asyncio.run(scene())
    finally:
        os.close(full)
