"""What schemathesis has to know of the control API: streams that end, and names that exist.

Loaded by it, by the name of this module (SCHEMATHESIS_HOOKS).
"""

from __future__ import annotations

from typing import Any

import schemathesis

ENDLESS = frozenset({"/v1/events", "/v1/status", "/v1/instances/{name}/logs"})


@schemathesis.hook
def map_query(context: Any, query: dict[str, Any] | None) -> dict[str, Any] | None:
    """Streams end, and nobody is waited for."""
    path = context.operation.path
    if path in ENDLESS:
        return {**(query or {}), "follow": "0"}
    if path == "/readyz" and query:
        return {name: value for name, value in query.items() if name != "wait"}
    return query


@schemathesis.hook
def map_path_parameters(context: Any, path_parameters: dict[str, Any]) -> dict[str, Any]:
    """Every other name is one that there is, by its length: the same request stays the same."""
    found = dict(path_parameters or {})
    name = found.get("name")
    if isinstance(name, str) and len(name) % 2:
        found["name"] = "coder" if "instances" in context.operation.path else "coding"
    return found
