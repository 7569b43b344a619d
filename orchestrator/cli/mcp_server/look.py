"""The tools that change nothing: without a daemon they show what the store knows."""

from __future__ import annotations

import os
from typing import Annotated, Any

from mcp.types import CallToolResult
from pydantic import Field

from orchestrator.cli.mcp_server import answers
from orchestrator.cli.mcp_server.desk import Desk, in_thread
from orchestrator.cli.mcp_server.plain import plain, tidy
from orchestrator.cli.mcp_server.words import InstanceName, Profiles, profile_words
from orchestrator.core.fields import is_name
from orchestrator.errors import InputError, NoDaemonError

MOST_LINES = 2000
MOST_BYTES = 1 << 20


class Look:
    """`status`, `plan`, `logs` and `models`."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def status(
        self,
        name: Annotated[str, Field(description="Only this instance. Empty: all.")] = "",
    ) -> Annotated[CallToolResult, answers.Status]:
        """What runs and how it is: every instance with its phase, address, model and trouble."""
        from orchestrator.cli.status import only

        document = await self._desk.status()
        only(document, [name] if name else [])
        return answers.answer(
            answers.status_of(document), "\n".join(answers.status_lines(document))
        )

    async def plan(
        self,
        profiles: Profiles,
        add: Annotated[bool, Field(description="Beside what is applied, as `apply` with it.")] = (
            False
        ),
        force: Annotated[bool, Field(description="Also what does not fit into memory.")] = False,
    ) -> Annotated[CallToolResult, answers.Plan]:
        """What `apply` would do and why, field by field. Changes nothing."""
        from orchestrator.cli.check import plan_document

        words = await in_thread(profile_words, self._desk.settings, profiles)
        outcome = await in_thread(
            lambda: plan_document(words, self._desk.settings, add=add, force=force)
        )
        actions, warnings, lines = answers.actions_of(outcome)
        return answers.answer(answers.Plan(actions=actions, warnings=warnings), "\n".join(lines))

    async def logs(
        self,
        name: InstanceName = "",
        lines: Annotated[int, Field(ge=1, le=MOST_LINES, description="How many, at most.")] = 100,
        previous: Annotated[bool, Field(description="Of the run before.")] = False,
        search: Annotated[str, Field(description="Only lines with this text, any case.")] = "",
        daemon: Annotated[bool, Field(description="Of the daemon itself, without a name.")] = False,
    ) -> Annotated[CallToolResult, answers.Log]:
        """The end of an instance's own output, or of the daemon's log."""
        if bool(name) == daemon:
            raise InputError("whose logs?", hint="name an instance, or say daemon: true")
        # What is searched for may be further up than so many lines.
        count = MOST_LINES * 10 if search else lines
        said = await log_text(self._desk, name, lines=count, previous=previous)
        found = [one for one in said.splitlines() if search.casefold() in one.casefold()]
        shown = found[-lines:]
        title = name or "the daemon"
        nothing = f"no line of {title} has {search!r}" if search else f"{title} has said nothing"
        log = answers.Log(name=name or "daemon", lines=shown)
        return answers.answer(log, "\n".join(shown) or tidy(nothing))

    async def models(
        self,
        search: Annotated[str, Field(description="Only models with this in their name.")] = "",
    ) -> Annotated[CallToolResult, answers.Models]:
        """The models on this machine: GGUF files, caches and Ollama's store."""
        document = await in_thread(_catalog, self._desk)
        wanted = search.casefold()
        models = [
            answers.CatalogModel.model_validate(tidy(one))
            for one in document["models"]
            if wanted in " ".join([one["ref"], one["path"], *one["aliases"]]).casefold()
        ]
        errors = [answers.Skipped.model_validate(tidy(one)) for one in document["errors"]]
        lines = [_model_line(one) for one in models]
        lines += [f"warning: {one.path}: {one.message}" for one in errors]
        found = answers.Models(models=models, errors=errors)
        return answers.answer(found, "\n".join(lines) or "no models found")


def _catalog(desk: Desk) -> dict[str, Any]:
    from dataclasses import asdict

    from orchestrator.cli.models import catalog_here, holders, loaded_by, model_json

    catalog = catalog_here(desk.settings, os.environ)
    held = holders(desk.settings, catalog)
    return {
        "models": [model_json(model, loaded_by(model, held)) for model in catalog.models],
        "errors": [asdict(error) for error in catalog.errors],
    }


def _model_line(model: answers.CatalogModel) -> str:
    from orchestrator.cli.models import compact
    from orchestrator.cli.render import size

    said = [model.ref, model.source, size(model.size_bytes)]
    said += [model.architecture] if model.architecture else []
    said += [f"{compact(model.parameters)} parameters"] if model.parameters else []
    said += [model.quantization] if model.quantization else []
    said += [f"context {model.context_length}"] if model.context_length else []
    said += [f"loaded by {', '.join(model.loaded_by)}"] if model.loaded_by else []
    said += [f"not on llama-server: {model.unfit}"] if model.unfit else []
    return ", ".join(said)


async def log_text(desk: Desk, name: str, *, lines: int, previous: bool = False) -> str:
    """The end of a log, made plain; of the daemon's without a name. Raises `InputError`."""
    if not name:
        return plain((await in_thread(_daemon_log, desk, lines)).decode("utf-8", "replace"))
    if not is_name(name):
        raise InputError(f"unknown instance {name!r}", hint="`status` names them")
    path = f"/v1/instances/{name}/logs"
    try:
        raw = await desk.daemon.text(path, MOST_BYTES, lines=lines, previous=int(previous))
    except NoDaemonError:
        raw = await in_thread(_log_without_daemon, desk, name, lines, int(previous))
    return plain(raw.decode("utf-8", "replace"))


def _daemon_log(desk: Desk, lines: int) -> bytes:
    from orchestrator.runtime.logs import tail

    try:
        with open(desk.settings.daemon_log, "rb") as file:
            return tail(file.fileno(), lines, limit=MOST_BYTES)
    except OSError as error:
        raise InputError(f"{desk.settings.daemon_log}: {error.strerror}") from error


def _log_without_daemon(desk: Desk, name: str, lines: int, back: int) -> bytes:
    from orchestrator.cli.offline import observed_without_daemon
    from orchestrator.runtime.logs import Logs, tail

    status = observed_without_daemon(desk.settings).get(name)
    pid = status.process.pid if status is not None and status.process is not None else None
    fd = Logs(desk.settings.logs_dir).open_for_reading(name, back=back, pid=pid)
    if fd is None:
        raise InputError(f"no log of an instance named {name!r}", hint="`status` names them")
    with open(fd, "rb") as file:
        return tail(file.fileno(), lines, limit=MOST_BYTES)
