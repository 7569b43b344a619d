"""Each key of a profile is live or needs a restart, and the table that says so is true."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from orchestrator.core.catalog import Catalog
from orchestrator.core.drift import live_drift, process_drift
from orchestrator.core.field_class import LIVE, PROFILE_FIELDS, RESTART, SPEC_FIELDS
from orchestrator.core.parse import parse_profile
from orchestrator.core.port import PortChooser
from orchestrator.core.profile import LlamaServerConfig, OllamaConfig
from orchestrator.core.resolve import Surroundings, needed_engines, resolve_profile
from orchestrator.core.spec import FileIdentity, InputFile, InstanceSpec
from orchestrator.engines.llama_server import LlamaServer
from orchestrator.engines.ollama import Ollama
from orchestrator.engines.ollama_settings import Variables
from tests.unit.test_flags import table
from tests.unit.test_ollama_engine import LISTED
from tests.unit.test_resolve import model

LLAMA: dict[str, Any] = {"model": "tiny", "port": 8001}
OLLAMA: dict[str, Any] = {"engine": "ollama", "port": 8001}

CHANGES: dict[str, tuple[dict[str, Any], Any]] = {
    "model": (LLAMA, "large"),
    "mmproj": (LLAMA, "eyes"),
    "port": (LLAMA, 8002),
    "host": (LLAMA, "0.0.0.0"),
    "binary": (LLAMA, "/opt/other"),
    "env": (LLAMA, {"A": "1"}),
    "flags": (LLAMA, {"ctx-size": 512}),
    "args": (LLAMA, ["--verbose"]),
    "settings": (OLLAMA, {"num_parallel": 2}),
    "description": (LLAMA, "other"),
    "needs": (LLAMA, ["b"]),
    "readiness": (LLAMA, {"timeout": "1s"}),
    "liveness": (LLAMA, {"interval": "1s"}),
    "restart": (LLAMA, {"policy": "never"}),
    "stop": (LLAMA, {"grace": "1s"}),
    "update": ({**LLAMA, "port": "auto"}, {"on_failure": "keep", "strategy": "start-first"}),
    "limits": (LLAMA, {"cpu": {"warn": "80%"}}),
    "start": (LLAMA, "on-demand"),
    "idle": ({**LLAMA, "start": "on-demand"}, "15m"),
    "pin": ({**LLAMA, "start": "on-demand"}, True),
    "preload": ({**LLAMA, "start": "on-demand"}, True),
    "attach": (OLLAMA, "never"),
    "models": (OLLAMA, ["llama3.1:8b"]),
    "prune": (OLLAMA, True),
    "verify": (OLLAMA, {"interval": "1h"}),
    "resources": (LLAMA, {"memory": "1GiB"}),
}
"""For each key an instance, and another value of it."""


def program(key: tuple[str, str | None]) -> Any:
    path = key[1] or "/opt/program"
    binary = InputFile("binary", path, FileIdentity(1, 2, 3))
    if key[0] == "ollama":
        variables: Variables = LISTED
        return Ollama(binary, (path,), variables, home="/home/me")
    return LlamaServer(binary, (path,), table())


def meant(instance: dict[str, Any]) -> InstanceSpec:
    """What the instance means here. JSON is YAML, too."""
    text = str({"instances": {"a": instance, "b": {"model": "tiny", "port": 9000}}})
    text = text.replace("True", "true").replace("None", "null")
    parsed = parse_profile(text.encode(), file="/profiles/p.yaml", env={})
    assert parsed.profile is not None, parsed.problems
    engines = {key: program(key) for key in needed_engines(parsed.profile.config)}
    models = (model("tiny"), model("large"), model("eyes"))
    around = Surroundings(
        catalog=Catalog(models),
        engines=engines,
        host="127.0.0.1",
        cwd="/run",
        ports=PortChooser({}, (), (32768, 60999)),
        store="/home/me/.ollama/models",
    )
    done = resolve_profile(parsed.profile, around)
    assert not done.problems, done.problems
    return done.file.specs["a"]


@pytest.mark.parametrize("key", CHANGES)
def test_a_change_of_one_key_takes_what_the_table_says(key: str) -> None:
    instance, other = CHANGES[key]
    have, want = meant(instance), meant({**instance, key: other})
    restarts, lives = process_drift(have, want), live_drift(have, want)
    assert bool(restarts) is (PROFILE_FIELDS[key] is RESTART)
    assert PROFILE_FIELDS[key] is RESTART or lives
    assert {one.kind for one in restarts} <= {RESTART}
    assert {one.kind for one in lives} <= {LIVE}


def test_every_key_of_a_profile_is_in_the_table_and_tried() -> None:
    keys = {*LlamaServerConfig.model_fields, *OllamaConfig.model_fields}
    assert keys == {key for key in PROFILE_FIELDS if "." not in key}
    assert keys == {*CHANGES, "engine", "replicas"}, "these are changed by other tests"


def test_every_field_of_a_spec_is_in_the_table() -> None:
    """A new field has to be put somewhere, or a change of it would be lost."""
    assert set(InstanceSpec.__struct_fields__) == set(SPEC_FIELDS)


def test_another_engine_is_another_process() -> None:
    have, want = meant(LLAMA), meant(OLLAMA)
    assert process_drift(have, replace(want, attach="never"))[0].field == "engine"
