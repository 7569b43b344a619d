"""What the tools answer: documents with a schema, and beside each a short text for the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click
from mcp.types import CallToolResult, TextContent
from pydantic import BaseModel, ConfigDict, Field

from orchestrator.cli import model_lines
from orchestrator.cli.mcp_server.plain import tidy
from orchestrator.cli.render import plan_lines, problem_text
from orchestrator.cli.status_table import gateway_lines
from orchestrator.core.gateway_spec import GATEWAY
from orchestrator.errors import OrchestrateError

LONGEST = 60_000
"""Characters of the text of one answer; the structured part has all of it."""


class Document(BaseModel):
    """Part of an answer. What a later daemon says beyond it is left out."""

    model_config = ConfigDict(extra="ignore")


class DaemonRow(Document):
    pid: int
    since: str


class ProfileRow(Document):
    """An applied profile; `errors` say why its last good state is in force instead."""

    name: str
    file: str
    ok: bool
    errors: list[dict[str, Any]] = Field(default_factory=list[dict[str, Any]])


class ModelRow(Document):
    """A declared model of an Ollama instance."""

    name: str
    state: str = Field(description="missing, pulling, building, present or failed")
    loaded: bool = Field(description="it is in memory")
    bytes_done: int
    bytes_total: int
    reason: str
    message: str


class InstanceRow(Document):
    """A server: what it is, and how."""

    name: str
    engine: str
    model: str
    profiles: list[str]
    phase: str = Field(
        description="pending, starting, ready, unready, backoff, stopping, stopped or failed"
    )
    reason: str
    message: str
    managed: bool = Field(description="false: attached to, and run by somebody else")
    held: bool = Field(description="stopped by hand, until start, restart or apply")
    pid: int | None
    port: int
    url: str
    uptime_s: float | None
    restarts: int
    memory_bytes: int
    cpu_percent: float
    stale: bool
    lacking: list[str] = Field(description="declared models that are not there, or not loaded")
    models: list[ModelRow]


class Status(Document):
    """What `orchestrate status --json` shows."""

    version: str
    daemon: DaemonRow | None = Field(description="null: no daemon runs; this is what was known")
    converged: bool = Field(description="what runs is what is declared, and all of it is ready")
    missing: list[str]
    warnings: list[str]
    profiles: list[ProfileRow]
    instances: list[InstanceRow]
    gateway: InstanceRow | None = Field(
        default=None, description="one address for all instances, where a profile declares it"
    )


class Reason(Document):
    field: str
    have: Any = None
    want: Any = None


class Action(Document):
    """One step of a plan, and the fields that are why."""

    action: str
    instance: str
    message: str
    reasons: list[Reason]


class Plan(Document):
    """What `apply` would do."""

    actions: list[Action]
    warnings: list[str]


class Applied(Document):
    """What `apply` did, and how far it has come."""

    actions: list[Action]
    warnings: list[str]
    converged: bool
    missing: list[str]
    instances: list[InstanceRow]


class Outcome(Document):
    """How a verb ended for its instance."""

    instance: str
    ok: bool
    phase: str
    message: str


class Log(Document):
    """The end of a log, oldest line first."""

    name: str
    lines: list[str]


class CatalogModel(Document):
    """A model on this machine."""

    ref: str = Field(description="how a profile may name it")
    source: str
    path: str
    engine_hint: str
    size_bytes: int
    architecture: str | None = None
    parameters: int | None = None
    quantization: str | None = None
    context_length: int | None = None
    unfit: str = Field(default="", description="why llama-server cannot run it")
    loaded_by: list[str] = Field(default_factory=list[str])


class Skipped(Document):
    path: str
    message: str


class Models(Document):
    """The catalog, or the part of it that was asked for."""

    models: list[CatalogModel]
    errors: list[Skipped]


class Ready(Document):
    """An instance that is ready now."""

    instance: str
    engine: str
    model: str = Field(description="the model that was asked for, or that the instance runs")
    url: str
    applied: str = Field(description="the profile that was added for it; empty: none had to be")
    started: bool = Field(description="it was started for this")
    loaded: bool = Field(description="the model was loaded into memory for this")
    waited_s: float


class Completion(Document):
    """One completion."""

    instance: str
    model: str
    text: str
    reasoning: str = Field(description="what a reasoning model thought before it answered")
    finish: str = Field(description="stop: it came to its end; length: max_tokens were reached")
    prompt_tokens: int | None
    completion_tokens: int | None
    seconds: float


def answer(document: BaseModel, text: str, *, failed: bool = False) -> CallToolResult:
    """An answer: `document` for programs, `text` for the model. `failed` as exit code 1 would."""
    shown = text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
    return CallToolResult(
        content=[TextContent(type="text", text=shown)],
        structured_content=document.model_dump(mode="json"),
        is_error=failed,
    )


def refusal(error: OrchestrateError) -> CallToolResult:
    """An error as the command line says it: what, where, what to do."""
    problems: Sequence[Mapping[str, Any]] = getattr(error, "errors", ())
    said = [click.unstyle(problem_text(one)) for one in problems]
    lines = said or [f"error: {error.message}"]
    if problems:
        lines.append(f"{len(said)} problem{'s' if len(said) > 1 else ''}; nothing was changed")
    if error.hint and not problems:
        lines.append(f"hint: {error.hint}")
    text = TextContent(type="text", text=tidy("\n".join(lines)))
    return CallToolResult(content=[text], is_error=True)


def status_of(document: Mapping[str, Any]) -> Status:
    """The status document, as a tool answers it."""
    return Status.model_validate(tidy(document))


def actions_of(outcome: Mapping[str, Any]) -> tuple[list[Action], list[str], list[str]]:
    """Actions, warnings, and both as lines of text."""
    warnings = [str(tidy(click.unstyle(problem_text(one)))) for one in outcome["warnings"]]
    actions = [Action.model_validate(tidy(one)) for one in outcome["actions"]]
    text = [click.unstyle(line) for line in plan_lines(outcome["actions"])]
    return actions, warnings, [*(f"warning: {one}" for one in warnings), *tidy(text)]


def status_lines(status: Mapping[str, Any]) -> list[str]:
    """A line for each instance, then what is to be said of all."""
    lines = [row_line(one) for one in status["instances"] if one["engine"] != GATEWAY]
    lines += gateway_lines(status)
    if status["daemon"] is None:
        lines.append("no daemon is running; this is what was last known")
    elif status["converged"]:
        lines.append("converged" if lines else "nothing is applied")
    else:
        lines.append(f"not converged: {'; '.join(status['missing']) or 'see above'}")
    for profile in status["profiles"]:
        if not profile["ok"]:
            lines.append(f"{profile['file']} is invalid; its last good state is kept")
            lines += [click.unstyle(problem_text(one)) for one in profile["errors"]]
    lines += [f"warning: {one}" for one in status["warnings"]]
    return tidy(lines)


def row_line(one: Mapping[str, Any]) -> str:
    """An instance in a line: how it is, where, and what is wrong."""
    what = one["model"] or ", ".join(model["name"] for model in one["models"]) or "no model"
    said = [f"{one['name']}: {one['phase']}"]
    said.append(f"{one['engine']} with {what}")
    if one["phase"] == "ready":
        said.append(one["url"])
    why = ": ".join(part for part in (one["reason"], one["message"]) if part)
    said += [part for part in (why, model_lines.remark(one)) if part]
    said += [f"restarts: {one['restarts']}"] if one["restarts"] else []
    return tidy("; ".join(said))
