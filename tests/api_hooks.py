"""What schemathesis has to know of the control API: streams that end, and names that exist.

Loaded by it, by the name of this module (SCHEMATHESIS_HOOKS).
"""

from __future__ import annotations

from typing import Any

import schemathesis

ENDLESS = frozenset({"/v1/events", "/v1/status", "/v1/instances/{name}/logs"})


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    """Streams end, and nobody is waited for, however a request was made up."""
    del context, kwargs
    if case.operation.path in ENDLESS:
        case.query = {**(case.query or {}), "follow": "0"}
    if case.operation.path == "/readyz":
        case.query = {name: value for name, value in (case.query or {}).items() if name != "wait"}


@schemathesis.hook
def map_path_parameters(context: Any, path_parameters: dict[str, Any]) -> dict[str, Any]:
    """Every other name is one that there is, by its length: the same request stays the same."""
    found = dict(path_parameters or {})
    name = found.get("name")
    if isinstance(name, str) and len(name) % 2:
        found["name"] = "coder" if "instances" in context.operation.path else "coding"
    return found
