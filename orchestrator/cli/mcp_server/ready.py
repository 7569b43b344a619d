"""`ensure_ready`: whatever it takes that a model can be asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from mcp.server.mcpserver import Context
from mcp.types import CallToolResult
from msgspec import Struct
from pydantic import Field

from orchestrator.cli.mcp_server import answers
from orchestrator.cli.mcp_server.change import act, settled, taken_up
from orchestrator.cli.mcp_server.desk import Desk, in_thread
from orchestrator.cli.mcp_server.engine import Engines
from orchestrator.cli.mcp_server.plain import tidy
from orchestrator.cli.mcp_server.wait import PATIENCE, Progress, Timeout, until, while_told
from orchestrator.cli.mcp_server.which import Wish, find_applied, find_declared
from orchestrator.errors import OrchestrateError

DOWN = frozenset({"stopped", "failed", "backoff"})


class Steps(Struct):
    """What had to be done."""

    applied: str = ""
    started: bool = False
    loaded: bool = False

    def __str__(self) -> str:
        said = [f"applied {self.applied}"] if self.applied else []
        said += ["started it"] if self.started else []
        said += ["loaded the model"] if self.loaded else []
        return ", ".join(said) or "it was ready"


class EnsureReady:
    """The tool of that name."""

    def __init__(self, desk: Desk, engines: Engines) -> None:
        self._desk = desk
        self._engines = engines

    async def ensure_ready(
        self,
        ctx: Context[Any, Any],
        name: Annotated[
            str,
            Field(
                description="An instance, a model, or PROFILE/INSTANCE. Of what is not applied, the"
                " profile that declares it is added to what runs."
            ),
        ],
        timeout_s: Timeout = PATIENCE,
    ) -> Annotated[CallToolResult, answers.Ready]:
        """Have a model ready to be asked: applies, starts, pulls or loads what it needs, and waits.
        Changes nothing when it is ready already."""
        progress, steps = Progress(ctx), Steps()
        wish = await self._applied(progress, name, steps, timeout_s)
        row = await self._served(progress, wish, steps, timeout_s)
        if wish.model and not _has_loaded(row, wish.model):
            await self._load(progress, row, wish.model, timeout_s)
            steps.loaded = True
        ready = answers.Ready(
            instance=row["name"],
            engine=row["engine"],
            model=tidy(wish.model or row["model"]),
            url=row["url"],
            applied=tidy(steps.applied),
            started=steps.started,
            loaded=steps.loaded,
            waited_s=round(progress.seconds, 3),
        )
        what = f" with {ready.model}" if ready.model else ""
        text = f"{ready.instance} is ready at {ready.url}{what} ({tidy(str(steps))})"
        return answers.answer(ready, text)

    async def _applied(self, progress: Progress, name: str, steps: Steps, seconds: float) -> Wish:
        """What is meant; its profile is added to what is applied where it has to be."""
        rows = (await self._desk.status())["instances"]
        wish = await in_thread(find_applied, self._desk.settings, rows, name)
        if wish is not None:
            return wish
        wish = await in_thread(find_declared, self._desk.settings, name)
        steps.applied, steps.started = wish.profile, True
        outcome = await taken_up(self._desk, [wish.profile], add=True)
        status = await self._desk.status()
        await settled(self._desk, progress, outcome, status, seconds)
        return wish

    async def _served(
        self, progress: Progress, wish: Wish, steps: Steps, seconds: float
    ) -> dict[str, Any]:
        """The row of the instance once it serves, and has the model where one is asked for."""
        status = await self._desk.status()
        row = _row(status, wish.instance)
        if status["daemon"] is None:
            # What is known is from before; the next one looks after it again.
            await self._desk.ensure_daemon()
            status = await self._desk.status()
            row = _row(status, wish.instance)
        if row is not None and row["phase"] in DOWN:
            outcome = await act(self._desk, progress, "start", wish.instance, seconds)
            steps.started = True
            if not outcome["ok"]:
                raise _failure(wish.instance, outcome["phase"], outcome["message"])
        found: dict[str, Any] = {}

        def verdict(status: dict[str, Any]) -> bool:
            row = _row(status, wish.instance)
            found.clear()
            found.update(row or {})
            return row is not None and _serves(row, wish.model, settled=status["settled"])

        await until(self._desk, progress, verdict, lambda one: one == wish.instance, seconds)
        return found

    async def _load(
        self, progress: Progress, row: Mapping[str, Any], model: str, seconds: float
    ) -> None:
        work = self._engines.load(row, model, within=progress.left(seconds))
        await while_told(self._desk, progress, work, lambda one: one == row["name"], seconds)


def _row(status: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    return next((one for one in status["instances"] if one["name"] == name), None)


def _serves(row: Mapping[str, Any], model: str, *, settled: bool) -> bool:
    """Whether it can be asked now. Raises what waiting will not mend."""
    name, phase = row["name"], row["phase"]
    if phase == "failed" or (phase == "ready" and row["reason"] == "rolled-back"):
        raise _failure(name, row["reason"] or phase, row["message"])
    if phase in ("pending", "stopped") and settled:
        raise _failure(
            name, f"{phase}, {row['reason']}" if row["reason"] else phase, row["message"]
        )
    if phase != "ready":
        return False
    wanted = [one for one in row["models"] if not model or one["name"] == model]
    for one in wanted:
        if one["state"] == "failed":
            raise OrchestrateError(
                f"{name}: model {one['name']} failed: {one['message']}",
                hint="another `apply` of its profile tries again",
            )
    if model:
        return any(one["state"] == "present" for one in wanted)
    return not row["lacking"]


def _has_loaded(row: Mapping[str, Any], model: str) -> bool:
    return any(one["name"] == model and one["loaded"] for one in row["models"])


def _failure(name: str, what: str, message: str) -> OrchestrateError:
    said = f": {message}" if message else ""
    return OrchestrateError(f"{name}: {what}{said}", hint=f"`logs` of {name} shows what it said")
