"""The part of the reference about JSON: an example of each document, made by the code."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from msgspec.structs import asdict, replace

from orchestrator.cli.finding import Finding
from orchestrator.core.catalog import Metadata, Model, model_json
from orchestrator.core.convergence import Convergence
from orchestrator.core.drift import Drift
from orchestrator.core.event import Event, EventType
from orchestrator.core.figures import InstanceFigures, NameFigures, WholeFigures
from orchestrator.core.plan import Action, Plan, Verb
from orchestrator.core.problem import Place, Problem
from orchestrator.core.report import ProfileReport, Usage, instance_rows, status_document
from orchestrator.core.served import names_shown
from orchestrator.core.spec import (
    Command,
    Endpoint,
    FileIdentity,
    InstanceSpec,
    ModelSet,
    ModelSpec,
)
from orchestrator.core.status import InstanceStatus, ModelState, ModelStatus, Phase, ProcessRef
from orchestrator.gateway.access_log import line_of
from orchestrator.gateway.message import Request
from orchestrator.gateway.record import Record
from tests import reference_text as text
from tests.markdown import json_block, pairs, table
from tests.reference_text import same


def documents() -> Iterator[str]:
    """A section for each kind of document, with an example made by the code itself."""
    status = status_example()
    [row] = status["instances"]
    same(status, text.STATUS, "keys of the status")
    same(row, text.INSTANCE, "keys of an instance")
    yield "### `status --json`\n"
    yield json_block(status)
    yield table(("key", "means"), pairs(text.STATUS))
    yield "Of an instance:\n"
    yield table(("key", "means"), pairs(text.INSTANCE))
    models = models_example()
    for model in models:
        same(model, text.MODEL, "keys of a model")
    yield from requests()
    yield "`models` of an Ollama instance:\n"
    yield json_block({"models": models})
    yield table(("key", "means"), pairs(text.MODEL))
    yield "Secrets (keys, tokens, and every `env` value whose name says so) read `***`.\n"
    yield "### `plan --json`\n"
    drift = (Drift("ctx-size", "8192", "16384"),)
    action = Action(Verb.REPLACE, "coder", _spec(), drift, "replaced", "ctx-size: 8192 -> 16384")
    yield json_block({"actions": [action.as_json()]})
    yield "### `validate --json`\n"
    line = "    prot: 8081"
    place = Place("/home/me/profiles/coding.yaml", 4, 5, line)
    message, hint = "unknown key 'prot' in instance 'coder'", "did you mean 'port'?"
    problem = Problem(message, place, ("instances", "coder", "prot"), hint)
    yield json_block({"ok": False, "errors": [problem.as_json()], "warnings": []})
    yield "A rejected `apply --json` or `plan --json` is the same, without `warnings`.\n"
    yield "### `events --json`\n"
    yield "One on each line; the data of the event stream of the API is the same.\n"
    yield json_block(event_example())
    yield "### `models --json`\n"
    yield json_block({"models": [model_json(_model())], "errors": [_BROKEN]})
    yield "`models show REF --json` is one of these, with its `memory` in bytes.\n"
    yield "### `profiles --json`\n"
    yield json_block({"profiles": [PROFILE]})
    yield "### `doctor --json`\n"
    finding = Finding(
        "memory", "ok", "20 GiB of 23 GiB available", data={"available_bytes": 20 << 30}
    )
    yield json_block({"ok": True, "version": "0.1.0", "findings": [finding.as_json()]})
    yield "`mark` is `ok`, `warn` (it works, but not as it could) or `fail`.\n"


_TIME = 1767225601.0
_FILE = "/home/me/profiles/coding.yaml"
_BROKEN = {"path": "/home/me/models/half.gguf", "message": "is truncated"}
PROFILE = {
    "name": "coding",
    "file": _FILE,
    "active": True,
    "ok": True,
    "errors": [],
    "description": "Chat and embeddings",
    "instances": ["coder", "embed"],
    "gateway": False,
}


def _spec() -> InstanceSpec:
    command = Command(("llama-server", "--port", "8081"), {}, "/home/me/.local/state/orchestrate")
    spec = InstanceSpec("coder", "llama-server", command, Endpoint("127.0.0.1", 8081))
    return replace(spec, profiles=("coding",), model="qwen2.5-coder-7b-instruct:Q4_K_M")


def requests() -> Iterator[str]:
    """What the gateway tells, in the status and in its log."""
    one, whole = InstanceFigures().row(), WholeFigures().row()
    same(one, text.REQUESTS, "keys of requests")
    same(whole, {**text.REQUESTS, **text.WHOLE}, "keys of all requests")
    yield "`requests` of an instance, since the gateway began; null while none tells of it:\n"
    yield json_block({"requests": one})
    yield table(("key", "means"), pairs(text.REQUESTS))
    yield "Those of the gateway are all of them (who waits for several waits once), and:\n"
    yield table(("key", "means"), pairs(text.WHOLE))
    yield "`names` of the gateway, those that clients may ask for:\n"
    target = {"name": "coder", "phase": "ready"}
    known = {"names": [{"name": "coder", "aims": [{"target": "coder"}]}], "targets": [target]}
    [shown] = names_shown(known)
    named = {**shown, **asdict(NameFigures())}
    same(named, text.NAMED, "keys of a name")
    yield json_block({"names": [named]})
    yield table(("key", "means"), pairs(text.NAMED))
    yield "### `logs gateway`\n"
    yield "One line of JSON for each request, unless `log:` says otherwise:\n"
    line = logged_example()
    same(line, text.LOGGED, "keys of a line")
    yield json_block({key: value for key, value in line.items() if key not in RARE})
    yield table(("key", "means"), pairs(text.LOGGED))


RARE = ("lost", "gone", "content")


def logged_example() -> dict[str, Any]:
    """A line with all that there may be."""
    record = Record(10.0, "4f1d0c62a7be9035", client="127.0.0.1", model="coder", target="coder")
    record.status, record.first_byte, record.sent = 200, 10.0412, 8165
    record.lost = record.gone = True
    flow = record.watch("/v1/chat/completions", b"text/event-stream", b"")
    flow.take(b'data: {"timings": {"prompt_n": 25, "predicted_n": 30}}\n\n')
    asked = Request(b"POST", b"/v1/chat/completions", [], b"{}", True, True)
    at = 1767268800.25
    return json.loads(line_of(record, asked, now=10.6, at=at, content=True))


def status_example() -> dict[str, Any]:
    """The status of one healthy instance."""
    spec = _spec()
    status = InstanceStatus("coder", Phase.READY, spec, "1", ProcessRef(4243, 1, "boot"))
    status = replace(status, since=_TIME, started_at=1.0, ready_at=1.0, ready_after_s=0.031)
    usage = {"coder": Usage(23_000_000, 1.5)}
    arguments: dict[str, Any] = {"now": 13.5, "usage": usage, "stale": {}}
    rows = instance_rows({"coder": spec}, {"coder": status}, Plan(), **arguments)
    document = status_document(
        version="0.1.0",
        daemon={"pid": 4242, "since": "2026-01-01T00:00:00.000Z"},
        profiles=[ProfileReport("coding", _FILE, "sha256:5f70bf18a0", ok=True)],
        rows=rows,
        state=Convergence(True, True),
    )
    return {**document, "applied": 1}


def models_example() -> list[dict[str, Any]]:
    """The models of an Ollama instance, one of which is on its way."""
    names = ("llama3.1:8b", "reviewer:latest")
    holds = ModelSet(tuple(ModelSpec(name) for name in names))
    spec = replace(_spec(), engine="ollama", holds=holds)
    there = ModelStatus(names[0], ModelState.PRESENT, loaded=True)
    done, total = 1_600_000_000, 4_700_000_000
    pulled = ModelStatus(names[1], ModelState.PULLING, bytes_done=done, bytes_total=total)
    status = InstanceStatus("ollama", Phase.READY, spec, "1", models=(there, pulled))
    rows = instance_rows({"ollama": spec}, {"ollama": status}, Plan(), now=1.0, usage={}, stale={})
    return rows[0]["models"]


def event_example() -> dict[str, Any]:
    """The event of a first readiness."""
    data = {"ready_after_s": 0.031}
    return Event(EventType.READY, "coder", data=data, id=7, time=_TIME).as_json()


def _model() -> Model:
    metadata = Metadata("llama", "tiny-random", 115_008, "F32", 4096, 2, 64, 2, 1)
    path, identity = "/home/me/models/tiny.gguf", FileIdentity(469_312, 0, 0)
    return Model("tiny", "folder", path, 469_312, (path,), identity, metadata)
