"""What the API's documents look like, as JSON Schema. They may gain fields; none is taken away."""

from __future__ import annotations

from typing import Any

_TEXT = {"type": "string"}
_WHOLE = {"type": "integer"}
_NUMBER = {"type": "number"}
_YES_NO = {"type": "boolean"}
_TEXTS = {"type": "array", "items": _TEXT}


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]}


def _object(
    required: dict[str, Any], optional: dict[str, Any] | None = None, **more: Any
) -> dict[str, Any]:
    return {
        "type": "object",
        "required": list(required),
        "properties": {**required, **(optional or {})},
        **more,
    }


def _list_of(name: str) -> dict[str, Any]:
    return {"type": "array", "items": {"$ref": f"#/components/schemas/{name}"}}


_ERROR = _object({"code": _TEXT, "message": _TEXT, "hint": _TEXT})
_NAME = {"type": "string", "minLength": 1}
_ABSOLUTE = {"type": "string", "pattern": "^/[^\\x00]*$"}

_PROBLEM = _object(
    {
        "file": _TEXT,
        "line": _WHOLE,
        "column": _WHOLE,
        "path": _TEXT,
        "message": _TEXT,
        "hint": _TEXT,
    },
    {"source": _TEXT},
)

_REASON = _object({"field": _TEXT, "have": {}, "want": {}})
_ACTION = _object(
    {
        "action": _TEXT,
        "instance": _TEXT,
        "reasons": {"type": "array", "items": _REASON},
        "message": _TEXT,
    }
)

_INSTANCE = _object(
    {
        "name": _TEXT,
        "replica_of": _TEXT,
        "engine": _TEXT,
        "profiles": _TEXTS,
        "model": _TEXT,
        "phase": {
            "enum": [
                *("pending", "starting", "ready", "unready"),
                *("backoff", "stopping", "stopped", "failed"),
            ]
        },
        "reason": _TEXT,
        "message": _TEXT,
        "managed": _YES_NO,
        "pid": _or_null(_WHOLE),
        "host": _TEXT,
        "port": _WHOLE,
        "url": _TEXT,
        "since": _or_null(_TEXT),
        "uptime_s": _or_null(_NUMBER),
        "ready_after_s": _or_null(_NUMBER),
        "restarts": _WHOLE,
        "memory_bytes": _WHOLE,
        "cpu_percent": _NUMBER,
        "stale": _YES_NO,
        "command": _TEXTS,
        "models": {"type": "array", "items": {"type": "object"}},
        "requests": _or_null({"$ref": "#/components/schemas/Requests"}),
    },
    {"names": _list_of("GatewayName")},
)

_TRAFFIC = ("tokens_s", "first_token_s", "requests_s")
_WHOLES = ("in_flight", "waiting", "requests", "failures", "retries", "fallbacks", "bytes")
_TOKENS = ("prompt_tokens", "generated_tokens")
_SHARES = ("requests", "failures", "fallbacks")
_TIMES = ("first_token_s", "first_token_p95_s", "request_s", "request_p95_s")

_REQUESTS = _object(
    {
        **dict.fromkeys((*_WHOLES, *_TOKENS), _WHOLE),
        "tokens_s": _NUMBER,
        "outcomes": {"type": "object", "additionalProperties": _WHOLE},
        **dict.fromkeys(_TIMES, _or_null(_NUMBER)),
    },
    {"requests_s": _NUMBER, "lately": _object(dict.fromkeys(_SHARES, _WHOLE))},
)

_GATEWAY_NAME = _object(
    {
        "name": _TEXT,
        "instances": _TEXTS,
        "ready": _TEXTS,
        "fallback": _TEXTS,
        **dict.fromkeys((*_SHARES, *_TOKENS), _WHOLE),
        "recent": _or_null(_NUMBER),
    }
)

_STATUS = _object(
    {
        "version": _TEXT,
        "daemon": _or_null(_object({"pid": _WHOLE, "since": _TEXT}, {"listen": _or_null(_TEXT)})),
        "profiles": {
            "type": "array",
            "items": _object(
                {
                    "name": _TEXT,
                    "file": _TEXT,
                    "revision": _TEXT,
                    "ok": _YES_NO,
                    "errors": _list_of("Problem"),
                }
            ),
        },
        "converged": _YES_NO,
        "settled": _YES_NO,
        "missing": _TEXTS,
        "warnings": _TEXTS,
        "gateway": _or_null({"$ref": "#/components/schemas/Instance"}),
        "instances": _list_of("Instance"),
    }
)

_ADD = {"type": "boolean", "default": False, "description": "To what is applied already."}
_FORCE = {"type": "boolean", "default": False, "description": "Also what is too much for memory."}

_SOURCE = _object(
    {
        "path": {**_ABSOLUTE, "description": "Absolute."},
        "is_folder": _YES_NO,
        "env": {
            "type": "object",
            "additionalProperties": _TEXT,
            "description": "What the profiles may know of the shell of whoever applies.",
        },
        "cwd": {**_ABSOLUTE, "description": "Where `./models` is looked for."},
    }
)

_PROFILE = _object(
    {
        "name": _TEXT,
        "file": _TEXT,
        "active": _YES_NO,
        "ok": _YES_NO,
        "errors": _list_of("Problem"),
        "description": _TEXT,
        "instances": _TEXTS,
        "gateway": _YES_NO,
    }
)

_MODEL = _object(
    {
        "ref": _TEXT,
        "source": _TEXT,
        "path": _TEXT,
        "engine_hint": _TEXT,
        "architecture": _or_null(_TEXT),
        "parameters": _or_null(_WHOLE),
        "quantization": _or_null(_TEXT),
        "context_length": _or_null(_WHOLE),
        "size_bytes": _WHOLE,
        "loaded_by": _TEXTS,
    }
)

_BYTES_BY_NAME = {"type": "object", "additionalProperties": _WHOLE}

SCHEMAS: dict[str, dict[str, Any]] = {
    "Error": _object({"error": _ERROR}),
    "Problem": _PROBLEM,
    "Rejected": _object({"error": _ERROR, "errors": _list_of("Problem")}),
    "Conflict": _object({"error": _ERROR}, {"revision": _TEXT}),
    "Done": _object({"ok": {"const": True}}),
    "Readiness": _object({"converged": _YES_NO, "missing": _TEXTS}),
    "Instance": _INSTANCE,
    "Requests": _REQUESTS,
    "GatewayName": _GATEWAY_NAME,
    "Status": _STATUS,
    "Source": _SOURCE,
    "Sources": _object({"sources": _list_of("Source")}, {"add": _ADD, "force": _FORCE}),
    "Draft": _object({"profile": _NAME, "text": _TEXT}, {"add": _ADD, "force": _FORCE}),
    "How": _object({}, {"add": _ADD, "force": _FORCE}),
    "Action": _ACTION,
    "Plan": _object({"actions": _list_of("Action"), "warnings": _list_of("Problem")}),
    "Accepted": _object(
        {
            "number": _WHOLE,
            "after": _WHOLE,
            "profiles": _TEXTS,
            "actions": _list_of("Action"),
            "warnings": _list_of("Problem"),
        }
    ),
    "Removed": _object({"removed": _TEXTS, "number": _WHOLE}),
    "Outcome": _object({"instance": _TEXT, "ok": _YES_NO, "phase": _TEXT, "message": _TEXT}),
    "Suspects": _object({"instances": _TEXTS}),
    "Validation": _object(
        {"ok": _YES_NO, "errors": _list_of("Problem"), "warnings": _list_of("Problem")}
    ),
    "Profile": _PROFILE,
    "Profiles": _object({"profiles": _list_of("Profile")}),
    "ProfileText": _object({"name": _TEXT, "file": _TEXT, "text": _TEXT, "revision": _TEXT}),
    "Edit": _object(
        {
            "text": {**_TEXT, "description": "The whole file."},
            "revision": {**_TEXT, "description": "As it was read."},
        }
    ),
    "Written": _object(
        {"name": _TEXT, "file": _TEXT, "revision": _TEXT, "warnings": _list_of("Problem")}
    ),
    "Machine": _object(
        {
            "memory": _object(
                {
                    "total": _WHOLE,
                    "available": _or_null(_WHOLE),
                    "budget": _or_null(_WHOLE),
                    "instances": _BYTES_BY_NAME,
                }
            ),
            "gpus": {
                "type": "array",
                "items": _object(
                    {
                        "index": _WHOLE,
                        "name": _TEXT,
                        "total": _WHOLE,
                        "free": _WHOLE,
                        "instances": _BYTES_BY_NAME,
                    }
                ),
            },
        }
    ),
    "History": _object(
        {
            "every_s": _NUMBER,
            "at": {"type": "array", "items": _NUMBER},
            "instances": {
                "type": "object",
                "additionalProperties": _object(
                    {
                        "memory_bytes": {"type": "array", "items": _or_null(_WHOLE)},
                        "cpu_percent": {"type": "array", "items": _or_null(_NUMBER)},
                    },
                    {name: {"type": "array", "items": _or_null(_NUMBER)} for name in _TRAFFIC},
                ),
            },
        }
    ),
    "Models": _object(
        {
            "models": {"type": "array", "items": _MODEL},
            "errors": {"type": "array", "items": _object({"path": _TEXT, "message": _TEXT})},
        }
    ),
    "Token": _object({"token": _TEXT}),
    "Link": _object({"url": _TEXT}),
}
