"""What there is to ask for, as OpenAI's and Ollama's clients list it."""

from __future__ import annotations

from typing import Any

from orchestrator.gateway.table import Route, Table


def openai(table: Table) -> dict[str, Any]:
    """`/v1/models`: every name, with who serves it and whether it does so now."""
    return {"object": "list", "data": [_model(table, route) for route in table.names.values()]}


def _model(table: Table, route: Route) -> dict[str, Any]:
    targets = [target for _, target in table.aims(route)]
    return {
        "id": route.name,
        "object": "model",
        "created": 0,
        "owned_by": "orchestrate",
        "ready": any(target.serves for target in targets),
        "instances": [target.name for target in targets],
    }


def ollama(table: Table) -> dict[str, Any]:
    """`/api/tags`: every name, for Ollama's clients."""
    return {
        "models": [
            {
                "name": name,
                "model": name,
                "modified_at": "1970-01-01T00:00:00Z",
                "size": 0,
                "digest": "",
                "details": {"format": "gguf", "family": "", "families": None},
            }
            for name in table.names
        ]
    }
