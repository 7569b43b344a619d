"""Ollama's requests, asked of a llama-server."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.gateway.ollama_ask import OPTIONS, PATHS, AskError, asked

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)

KEYS = [
    *("messages", "prompt", "system", "template", "suffix", "raw", "images", "format", "options"),
    *("think", "tools", "stream", "input", "dimensions", "logprobs", "top_logprobs", "keep_alive"),
    *("context", "truncate"),
]

MESSAGE_KEYS = [
    *("role", "content", "thinking", "images", "tool_calls", "tool_name", "tool_call_id"),
    *("function", "id"),
]


def body(path: str, **more: Any) -> dict[str, Any]:
    found = asked(path, {"model": "m", **more}).body
    assert found is not None
    return found


def chat(*messages: dict[str, Any], **more: Any) -> dict[str, Any]:
    return body("/api/chat", messages=list(messages) or [{"role": "user", "content": "hi"}], **more)


def test_a_chat_is_streamed_unless_it_says_otherwise() -> None:
    assert chat()["stream"] is True
    assert chat()["stream_options"] == {"include_usage": True}
    assert chat(stream=False)["stream"] is False
    assert "stream_options" not in chat(stream=False)


def test_options_become_sampling_parameters_and_those_of_loading_are_left_out() -> None:
    said = {name: 1 for name in OPTIONS} | {"num_ctx": 4096, "num_gpu": 9, "odd": []}
    found = chat(options={**said, "stop": "END"})
    for name, (theirs, _) in OPTIONS.items():
        assert found[theirs] == 1, name
    assert found["stop"] == ["END"]
    assert not {"num_ctx", "num_gpu", "odd"} & found.keys()


@pytest.mark.parametrize("limit", [-1, -2, 0])
def test_no_limit_is_said_in_one_way(limit: int) -> None:
    assert chat(options={"num_predict": limit})["n_predict"] == -1


def test_formats() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    assert chat(format="json")["response_format"] == {"type": "json_object"}
    assert chat(format=schema)["response_format"]["json_schema"] == {"schema": schema}
    assert "response_format" not in chat(format="")
    assert body("/api/generate", prompt="x", raw=True, format=schema)["json_schema"] == schema


def test_thinking() -> None:
    assert chat(think=True)["chat_template_kwargs"] == {"enable_thinking": True}
    assert chat(think=False)["chat_template_kwargs"] == {"enable_thinking": False}
    assert chat(think="low")["chat_template_kwargs"]["reasoning_effort"] == "low"
    assert "chat_template_kwargs" not in chat()


def test_pictures_become_parts_of_their_message() -> None:
    png, jpeg = "iVBORw0KGgo=", "/9j/4AAQ"
    said = chat({"role": "user", "content": "what?", "images": [png, jpeg]})["messages"][0]
    assert [part["type"] for part in said["content"]] == ["text", "image_url", "image_url"]
    urls = [part["image_url"]["url"] for part in said["content"][1:]]
    assert urls == [f"data:image/png;base64,{png}", f"data:image/jpeg;base64,{jpeg}"]


def test_results_of_tools_name_the_call_they_answer() -> None:
    calls = [
        {"function": {"name": "a", "arguments": {"x": "ü"}}},
        {"function": {"name": "b", "arguments": {}}},
        {"id": "mine", "function": {"name": "a", "arguments": {}}},
    ]
    found = chat(
        {"role": "assistant", "content": "", "tool_calls": calls, "thinking": "hm"},
        {"role": "tool", "content": "of b", "tool_name": "b"},
        {"role": "tool", "content": "the next"},
        {"role": "tool", "content": "named", "tool_call_id": "mine"},
        {"role": "tool", "content": "nobody asked"},
    )["messages"]
    made = found[0]["tool_calls"]
    assert found[0]["reasoning_content"] == "hm"
    assert [call["type"] for call in made] == ["function"] * 3
    assert json.loads(made[0]["function"]["arguments"]) == {"x": "ü"}
    ids = [call["id"] for call in made]
    assert len(set(ids)) == 3
    assert ids[2] == "mine"
    answered = [one["tool_call_id"] for one in found[1:]]
    assert answered[:3] == [ids[1], ids[0], "mine"]
    assert answered[3]


def test_a_prompt_goes_through_the_template_unless_it_is_raw() -> None:
    plain = asked("/api/generate", {"prompt": "p", "system": "s", "images": ["iVBOR"]})
    raw = asked("/api/generate", {"prompt": "p", "raw": True})
    middle = asked("/api/generate", {"prompt": "p", "suffix": "q"})
    assert plain.path == b"/v1/chat/completions"
    assert plain.body is not None
    assert [one["role"] for one in plain.body["messages"]] == ["system", "user"]
    assert (raw.path, raw.form) == (b"/completion", "completion")
    assert (middle.path, middle.form) == (b"/infill", "completion")
    assert middle.body is not None
    assert (middle.body["input_prefix"], middle.body["input_suffix"]) == ("p", "q")


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/api/chat", {"messages": []}),
        ("/api/chat", {}),
        ("/api/generate", {"prompt": ""}),
        ("/api/generate", {"keep_alive": -1}),
        ("/api/embed", {"input": ""}),
        ("/api/embed", {"input": []}),
        ("/api/embeddings", {"prompt": ""}),
    ],
)
def test_to_ask_for_nothing_only_brings_the_model(path: str, said: dict[str, Any]) -> None:
    found = asked(path, said)
    assert (found.body, found.path, found.method) == (None, b"/health", b"GET")


@pytest.mark.parametrize(
    ("path", "said", "words"),
    [
        ("/api/chat", {"messages": "hi"}, "'messages' must be a list"),
        ("/api/chat", {"messages": ["hi"]}, "'messages' must be a list of objects"),
        ("/api/chat", {"messages": [{"content": "x"}]}, "no 'role'"),
        ("/api/chat", {"messages": [{"role": "user", "content": ["x"]}]}, "'content'"),
        ("/api/generate", {"prompt": 1}, "'prompt' must be a text"),
        ("/api/generate", {"prompt": "x", "stream": "no"}, "'stream' must be true or false"),
        ("/api/generate", {"prompt": "x", "format": "xml"}, "'format'"),
        ("/api/generate", {"prompt": "x", "think": 3}, "'think'"),
        ("/api/generate", {"prompt": "x", "template": "{{ . }}"}, "another template"),
        ("/api/generate", {"prompt": "x", "raw": True, "system": "s"}, "'system' does not go"),
        ("/api/generate", {"prompt": "x", "options": [1]}, "'options' must be an object"),
        ("/api/generate", {"prompt": "x", "options": {"top_k": 1.5}}, "'top_k'"),
        ("/api/generate", {"prompt": "x", "options": {"top_p": True}}, "'top_p' must be a number"),
        ("/api/generate", {"prompt": "x", "options": {"stop": [1]}}, "'stop'"),
        ("/api/generate", {"keep_alive": 0}, "does not unload"),
        ("/api/chat", {"messages": [], "keep_alive": "0s"}, "does not unload"),
        ("/api/embed", {"input": {"a": 1}}, "'input'"),
        ("/api/embed", {"input": ["a", 1]}, "'input' must be a list of texts"),
        ("/api/embed", {"input": "a", "dimensions": "3"}, "'dimensions'"),
    ],
)
def test_what_cannot_be_meant_is_said(path: str, said: dict[str, Any], words: str) -> None:
    with pytest.raises(AskError, match=words):
        asked(path, said)


@given(
    st.sampled_from(sorted(PATHS)),
    st.dictionaries(st.sampled_from(KEYS), ANYTHING),
    st.lists(st.dictionaries(st.sampled_from(MESSAGE_KEYS), ANYTHING), max_size=3),
    st.dictionaries(st.sampled_from([*OPTIONS, "stop"]), ANYTHING),
    st.sets(st.sampled_from(["messages", "options", "prompt", "input"])),
)
def test_whatever_is_sent_is_asked_as_json_or_refused(
    path: str,
    said: dict[str, Any],
    messages: list[dict[str, Any]],
    options: dict[str, Any],
    right: set[str],
) -> None:
    good = {"messages": messages, "options": options, "prompt": "p", "input": ["i"]}
    try:
        found = asked(path, {**said, **{key: good[key] for key in right}})
    except AskError:
        return
    assert found.body is None or json.loads(json.dumps(found.body))
