"""Whether plain values are a profile: the models' verdict, in our words, with the rules' on top.

Pure, and without positions: every `Issue` names a path, and `parse` knows where that stands.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ValidationError

from orchestrator.core.blocks import (
    AimConfig,
    CatalogConfig,
    CloudConfig,
    CpuLimits,
    FallbackConfig,
    GatewayConfig,
    LimitsConfig,
    LivenessConfig,
    LogConfig,
    MemoryLimits,
    QueueConfig,
    ReadinessConfig,
    ResourcesConfig,
    RestartConfig,
    RestartLimits,
    RouteConfig,
    StopConfig,
    TokenConfig,
    UpdateConfig,
    VerifyConfig,
)
from orchestrator.core.engine import Issue
from orchestrator.core.fields import ENGINES
from orchestrator.core.nodes import Plain, shown
from orchestrator.core.problem import Path
from orchestrator.core.profile import (
    Defaults,
    LlamaServerConfig,
    LlamaServerDefaults,
    ModelConfig,
    OllamaConfig,
    OllamaDefaults,
    Profile,
)
from orchestrator.core.rules import broken_rules
from orchestrator.core.suggestion import MAX_ISSUES, suggest

_MODEL_HINT = "name a model, as in 'model: qwen2.5-coder:Q4_K_M'"
_BLOCKS: dict[str | int, type[BaseModel]] = {
    "catalog": CatalogConfig,
    "defaults": Defaults,
    "readiness": ReadinessConfig,
    "liveness": LivenessConfig,
    "restart": RestartConfig,
    "stop": StopConfig,
    "update": UpdateConfig,
    "limits": LimitsConfig,
    "memory": MemoryLimits,
    "cpu": CpuLimits,
    "restarts": RestartLimits,
    "resources": ResourcesConfig,
    "verify": VerifyConfig,
}
_GATEWAY: dict[tuple[str | int, ...], type[BaseModel]] = {
    (): GatewayConfig,
    ("queue",): QueueConfig,
    ("log",): LogConfig,
    ("fallback",): FallbackConfig,
    ("routes", "*"): RouteConfig,
    ("routes", "*", "to", "*"): AimConfig,
    ("cloud", "*"): CloudConfig,
    ("tokens", "*"): TokenConfig,
}
"""Those of the gateway, by where they are: what stands for `*` is a name, or a place in a list."""
_INSTANCES: dict[str | int, type[BaseModel]] = {
    "llama-server": LlamaServerConfig,
    "ollama": OllamaConfig,
}
_DEFAULTS: dict[str | int, type[BaseModel]] = {
    "llama-server": LlamaServerDefaults,
    "ollama": OllamaDefaults,
}
_KINDS = {
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "dict_type": "a mapping",
    "list_type": "a list",
    "string_type": "text",
}


def check(values: Plain) -> tuple[Profile | None, list[Issue]]:
    """The profile that `values` are, and everything that is wrong with it.

    The rules are asked even where the models refuse, so that all errors come at once.
    """
    if not isinstance(values, dict):
        message = "the file is empty" if values is None else f"got {shown(values)}"
        return None, [Issue((), f"expected a profile with 'instances:', {message}")]
    issues = broken_rules(values)
    try:
        return Profile.model_validate(values), issues
    except ValidationError as error:
        found = error.errors(include_url=False)[: MAX_ISSUES + 1]
        verdict = [_issue(one["type"], one["loc"], one) for one in found]
        return None, _without_noise([*issues, *verdict])


def where(path: Path) -> str:
    """The block that `path` is in, for people: `instance 'coder'`, `defaults of llama-server`."""
    if len(path) >= 2 and path[0] == "instances":
        return f"instance {shown(path[1])}"
    if len(path) >= 2 and path[0] == "defaults" and path[1] in ENGINES:
        return f"defaults of {path[1]}"
    return ""


def _issue(kind: str, found_at: Path, error: Any) -> Issue:
    """One of pydantic's errors in our words."""
    engine, path = _engine_and_path(found_at)
    if kind == "extra_forbidden":
        return _unknown_key(path, engine)
    block, inner = where(path), _dotted(path)
    if kind == "missing":
        if path == ("instances",):
            return Issue((), "'instances:' is missing", "write 'instances: {}' for none")
        return Issue(path[:-1], f"{block or 'the profile'} has no '{path[-1]}'", _MODEL_HINT)
    value = error["input"]
    if kind == "hinted":
        message, hint = error["ctx"]["message"], error["ctx"]["hint"]
    elif kind in _KINDS:
        message = f"expected {_KINDS[kind]}, got {shown(value)}"
        hint = _kind_hint(kind, value, path)
    else:
        # Only our own readers raise ValueError, which pydantic passes on in `ctx`.
        message, hint = str(error.get("ctx", {}).get("error", error["msg"])), ""
    label = f"{inner} of {block}" if block and inner else block or inner
    return Issue(path, f"{label}: {message}", hint, key=value is None)


def _engine_and_path(path: Path) -> tuple[str, Path]:
    """Pydantic says which kind of instance it tried; in the profile there is no such level."""
    if len(path) > 2 and path[0] == "instances":
        return str(path[2]), (*path[:2], *path[3:])
    return "", path


def _dotted(path: Path) -> str:
    inner = path[2:] if where(path) else path
    return "".join(f"[{p}]" if isinstance(p, int) else f".{str(p)[:64]}" for p in inner).lstrip(".")


def _kind_hint(kind: str, value: object, path: Path) -> str:
    if value is None:
        empty = "[]" if kind == "list_type" else "{}"
        if path[0] == "instances" and len(path) <= 2:
            return _MODEL_HINT if len(path) == 2 else "write 'instances: {}' for none"
        return f"write '{empty}' for none, or remove the line"
    if kind == "list_type" and isinstance(value, str):
        return "write it in [ ]"
    return ""


def _unknown_key(path: Path, engine: str) -> Issue:
    """An unknown key: with the nearest known one, or all that are known there."""
    *parents, key = path
    known = _known_keys(tuple(parents), engine)
    word = str(key)
    other = next((name for name in ENGINES if name != engine), "")
    if engine == "ollama" and word in ("start", "idle", "pin", "preload"):
        hint = "an Ollama loads its models on demand by itself: see 'keep_alive' of its 'models:'"
    elif engine and len(parents) == 2 and word in _INSTANCES[other].model_fields:
        hint = f"{word!r} goes with 'engine: {other}'"
    else:
        hint = suggest(word, known, limit=30)
    if hint.startswith("known") and "flags" in known:
        hint += "; a flag of llama-server goes under 'flags'"
    if hint.startswith("known") and "settings" in known:
        hint += "; a setting of Ollama goes under 'settings'"
    block = where(tuple(parents))
    inner = _dotted(tuple(parents))
    place = f"{inner} of {block}" if block and inner else block or inner or "the profile"
    what = "engine" if tuple(parents) == ("defaults",) else "key"
    return Issue(path, f"unknown {what} {shown(word)} in {place}", hint)


def _known_keys(path: Path, engine: str) -> list[str]:
    """The keys that the block at `path` takes."""
    if not path:
        model: type[BaseModel] = Profile
    elif len(path) == 2 and path[0] == "instances":
        model = _INSTANCES[engine]
    elif len(path) == 2 and path[0] == "defaults":
        model = _DEFAULTS[path[1]]
    elif path[0] == "gateway":
        where_in = tuple("*" if at % 2 else part for at, part in enumerate(path[1:]))
        model = _GATEWAY[where_in]
    elif isinstance(path[-1], int):
        model = ModelConfig
    else:
        model = _BLOCKS[path[-1]]
    # A model's own fields come before those that it shares with another.
    names = sorted(model.model_fields, key=lambda name: name not in model.__annotations__)
    return [model.model_fields[name].alias or name for name in names]


def _without_noise(issues: list[Issue]) -> list[Issue]:
    """Drop what only follows from an unknown engine: its keys are not ours to judge."""
    foreign = {i.path[:2] for i in issues if len(i.path) == 3 and i.path[2] == "engine"}
    return [i for i in issues if i.path[:2] not in foreign or i.path[2:] == ("engine",)]
