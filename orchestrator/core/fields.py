"""The kinds of value that a profile's keys take: how each is read, and its JSON Schema.

Each kind is a type for the models in `profile`. Its reader raises ValueError saying what was
expected and what came instead, in words for the profile's author: pydantic's own words never
reach a person. `null` is never a value: a key without one is a line that was not finished.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, cast

from pydantic import PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from orchestrator.core.engine import FlagValue
from orchestrator.core.gateway_spec import TRIGGERS, Priority, Trigger
from orchestrator.core.nodes import shown
from orchestrator.core.spec import (
    AttachMode,
    LivenessMode,
    OnFailure,
    PolicyName,
    StartMode,
    Strategy,
)
from orchestrator.core.suggestion import suggest
from orchestrator.core.units import Limit, parse_duration, parse_limit, parse_percent, parse_size
from orchestrator.core.web import read_url

NAME_PATTERN = r"[a-z0-9][a-z0-9._-]{0,62}"
NAME_HINT = "use small letters, digits, '.', '_' and '-', at most 63, first a letter or a digit"
ENGINES = ("llama-server", "ollama")
ATTACH_MODES = ("auto", "never", "only")
LIVENESS_MODES = ("http", "inference")
FAILURES = ("rollback", "keep")
STRATEGIES = ("stop-first", "start-first")
POLICIES = ("always", "on-failure", "never")
START_MODES = ("always", "on-demand")
PRIORITIES = ("high", "normal", "low")
MAX_REPLICAS = 64

_NAME = re.compile(NAME_PATTERN)
_REFERENCE_SCHEMA = {"type": "string", "pattern": r"\$\{[^}]+\}"}
_DURATION_TEXT = r"^\s*(\d+(\.\d+)?\s*(ms|[dhms])\s*)+$|^\s*\d+(\.\d+)?\s*$|\$\{[^}]+\}"


def hinted(message: str, hint: str) -> PydanticCustomError:
    """The error to raise for a message that comes with what to do about it."""
    return PydanticCustomError("hinted", "{message}", {"message": message, "hint": hint})


def or_reference(schema: dict[str, Any]) -> dict[str, Any]:
    """`schema`, or text with `${...}` in it, which becomes such a value later."""
    return {"anyOf": [schema, _REFERENCE_SCHEMA]}


def is_name(text: str) -> bool:
    """Whether `text` may name an instance: it becomes part of file names."""
    return _NAME.fullmatch(text) is not None


def _text(value: object) -> str:
    if isinstance(value, str):
        if value:
            return value
        raise ValueError("expected text, got ''")
    hint = "put it in quotes" if isinstance(value, bool | int | float) else ""
    raise hinted(f"expected text, got {shown(value)}", hint)


def _any_text(value: object) -> str:
    return "" if value == "" and isinstance(value, str) else _text(value)


def _name(value: object) -> str:
    text = _text(value)
    if is_name(text):
        return text
    raise hinted(f"{shown(text)} cannot be a name", NAME_HINT)


def _host(value: object) -> str:
    text = _text(value)
    if any(character.isspace() for character in text) or "://" in text:
        raise hinted(f"expected an address such as 127.0.0.1, got {shown(text)}", "")
    return text


def _port(value: object) -> int | Literal["auto"]:
    if value == "auto":
        return "auto"
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 65535:
        return value
    quoted = isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 6
    hint = "remove the quotes" if quoted else ""
    raise hinted(f"expected a port from 1 to 65535 or 'auto', got {shown(value)}", hint)


def _count(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 10**6:
        return value
    raise ValueError(f"expected a whole number from 1, got {shown(value)}")


def _weight(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 10**6:
        return value
    raise ValueError(f"expected a whole number from 0, got {shown(value)}")


def _replicas(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_REPLICAS:
        return value
    raise ValueError(f"expected a whole number from 1 to {MAX_REPLICAS}, got {shown(value)}")


def _url(value: object) -> str:
    text = _text(value)
    try:
        read_url(text)
    except ValueError as error:
        # What stands before an @ is a password.
        got = "" if "@" in text else f", got {shown(text)}"
        raise hinted(f"{error}{got}", "as in https://api.openai.com/v1") from None
    return text


def _positive(value: object) -> float:
    seconds = parse_duration(value)
    if seconds == 0:
        raise ValueError(f"expected a duration above zero, got {shown(value)}")
    return seconds


LEAST_IDLE = 1.0
"""Seconds: what the gateway tells of its work is up to half a second old."""


def _idle(value: object) -> float:
    seconds = parse_duration(value)
    if seconds < LEAST_IDLE:
        raise ValueError(f"expected a duration of at least 1s, got {shown(value)}")
    return seconds


def _keep_alive(value: object) -> float:
    """Seconds; -1 for ever. The text "-1" is what Ollama itself refuses."""
    if value == -1 and isinstance(value, int):
        return -1.0
    try:
        return parse_duration(value)
    except ValueError:
        message = f"expected a duration such as 10m, or -1 for ever, got {shown(value)}"
        raise hinted(message, "remove the quotes" if value == "-1" else "") from None


def _switch(value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise ValueError(f"expected true or false, got {shown(value)}")


def _env_value(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        word = "true" if value else "false"
        raise hinted(f"expected text or a number, got {word}", f"quote it: '{word}' or '1'")
    if isinstance(value, int | float):
        return str(value)
    hint = 'write "" for an empty one' if value is None else ""
    raise hinted(f"expected text or a number, got {shown(value)}", hint)


def _variable(value: object) -> str | int | float | bool | None:
    if value is None or isinstance(value, str | int | float):
        return value
    message = f"expected text, a number, true, false or null, got {shown(value)}"
    raise hinted(message, "use a YAML anchor to repeat a list or a mapping")


def _flag(value: object) -> FlagValue:
    if value is None or isinstance(value, str | int | float):
        return value
    if not isinstance(value, list):
        raise ValueError(f"expected a value or a list of values, got {shown(value)}")
    for item in value:  # pyright: ignore[reportUnknownVariableType]
        if isinstance(item, list | dict) or item is None:
            raise ValueError(f"expected a list of plain values, got {shown(item)} in it")  # pyright: ignore[reportUnknownArgumentType]
    return value  # pyright: ignore[reportUnknownVariableType]


def _one_of(words: Sequence[str], what: str) -> Callable[[object], str]:
    def read(value: object) -> str:
        if isinstance(value, str) and value in words:
            return value
        raise hinted(f"unknown {what} {shown(value)}", suggest(str(value), words))

    return read


def _gpus(value: object) -> tuple[int, ...] | Literal["auto"]:
    if value == "auto":
        return "auto"
    message = f"expected a list of GPUs such as [0], or auto, got {shown(value)}"
    if not isinstance(value, list):
        raise ValueError(message)
    chosen = cast("list[object]", value)
    indices = [i for i in chosen if isinstance(i, int) and not isinstance(i, bool) and 0 <= i < 256]
    if len(indices) != len(chosen) or len(set(indices)) != len(indices):
        raise hinted(message, "`orchestrate doctor` lists them; [] is none")
    return tuple(indices)


_SIZE_TEXT = r"^\s*\d+(\.\d+)?\s*([kKMGT]B|[KMGT]iB|B)?\s*$|\$\{[^}]+\}"

_DURATION = {
    "anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "pattern": _DURATION_TEXT}]
}
_SCALAR = {"type": ["string", "number", "boolean", "null"]}
_TEXT = {"type": "string", "minLength": 1}

Text = Annotated[str, PlainValidator(_text), WithJsonSchema(_TEXT)]
AnyText = Annotated[str, PlainValidator(_any_text), WithJsonSchema({"type": "string"})]
Argument = Annotated[str, PlainValidator(_any_text), WithJsonSchema({"type": ["string", "number"]})]
Name = Annotated[
    str,
    PlainValidator(_name),
    WithJsonSchema({"type": "string", "pattern": rf"^{NAME_PATTERN}$|\$\{{[^}}]+\}}"}),
]
Host = Annotated[
    str, PlainValidator(_host), WithJsonSchema({"type": "string", "pattern": r"^\S+$"})
]
Port = Annotated[
    int | Literal["auto"],
    PlainValidator(_port),
    WithJsonSchema(
        or_reference(
            {"anyOf": [{"type": "integer", "minimum": 1, "maximum": 65535}, {"const": "auto"}]}
        )
    ),
]
Count = Annotated[
    int, PlainValidator(_count), WithJsonSchema(or_reference({"type": "integer", "minimum": 1}))
]
Weight = Annotated[
    int, PlainValidator(_weight), WithJsonSchema(or_reference({"type": "integer", "minimum": 0}))
]
Replicas = Annotated[
    int,
    PlainValidator(_replicas),
    WithJsonSchema(or_reference({"type": "integer", "minimum": 1, "maximum": MAX_REPLICAS})),
]
Url = Annotated[
    str,
    PlainValidator(_url),
    WithJsonSchema({"type": "string", "pattern": r"^https?://|\$\{[^}]+\}"}),
]
Duration = Annotated[float, PlainValidator(parse_duration), WithJsonSchema(_DURATION)]
Idle = Annotated[float, PlainValidator(_idle), WithJsonSchema(_DURATION)]
PositiveDuration = Annotated[float, PlainValidator(_positive), WithJsonSchema(_DURATION)]
RestartLimit = Annotated[
    Limit,
    PlainValidator(parse_limit),
    WithJsonSchema({"type": "string", "pattern": r"^\s*[1-9]\d*\s+in\s+\d.*$|\$\{[^}]+\}"}),
]
EnvValue = Annotated[
    str, PlainValidator(_env_value), WithJsonSchema({"type": ["string", "number"]})
]
Variable = Annotated[
    str | int | float | bool | None, PlainValidator(_variable), WithJsonSchema(_SCALAR)
]
Flag = Annotated[
    FlagValue,
    PlainValidator(_flag),
    WithJsonSchema(
        {"anyOf": [_SCALAR, {"type": "array", "items": {"type": ["string", "number", "boolean"]}}]}
    ),
]
Switch = Annotated[bool, PlainValidator(_switch), WithJsonSchema(or_reference({"type": "boolean"}))]
KeepAlive = Annotated[
    float,
    PlainValidator(_keep_alive),
    WithJsonSchema({"anyOf": [{"const": -1}, *_DURATION["anyOf"]]}),
]
Size = Annotated[
    int,
    PlainValidator(parse_size),
    WithJsonSchema(
        {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": _SIZE_TEXT}]}
    ),
]
Gpus = Annotated[
    tuple[int, ...] | Literal["auto"],
    PlainValidator(_gpus),
    WithJsonSchema(
        or_reference(
            {
                "anyOf": [
                    {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 255}},
                    {"const": "auto"},
                ]
            }
        )
    ),
]
LlamaServerWord = Annotated[
    Literal["llama-server"],
    PlainValidator(_one_of(ENGINES, "engine")),
    WithJsonSchema(or_reference({"enum": ["llama-server"]})),
]
OllamaWord = Annotated[
    Literal["ollama"],
    PlainValidator(_one_of(ENGINES, "engine")),
    WithJsonSchema({"enum": ["ollama"]}),
]
Attach = Annotated[
    AttachMode,
    PlainValidator(_one_of(ATTACH_MODES, "way to attach")),
    WithJsonSchema(or_reference({"enum": list(ATTACH_MODES)})),
]
Start = Annotated[
    StartMode,
    PlainValidator(_one_of(START_MODES, "way to start")),
    WithJsonSchema(or_reference({"enum": list(START_MODES)})),
]
Mode = Annotated[
    LivenessMode,
    PlainValidator(_one_of(LIVENESS_MODES, "liveness mode")),
    WithJsonSchema(or_reference({"enum": list(LIVENESS_MODES)})),
]
Policy = Annotated[
    PolicyName,
    PlainValidator(_one_of(POLICIES, "restart policy")),
    WithJsonSchema(or_reference({"enum": list(POLICIES)})),
]
Failure = Annotated[
    OnFailure,
    PlainValidator(_one_of(FAILURES, "answer to a failure")),
    WithJsonSchema(or_reference({"enum": list(FAILURES)})),
]
Replacing = Annotated[
    Strategy,
    PlainValidator(_one_of(STRATEGIES, "strategy")),
    WithJsonSchema(or_reference({"enum": list(STRATEGIES)})),
]
Percent = Annotated[
    float,
    PlainValidator(parse_percent),
    WithJsonSchema({"type": "string", "pattern": r"^\s*\d+(\.\d+)?\s*%\s*$|\$\{[^}]+\}"}),
]
PriorityWord = Annotated[
    Priority,
    PlainValidator(_one_of(PRIORITIES, "priority")),
    WithJsonSchema(or_reference({"enum": list(PRIORITIES)})),
]
TriggerWord = Annotated[
    Trigger,
    PlainValidator(_one_of(TRIGGERS, "reason to fall back")),
    WithJsonSchema(or_reference({"enum": list(TRIGGERS)})),
]
