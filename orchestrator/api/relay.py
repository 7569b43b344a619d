"""What running engines say of themselves, for a scrape that asks for it.

An engine is asked by us, with its key where it wants one, so that whoever scrapes needs neither
its port nor its key. What it answers is not trusted: it is bounded in time and size, taken apart
line by line, and only its own metrics are passed on, as those of its instance.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from typing import Any, Literal, cast

from msgspec import Struct, field

from orchestrator.control.inference import authorization
from orchestrator.core.spec import InstanceSpec
from orchestrator.core.status import InstanceStatus, Observed, Phase
from orchestrator.core.successor import is_aside
from orchestrator.runtime.probe import ask

WITHIN = 1.0
"""Seconds in which an engine answers, or is left out. All are asked at once."""

LIMIT = 1 << 16
"""Bytes of an answer; llama-server's has 3,000."""

MAX_LINE = 1 << 12
MAX_LINES = 1000

PREFIX = "llamacpp"
"""How the names of llama-server's metrics begin: no engine can speak in the name of another, in
ours, or in that of Prometheus itself."""

RelayedKind = Literal["gauge", "counter", "unknown"]
Sample = tuple[str, Mapping[str, str], float]
"""Instance, labels, value."""


class NotMetricsError(ValueError):
    """What an engine answered is not what was asked for."""


class Theirs(Struct):
    """One metric of engines, with what each of them says."""

    kind: RelayedKind = "unknown"
    says: str = ""
    samples: list[Sample] = field(default_factory=list[Sample])


class Loaded(Struct, frozen=True):
    """A model in the memory of an Ollama: bytes in all, and those on GPUs."""

    instance: str
    model: str
    memory: int
    gpu_memory: int


class Relayed(Struct):
    """What all engines said. `answered` has each that was asked."""

    answered: dict[str, bool] = field(default_factory=dict[str, bool])
    metrics: dict[str, Theirs] = field(default_factory=dict[str, Theirs])
    loaded: list[Loaded] = field(default_factory=list[Loaded])


async def relayed(observed: Observed) -> Relayed:
    """What those that are ready say, in a second at most, whatever one of them does."""
    asked = {name: path for name, one in observed.items() if (path := path_of(one))}
    specs = [observed[name].spec for name in asked]
    bodies = await asyncio.gather(*map(_body, specs, asked.values()))
    found = Relayed()
    for (name, path), body in zip(asked.items(), bodies, strict=True):
        try:
            if path == "/metrics":
                _add_metrics(found.metrics, name, body)
            else:
                found.loaded += _loaded(name, body)
            found.answered[name] = True
        except NotMetricsError:
            found.answered[name] = False
        # Others have their turn between two engines.
        await asyncio.sleep(0)
    _settle(found.metrics)
    return found


def path_of(status: InstanceStatus) -> str:
    """Where this one says how it is; empty where it does not, or is not ready."""
    if status.phase is not Phase.READY or is_aside(status.name):
        return ""
    if status.spec.holds is not None:
        return "/api/ps"
    command = status.spec.command
    variable = command.env.get("LLAMA_ARG_ENDPOINT_METRICS", "").lower()
    enabled = "--metrics" in command.argv or variable in ("1", "true", "on", "enabled")
    return "/metrics" if enabled else ""


async def _body(spec: InstanceSpec, path: str) -> bytes:
    """What it answers; nothing where it does not, or with too much."""
    answer = await ask(
        spec.endpoint, "GET", path, within=WITHIN, headers=authorization(spec), limit=LIMIT
    )
    if answer is None or answer.status != 200 or len(answer.body) > LIMIT:
        return b""
    return answer.body


def _loaded(name: str, body: bytes) -> list[Loaded]:
    try:
        said = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise NotMetricsError from error
    models = cast(dict[str, Any], said).get("models") if isinstance(said, dict) else None
    if not isinstance(models, list):
        raise NotMetricsError
    found: dict[str, Loaded] = {}
    for model in cast(list[Any], models):
        if isinstance(model, dict):
            entry = cast(dict[str, Any], model)
            called = str(entry.get("name") or entry.get("model", ""))
            found[called] = Loaded(name, called, _count(entry, "size"), _count(entry, "size_vram"))
    return list(found.values())


def _count(entry: Mapping[str, Any], key: str) -> int:
    value = entry.get(key)
    return value if isinstance(value, int) and 0 <= value < 1 << 63 else 0


_SAMPLE = re.compile(
    r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})?[ \t]+([-+.0-9a-zA-Z]+)(?:[ \t]+-?[0-9]+)?[ \t]*"
)
_LABEL = re.compile(
    r'[ \t]*([a-zA-Z_][a-zA-Z0-9_]*)[ \t]*=[ \t]*"((?:[^"\\]|\\.)*)"[ \t]*(?:,|$)[ \t]*'
)
_ABOUT = re.compile(r"#[ \t]+(HELP|TYPE)[ \t]+([a-zA-Z_:][a-zA-Z0-9_:]*)[ \t]*(.*)")
_ESCAPED = re.compile(r"\\(.)")


def _add_metrics(metrics: dict[str, Theirs], instance: str, body: bytes) -> None:
    """All that the instance says, or nothing of it: half an answer says what is not so."""
    kinds: dict[str, str] = {}
    says: dict[str, str] = {}
    samples: dict[str, dict[frozenset[tuple[str, str]], float]] = {}
    for line in _lines(body):
        if about := _ABOUT.fullmatch(line):
            (kinds if about[1] == "TYPE" else says)[about[2]] = about[3]
        elif line.strip() and not line.startswith("#"):
            name, labels, value = _sample(line)
            if name.startswith(PREFIX):
                samples.setdefault(name, {})[frozenset(labels.items())] = value
    if not samples:
        raise NotMetricsError
    for name, values in samples.items():
        _merge(metrics, name, _kind(name, kinds.get(name, "")), _unescaped(says.get(name, "")))
        metrics[name].samples += [(instance, dict(key), value) for key, value in values.items()]


def _lines(body: bytes) -> list[str]:
    try:
        lines = body.decode().split("\n")
    except UnicodeDecodeError as error:
        raise NotMetricsError from error
    # Without an end to its last line it is not whole: `12` may be the beginning of `12000`.
    if lines[-1] or len(lines) > MAX_LINES or max(map(len, lines)) > MAX_LINE:
        raise NotMetricsError
    return [line.removesuffix("\r") for line in lines]


def _sample(line: str) -> tuple[str, dict[str, str], float]:
    match = _SAMPLE.fullmatch(line)
    if match is None:
        raise NotMetricsError
    try:
        return match[1], _labels(match[2] or ""), float(match[3])
    except ValueError as error:
        raise NotMetricsError from error


def _labels(text: str) -> dict[str, str]:
    """Its own labels. One that says which instance it is, is ours to say."""
    found: dict[str, str] = {}
    at = 0
    while at < len(text):
        match = _LABEL.match(text, at)
        if match is None:
            raise NotMetricsError
        at = match.end()
        if match[1] != "instance" and not match[1].startswith("__"):
            found[match[1]] = _unescaped(match[2])
    return found


def _unescaped(text: str) -> str:
    return _ESCAPED.sub(lambda match: "\n" if match[1] == "n" else match[1], text)


def _kind(name: str, said: str) -> RelayedKind:
    """What a metric may be called: a counter is one only by its name, too."""
    if said == "counter" and name.endswith("_total") and name != "_total":
        return "counter"
    return "gauge" if said == "gauge" and not name.endswith("_total") else "unknown"


def _merge(metrics: dict[str, Theirs], name: str, kind: RelayedKind, says: str) -> None:
    """Engines of different versions may not agree what it is."""
    known = metrics.setdefault(name, Theirs(kind, says))
    if known.kind != kind:
        known.kind = "unknown"


def _settle(metrics: Mapping[str, Theirs]) -> None:
    """A counter is written under its name without `_total`: that must not be another's."""
    for name, metric in metrics.items():
        if metric.kind == "counter" and name.removesuffix("_total") in metrics:
            metric.kind = "unknown"
