"""The tools that change what runs. They start a daemon where none answers, as every verb does."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any

from mcp.server.mcpserver import Context
from mcp.types import CallToolResult
from pydantic import Field

from orchestrator.cli.mcp_server import answers
from orchestrator.cli.mcp_server.desk import Desk, in_thread
from orchestrator.cli.mcp_server.plain import tidy
from orchestrator.cli.mcp_server.wait import PATIENCE, Progress, Timeout, until, while_told
from orchestrator.cli.mcp_server.words import InstanceName, Profiles, profile_words
from orchestrator.cli.render import every_row
from orchestrator.errors import NoDaemonError, OrchestrateError

Add = Annotated[bool, Field(description="Add to what is applied, instead of replacing it.")]
Force = Annotated[bool, Field(description="Also what does not fit into memory.")]
Wait = Annotated[bool, Field(description="Wait until all of it is ready.")]


class Change:
    """`apply`, `switch_profile`, `start`, `stop` and `restart`."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def apply(
        self,
        ctx: Context[Any, Any],
        profiles: Profiles,
        add: Add = False,
        force: Force = False,
        wait: Wait = True,
        timeout_s: Timeout = PATIENCE,
    ) -> Annotated[CallToolResult, answers.Applied]:
        """Make exactly these profiles run, and stop what only others declare. `plan` shows
        beforehand what that would do. Waits until all is ready."""
        return await self._apply(ctx, profiles, add, force, timeout_s if wait else 0)

    async def switch_profile(
        self,
        ctx: Context[Any, Any],
        profile: Annotated[str, Field(description="The one profile that is to run.")],
        force: Force = False,
        timeout_s: Timeout = PATIENCE,
    ) -> Annotated[CallToolResult, answers.Applied]:
        """Run this profile instead of what is applied now: only what differs is touched."""
        return await self._apply(ctx, [profile], False, force, timeout_s)

    async def _apply(
        self,
        ctx: Context[Any, Any],
        profiles: list[str],
        add: bool,
        force: bool,
        seconds: float,
    ) -> CallToolResult:
        progress = Progress(ctx)
        outcome = await taken_up(self._desk, profiles, add=add, force=force)
        actions, warnings, lines = answers.actions_of(outcome)
        status = await self._desk.status()
        if seconds:
            status = await settled(self._desk, progress, outcome, status, seconds)
        document = answers.Applied.model_validate(
            {**tidy(status), "actions": actions, "warnings": warnings}
        )
        done = status["converged"] or not seconds
        lines += answers.status_lines(status) if seconds else ["taken up; `status` shows how far"]
        lines += [] if done else [f"hint: {_where_to_look(status)}"]
        return answers.answer(document, "\n".join(lines), failed=not done)

    async def start(
        self, ctx: Context[Any, Any], name: InstanceName, timeout_s: Timeout = PATIENCE
    ) -> Annotated[CallToolResult, answers.Outcome]:
        """Start an instance that is stopped, held or failed, and wait until it is ready."""
        return await self._act(ctx, "start", name, timeout_s)

    async def stop(
        self, ctx: Context[Any, Any], name: InstanceName, timeout_s: Timeout = PATIENCE
    ) -> Annotated[CallToolResult, answers.Outcome]:
        """Stop an instance and hold it down until start, restart or apply."""
        return await self._act(ctx, "stop", name, timeout_s)

    async def restart(
        self, ctx: Context[Any, Any], name: InstanceName, timeout_s: Timeout = PATIENCE
    ) -> Annotated[CallToolResult, answers.Outcome]:
        """Stop an instance, start it again, and wait until it is ready."""
        return await self._act(ctx, "restart", name, timeout_s)

    async def _act(
        self, ctx: Context[Any, Any], verb: str, name: str, seconds: float
    ) -> CallToolResult:
        progress = Progress(ctx, "stopped" if verb == "stop" else "ready")
        outcome = answers.Outcome.model_validate(
            tidy(await act(self._desk, progress, verb, name, seconds))
        )
        detail = f": {outcome.message}" if outcome.message else ""
        text = f"{outcome.instance}: {outcome.phase}{detail}"
        if not outcome.ok:
            text += f"\nhint: `logs` of {outcome.instance} shows what it said"
        return answers.answer(outcome, text, failed=not outcome.ok)


async def act(
    desk: Desk, progress: Progress, verb: str, name: str, seconds: float
) -> dict[str, Any]:
    """How a verb ended. Raises `InputError` for an unknown instance before anything is touched."""
    from orchestrator.cli.status import only

    await desk.ensure_daemon()
    only(await desk.daemon.get("/v1/status"), [name])
    work = _asked(desk, verb, name)
    return await while_told(desk, progress, work, lambda one: one == name, seconds)


async def _asked(desk: Desk, verb: str, name: str) -> dict[str, Any]:
    """Ask for it; where the daemon dies over it, ask the next one, for it may be asked twice."""
    path = f"/v1/instances/{name}/{verb}"
    try:
        return await desk.daemon.post(path, {}, wait=1)
    except NoDaemonError:
        if verb == "restart":
            raise
        await desk.ensure_daemon()
        return await desk.daemon.post(path, {}, wait=1)


async def taken_up(
    desk: Desk, profiles: list[str], *, add: bool, force: bool = False
) -> dict[str, Any]:
    """Hand profiles to the daemon, or to one that is started with them; its plan and number."""
    from orchestrator.cli.apply import hand_over
    from orchestrator.cli.sources import sources_json

    def task() -> dict[str, Any]:
        words = profile_words(desk.settings, profiles)
        sources = sources_json(words, desk.settings, os.environ)
        with desk.starting:
            return hand_over(desk.settings, {"sources": sources, "add": add, "force": force})

    return await in_thread(task)


async def settled(
    desk: Desk,
    progress: Progress,
    outcome: Mapping[str, Any],
    first: Mapping[str, Any],
    seconds: float,
) -> dict[str, Any]:
    """The status once all is ready, or has settled otherwise. `first` is one from after it."""
    daemon = first["daemon"] and first["daemon"]["pid"]

    def verdict(status: dict[str, Any]) -> bool:
        # Another daemon counts its applies anew.
        if status["daemon"]["pid"] == daemon:
            if status["applied"] < outcome["number"]:
                return False
            if status["applied"] > outcome["number"]:
                raise OrchestrateError("superseded by a later apply", hint="see `status`")
        return status["converged"] or status["settled"]

    return await until(desk, progress, verdict, lambda _: True, seconds)


def _where_to_look(status: Mapping[str, Any]) -> str:
    bad = [one["name"] for one in every_row(status) if one["phase"] in ("failed", "backoff")]
    if bad:
        return f"`logs` of {tidy(bad[0])} shows what it said; `apply` tries again"
    return "`status` shows what is missing"
