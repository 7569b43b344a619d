"""The JSON Schema agrees with the parser on what editors can judge."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from orchestrator.core.document import read_document
from orchestrator.core.nodes import plain
from orchestrator.core.problem import Problem
from orchestrator.core.profile import LlamaServerConfig, OllamaConfig
from orchestrator.core.schema import profile_schema
from orchestrator.core.source import read_source

DATA = Path(__file__).parent.parent / "data" / "profiles"


def errors(data: bytes) -> list[str]:
    source = read_source(data, "x")
    assert not isinstance(source, Problem)
    root = read_document(source).root
    assert root is not None
    validator: Any = jsonschema.Draft7Validator(profile_schema())
    return [error.message for error in validator.iter_errors(plain(root))]


def test_it_is_a_schema() -> None:
    schema = profile_schema()
    jsonschema.Draft7Validator.check_schema(schema)
    assert json.loads(json.dumps(schema)) == schema
    assert schema["$schema"] == "http://json-schema.org/draft-07/schema#"


@pytest.mark.parametrize("path", sorted((DATA / "good").glob("*.yaml")), ids=lambda p: p.stem)
def test_good_profiles_validate(path: Path) -> None:
    assert errors(path.read_bytes()) == []


@pytest.mark.parametrize(
    "name",
    [
        *("unknown-key", "unknown-keys", "wrong-types", "wrong-values", "environment", "names"),
        *("missing", "no-instances", "not-a-mapping", "text", "cut-short", "cut-in-a-value"),
    ],
)
def test_typical_mistakes_do_not(name: str) -> None:
    assert errors((DATA / "bad" / f"{name}.yaml").read_bytes())


@pytest.mark.parametrize(
    "line",
    [
        "port: auto",
        'port: "${p}"',
        'engine: "${e}"',
        'liveness: {failures: "${env:N:-3}", interval: 5}',
        "readiness: {timeout: 1m30s, deadline: 1.5h}",
        'stop: {grace: "${g}s"}',
        "restart: {policy: always, limit: 5 in 10m}",
        'flags: {a: [x, 1], b: null, c: true, d: 1.5, e: "${x}"}',
        "env: {A: 1}",
    ],
)
def test_what_may_be_written(line: str) -> None:
    assert errors(f"instances: {{a: {{model: m, {line}}}}}".encode()) == []


@pytest.mark.parametrize(
    "line",
    [
        "port: 70000",
        "port: yes",
        "port: '8081'",
        "engine: vllm",
        "liveness: {failures: 0}",
        "readiness: {timeout: soon}",
        "readiness: {timeout: }",
        "restart: {policy: sometimes}",
        "restart: {limit: 5}",
        "env: {A: true}",
        "flags: {a: {b: 1}}",
        "args: x",
        "needs: [1]",
        "host: ",
        "ctx-size: 4096",
    ],
)
def test_what_may_not(line: str) -> None:
    assert errors(f"instances: {{a: {{model: m, {line}}}}}".encode())


def test_every_field_is_described() -> None:
    schema = profile_schema()
    blocks = [schema, *schema["definitions"].values()]
    for block in blocks:
        assert block["additionalProperties"] is False
        for name, field in block["properties"].items():
            assert field.get("description") or "$ref" in field, name
    for config in (LlamaServerConfig, OllamaConfig):
        known = schema["definitions"][config.__name__]["properties"]
        assert set(known) == set(config.model_fields)
