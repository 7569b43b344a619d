"""The JSON Schema of a profile, for editors and `orchestrate schema`, made from the models.

Draft 7, which the YAML language servers know best. It judges the text as written: `${...}` may
stand for any number, and rules across fields (needs, ports) are left to `validate`.
"""

from __future__ import annotations

from typing import Any, cast

from orchestrator.core.fields import NAME_PATTERN
from orchestrator.core.profile import Profile
from orchestrator.core.reference import VARIABLE_NAME

_DRAFT = "http://json-schema.org/draft-07/schema#"


def profile_schema() -> dict[str, Any]:
    """A new dictionary each time, keys in the order of the models."""
    made = Profile.model_json_schema(by_alias=True, ref_template="#/definitions/{model}")
    schema = cast("dict[str, Any]", _for_editors(made))
    definitions = schema.pop("$defs")
    _name_keys(schema["properties"]["instances"], NAME_PATTERN)
    _name_keys(schema["properties"]["vars"], VARIABLE_NAME.pattern)
    title = "A profile of orchestrate"
    return {"$schema": _DRAFT, "title": title, **schema, "definitions": definitions}


def _name_keys(mapping: dict[str, Any], pattern: str) -> None:
    # `<<` is a key only until YAML's merge is carried out, which not every editor does first.
    mapping["propertyNames"] = {"pattern": f"^({pattern}|<<)$"}


def _for_editors(node: object, *, names: bool = False) -> object:
    """`node` without the titles and nulls that pydantic adds.

    A key that is left out is never null in a profile, and draft 7 ignores all beside a `$ref`.
    `names`: the keys of `node` are names of properties, not words of JSON Schema.
    """
    if isinstance(node, list):
        return [_for_editors(item) for item in cast("list[object]", node)]
    if not isinstance(node, dict):
        return node
    schema = cast("dict[str, Any]", node)
    if names:
        return {key: _for_editors(value) for key, value in schema.items()}
    made = {
        key: _for_editors(value, names=key in ("properties", "$defs"))
        for key, value in schema.items()
        if key != "title" and not (key == "default" and value in (None, {}, []))
    }
    choices = made.get("anyOf")
    if isinstance(choices, list) and {"type": "null"} in choices:
        left = [choice for choice in cast("list[Any]", choices) if choice != {"type": "null"}]
        del made["anyOf"]
        made = {**(left[0] if len(left) == 1 else {"anyOf": left}), **made}
    if "$ref" in made and len(made) > 1:
        made = {"allOf": [{"$ref": made.pop("$ref")}], **made}
    return made
