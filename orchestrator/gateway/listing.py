"""What there is to ask for, as OpenAI's, Anthropic's and Ollama's clients list it. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from orchestrator.gateway.table import Route, Table, Target

OLLAMA_API = "0.34.4"
"""The version of Ollama whose API this is: clients ask for it before they rely on anything."""

LONG_AGO = "1970-01-01T00:00:00Z"

FOR_EVER = "2318-01-01T00:00:00Z"
"""When a model leaves memory that stays: about what Ollama says, too."""

Facts = Mapping[str, Any]


def openai(table: Table) -> dict[str, Any]:
    """`/v1/models`: every name, with who serves it and whether it does so now."""
    return {"object": "list", "data": [model(table, route) for route in table.names.values()]}


def model(table: Table, route: Route) -> dict[str, Any]:
    """`/v1/models/NAME`: one of them."""
    targets = [target for _, target in table.aims(route)]
    return {
        "id": route.name,
        "object": "model",
        "created": 0,
        "owned_by": "orchestrate",
        "ready": any(target.serves for target in targets),
        "instances": [target.name for target in targets],
    }


def anthropic(table: Table) -> dict[str, Any]:
    """`/v1/models` for Anthropic's clients."""
    rows = [anthropic_model(table, route) for route in table.names.values()]
    ends = {"first_id": rows[0]["id"], "last_id": rows[-1]["id"]} if rows else {}
    return {"data": rows, "has_more": False, "first_id": None, "last_id": None, **ends}


def anthropic_model(_table: Table, route: Route) -> dict[str, Any]:
    return {
        "type": "model",
        "id": route.name,
        "display_name": route.name,
        "created_at": LONG_AGO,
    }


def version(_table: Table) -> dict[str, Any]:
    """`/api/version`."""
    return {"version": OLLAMA_API}


def tags(table: Table) -> dict[str, Any]:
    """`/api/tags`: every name."""
    return {"models": [_tag(table, route) for route in table.names.values()]}


def running(table: Table) -> dict[str, Any]:
    """`/api/ps`: what is in memory now."""
    rows: list[dict[str, Any]] = []
    for route in table.names.values():
        for aim, target in table.aims(route):
            facts = target.facts.get(aim.model, {})
            if target.serves and facts.get("loaded", target.engine != "ollama"):
                rows.append(_running(table, route, facts))
                break
    return {"models": rows}


def show(table: Table, route: Route) -> dict[str, Any]:
    """`/api/show` of a model that no Ollama has: what its header says."""
    facts = _facts(table, route)
    family = facts.get("family") or "unknown"
    about = {"general.architecture": family}
    if facts.get("parameters"):
        about["general.parameter_count"] = facts["parameters"]
    if facts.get("context"):
        about[f"{family}.context_length"] = facts["context"]
    return {
        "modelfile": "",
        "parameters": "",
        "template": "",
        "details": _details(facts),
        "model_info": about,
        "capabilities": facts.get("capabilities") or ["completion"],
        "modified_at": facts.get("modified") or LONG_AGO,
    }


def _tag(table: Table, route: Route) -> dict[str, Any]:
    facts = _facts(table, route)
    return {
        **_known(table, route, facts),
        "modified_at": facts.get("modified") or LONG_AGO,
        "capabilities": facts.get("capabilities") or [],
    }


def _running(table: Table, route: Route, facts: Facts) -> dict[str, Any]:
    return {
        **_known(table, route, facts),
        "expires_at": FOR_EVER,
        "size_vram": facts.get("vram", 0),
        "context_length": facts.get("loaded_context") or facts.get("context") or 0,
    }


def _known(table: Table, route: Route, facts: Facts) -> dict[str, Any]:
    return {
        "name": route.name,
        "model": route.name,
        "size": facts.get("size", 0),
        "digest": facts.get("digest") or _digest(table, route, facts),
        "details": _details(facts),
    }


def _details(facts: Facts) -> dict[str, Any]:
    family = facts.get("family", "")
    return {
        "parent_model": "",
        "format": "gguf",
        "family": family,
        "families": [family] if family else [],
        "parameter_size": facts.get("parameter_size") or _in_billions(facts.get("parameters") or 0),
        "quantization_level": facts.get("quantization", ""),
    }


def _in_billions(count: int) -> str:
    """As people call models: `7.6B`, `494M`."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if count >= size:
            return f"{count / size:.3g}{letter}"
    return str(count) if count else ""


def _facts(table: Table, route: Route) -> Facts:
    """Those of the first that is behind the name."""
    for aim, target in table.aims(route):
        if aim.model in target.facts:
            return target.facts[aim.model]
    return {}


def _digest(table: Table, route: Route, facts: Facts) -> str:
    """Tells one file from another, for clients that cut it to twelve characters: it is no digest of
    the file, which would have to be read for that."""
    target: Target | None = next((one for _, one in table.aims(route)), None)
    marks = (target.name if target else route.name, facts.get("size"), facts.get("modified"))
    return hashlib.sha256(repr(marks).encode()).hexdigest()
