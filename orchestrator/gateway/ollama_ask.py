"""What a client asks in Ollama's words, asked of a llama-server in its own. Pure.

A field of the wrong type is an `AskError`, as Ollama itself refuses it; one that is not known is
left out, as Ollama does. What a model is loaded with (`num_ctx`, `num_gpu`, ...) and how long it
stays (`keep_alive`) is declared in the profile, so requests do not change it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, cast

from msgspec import Struct

Form = Literal["chat", "generate", "completion", "embed", "embeddings"]
"""What kind of answer the client awaits; `completion` is a text that no template was put around."""

Json = dict[str, Any]


class AskError(Exception):
    """The request cannot be meant so: what is wrong with it, and what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message, self.hint = message, hint


class Asked(Struct, frozen=True):
    """The request for llama-server. Without a `body` nothing is computed: the client wants the
    model to be there, or has given nothing to work on."""

    path: bytes
    form: Form
    body: Json | None = None
    dimensions: int | None = None

    @property
    def method(self) -> bytes:
        return b"GET" if self.body is None else b"POST"


OPTIONS: Mapping[str, tuple[str, type[int] | type[float]]] = {
    "num_predict": ("n_predict", int),
    "num_keep": ("n_keep", int),
    "seed": ("seed", int),
    "temperature": ("temperature", float),
    "top_k": ("top_k", int),
    "top_p": ("top_p", float),
    "min_p": ("min_p", float),
    "typical_p": ("typical_p", float),
    "repeat_last_n": ("repeat_last_n", int),
    "repeat_penalty": ("repeat_penalty", float),
    "presence_penalty": ("presence_penalty", float),
    "frequency_penalty": ("frequency_penalty", float),
    "mirostat": ("mirostat", int),
    "mirostat_tau": ("mirostat_tau", float),
    "mirostat_eta": ("mirostat_eta", float),
}
"""Ollama's options that llama-server knows as well: its name for each, and the type."""

_HEALTH = b"/health"

_MAGIC = (("/9j/", "jpeg"), ("R0lGOD", "gif"), ("UklGR", "webp"))
"""How pictures begin in base64; all else is called a PNG, and the engine looks for itself."""


def asked(path: str, body: Json) -> Asked:
    """The same request for llama-server. Raises `AskError`."""
    return _ASKS[path](body)


def _chat(body: Json) -> Asked:
    messages = _messages(_objects(body, "messages"))
    if not messages:
        return _nothing(body, "chat")
    ask = {"messages": messages, **_common(body), **_format(body), **_thinking(body)}
    if tools := _objects(body, "tools"):
        ask["tools"] = tools
    return Asked(b"/v1/chat/completions", "chat", ask)


def _generate(body: Json) -> Asked:
    if _text(body, "template"):
        message = "a request cannot bring another template: it is the model's own"
        raise AskError(message, "send the whole prompt with `raw: true`")
    prompt = _text(body, "prompt")
    if not prompt:
        return _nothing(body, "generate")
    suffix = _text(body, "suffix")
    if suffix or _flag(body, "raw"):
        return _completion(body, prompt, suffix)
    message = _with_images({"role": "user", "content": prompt}, _texts(body, "images"))
    system = _text(body, "system")
    messages = [{"role": "system", "content": system}, message] if system else [message]
    ask = {"messages": messages, **_common(body), **_format(body), **_thinking(body)}
    return Asked(b"/v1/chat/completions", "generate", ask)


def _completion(body: Json, prompt: str, suffix: str) -> Asked:
    """No template is put around it: what goes through one cannot be given."""
    for key in ("system", "images", "logprobs"):
        if body.get(key):
            raise AskError(f"{key!r} does not go together with 'raw' or 'suffix'")
    ask = _common(body)
    ask.pop("stream_options", None)
    wanted = _format(body).get("response_format")
    if wanted is not None:
        schema: Json = wanted.get("json_schema", {}).get("schema", {"type": "object"})
        ask["json_schema"] = schema
    if suffix:
        return Asked(
            b"/infill", "completion", {**ask, "input_prefix": prompt, "input_suffix": suffix}
        )
    return Asked(b"/completion", "completion", {**ask, "prompt": prompt})


def _embed(body: Json) -> Asked:
    given = body.get("input")
    texts = ([given] if given else []) if isinstance(given, str) else _texts(body, "input")
    wanted = body.get("dimensions")
    dimensions = int(_number("dimensions", wanted, int)) if wanted is not None else 0
    if not texts:
        return Asked(_HEALTH, "embed")
    ask = {"input": texts, "encoding_format": "float"}
    return Asked(b"/v1/embeddings", "embed", ask, dimensions or None)


def _embeddings(body: Json) -> Asked:
    prompt = _text(body, "prompt")
    if not prompt:
        return Asked(_HEALTH, "embeddings")
    return Asked(b"/v1/embeddings", "embeddings", {"input": [prompt], "encoding_format": "float"})


_ASKS: Mapping[str, Callable[[Json], Asked]] = {
    "/api/chat": _chat,
    "/api/generate": _generate,
    "/api/embed": _embed,
    "/api/embeddings": _embeddings,
}

PATHS = frozenset(_ASKS)
"""What can be asked of an instance that is no Ollama."""


def _nothing(body: Json, form: Form) -> Asked:
    """Nothing to say: the client wants the model to be loaded, or to leave memory."""
    keep = body.get("keep_alive")
    if not isinstance(keep, bool) and (keep == 0 or str(keep) in ("0", "0s", "0m", "0h")):
        message = "a request does not unload a model: what runs is declared in the profile"
        raise AskError(message, "`orchestrate stop`, or `idle:` in the profile")
    return Asked(_HEALTH, form)


# --- the parts of a request --------------------------------------------------------------------


def _common(body: Json) -> Json:
    """How it is sampled, and whether it is streamed."""
    ask: Json = {"stream": _flag(body, "stream", default=True)}
    if ask["stream"]:
        ask["stream_options"] = {"include_usage": True}
    if _flag(body, "logprobs"):
        ask["logprobs"] = True
        if body.get("top_logprobs") is not None:
            ask["top_logprobs"] = _number("top_logprobs", body["top_logprobs"], int)
    options = body.get("options")
    if options is not None and not isinstance(options, dict):
        raise AskError("'options' must be an object")
    return {**ask, **_sampling(cast("Json", options or {}))}


def _sampling(options: Json) -> Json:
    found: Json = {}
    for name, (theirs, kind) in OPTIONS.items():
        if options.get(name) is not None:
            found[theirs] = _number(name, options[name], kind)
    if found.get("n_predict", 1) <= 0:
        # Ollama says "no limit" in several ways, llama-server in one.
        found["n_predict"] = -1
    stop = options.get("stop")
    if stop is not None:
        found["stop"] = [stop] if isinstance(stop, str) else _texts(options, "stop")
    return found


def _format(body: Json) -> Json:
    wanted = body.get("format")
    if wanted in (None, ""):
        return {}
    if wanted == "json":
        return {"response_format": {"type": "json_object"}}
    if isinstance(wanted, dict):
        return {"response_format": {"type": "json_schema", "json_schema": {"schema": wanted}}}
    raise AskError("'format' must be 'json', or a JSON schema")


def _thinking(body: Json) -> Json:
    think = body.get("think")
    if think is None or think == "":
        return {}
    if isinstance(think, bool):
        return {"chat_template_kwargs": {"enable_thinking": think}}
    if isinstance(think, str):
        return {"chat_template_kwargs": {"enable_thinking": True, "reasoning_effort": think}}
    raise AskError("'think' must be true, false, or how much, as in 'low'")


def _messages(given: list[Json]) -> list[Json]:
    """The messages, with an id for each call of a tool, so that results can name their call."""
    calls: list[tuple[str, str]] = []
    found: list[Json] = []
    for one in given:
        role = _text(one, "role").lower()
        if not role:
            raise AskError("a message says no 'role'")
        said: Json = {"role": role, "content": _text(one, "content")}
        if thinking := _text(one, "thinking"):
            said["reasoning_content"] = thinking
        if made := [_call(call, f"call_{at}") for at, call in _numbered(one, len(found))]:
            said["tool_calls"] = made
            calls += [(call["id"], call["function"]["name"]) for call in made]
        if role == "tool":
            said["tool_call_id"] = _answered(one, calls)
        found.append(_with_images(said, _texts(one, "images")))
    return found


def _numbered(message: Json, place: int) -> list[tuple[str, Json]]:
    return [(f"{place}_{at}", call) for at, call in enumerate(_objects(message, "tool_calls"))]


def _call(call: Json, name: str) -> Json:
    function = call.get("function")
    if not isinstance(function, dict):
        raise AskError("a tool call has no 'function'")
    said = cast("Json", function)
    arguments = said.get("arguments")
    if not isinstance(arguments, dict | None):
        raise AskError("the 'arguments' of a tool call must be an object")
    return {
        "id": _text(call, "id") or name,
        "type": "function",
        "function": {
            "name": _text(said, "name"),
            "arguments": as_text(cast("Json", arguments or {})),
        },
    }


def _answered(message: Json, calls: list[tuple[str, str]]) -> str:
    """The call that a tool's result is for: the one it names, else the next of that tool."""
    said, tool = _text(message, "tool_call_id"), _text(message, "tool_name")
    fits = [call for call in calls if (call[0] == said if said else call[1] == tool or not tool)]
    call = next(iter(fits or calls), (said, tool))
    if call in calls:
        calls.remove(call)
    return said or call[0] or "call"


def _with_images(message: Json, images: list[str]) -> Json:
    if not images:
        return message
    parts: list[Json] = [{"type": "text", "text": message["content"]}]
    for image in images:
        kind = next((name for begin, name in _MAGIC if image.startswith(begin)), "png")
        url = f"data:image/{kind};base64,{image}"
        parts.append({"type": "image_url", "image_url": {"url": url}})
    return {**message, "content": parts}


# --- fields of the right type ------------------------------------------------------------------


def as_text(value: object) -> str:
    """JSON on one line, with its characters as they are."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _text(body: Json, key: str) -> str:
    value = body.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise AskError(f"{key!r} must be a text")
    return value


def _flag(body: Json, key: str, *, default: bool = False) -> bool:
    value = body.get(key)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise AskError(f"{key!r} must be true or false")
    return value


def _texts(body: Json, key: str) -> list[str]:
    values = body.get(key)
    if values is None:
        return []
    if not isinstance(values, list):
        raise AskError(f"{key!r} must be a list of texts")
    found = [one for one in cast("list[object]", values) if isinstance(one, str)]
    if len(found) != len(cast("list[object]", values)):
        raise AskError(f"{key!r} must be a list of texts")
    return found


def _objects(body: Json, key: str) -> list[Json]:
    values = body.get(key)
    if values is None:
        return []
    if not isinstance(values, list):
        raise AskError(f"{key!r} must be a list")
    found = [cast("Json", one) for one in cast("list[object]", values) if isinstance(one, dict)]
    if len(found) != len(cast("list[object]", values)):
        raise AskError(f"{key!r} must be a list of objects")
    return found


def _number(name: str, value: object, kind: type[int] | type[float]) -> int | float:
    """A number as the engine takes it: 2.0 is a whole one, for clients that know no other."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise AskError(f"{name!r} must be a number")
    if isinstance(value, float) and not math.isfinite(value):
        raise AskError(f"{name!r} must be a number")
    if kind is int and value != int(value):
        raise AskError(f"{name!r} must be a whole number")
    return int(value) if kind is int else value
