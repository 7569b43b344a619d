"""`generate`: one completion on an instance that is ready."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Annotated, Any

from mcp.server.mcpserver import Context
from mcp.types import CallToolResult
from pydantic import Field

from orchestrator.cli.mcp_server import answers
from orchestrator.cli.mcp_server.desk import Desk, in_thread
from orchestrator.cli.mcp_server.engine import Engines, Piece, Wanted
from orchestrator.cli.mcp_server.plain import plain
from orchestrator.cli.mcp_server.wait import LONGEST, PATIENCE, Progress
from orchestrator.cli.mcp_server.which import find_applied
from orchestrator.errors import InputError, OrchestrateError, TimedOutError

MOST_TOKENS = 32_768
MOST_CHARACTERS = 1 << 20


class Generate:
    """The tool of that name."""

    def __init__(self, desk: Desk, engines: Engines) -> None:
        self._desk = desk
        self._engines = engines

    async def generate(
        self,
        ctx: Context[Any, Any],
        name: Annotated[str, Field(description="A ready instance, or a model that one serves.")],
        prompt: str,
        system: Annotated[str, Field(description="Instructions that come before.")] = "",
        max_tokens: Annotated[int, Field(ge=1, le=MOST_TOKENS)] = 512,
        temperature: Annotated[float | None, Field(ge=0, le=5)] = None,
        seed: int | None = None,
        stop: Annotated[
            list[str] | None, Field(max_length=16, description="Texts before which it ends.")
        ] = None,
        raw: Annotated[
            bool, Field(description="The prompt as it is, without the chat template.")
        ] = False,
        model: Annotated[
            str, Field(description="Which model of an Ollama instance that has several.")
        ] = "",
        timeout_s: Annotated[float, Field(gt=0, le=LONGEST)] = PATIENCE,
    ) -> Annotated[CallToolResult, answers.Completion]:
        """One completion by a model that runs here. `ensure_ready` makes it ready before."""
        row, chosen = await self._target(name, model)
        given = tuple(stop or ())
        wanted = Wanted(prompt, system, max_tokens, temperature, seed, given, raw)
        progress = Progress(ctx)
        whole = Piece()
        try:
            async with asyncio.timeout(timeout_s):
                await self._gather(row, chosen, wanted, whole, progress)
        except TimeoutError:
            raise TimedOutError(
                f"no end of the completion within {timeout_s:g} s"
                f" ({whole.completion_tokens or 0} tokens so far)",
                hint="ask for fewer tokens (max_tokens), or wait longer (timeout_s)",
            ) from None
        done = answers.Completion(
            instance=row["name"],
            model=plain(whole.model or chosen or row["model"]),
            text=plain(whole.text),
            reasoning=plain(whole.reasoning),
            finish=plain(whole.finish) or "stop",
            prompt_tokens=whole.prompt_tokens,
            completion_tokens=whole.completion_tokens,
            seconds=round(progress.seconds, 3),
        )
        return answers.answer(done, done.text or "(it generated nothing)")

    async def _target(self, name: str, model: str) -> tuple[dict[str, Any], str]:
        """The row of the instance, and the model to be asked there. Raises `OrchestrateError`."""
        rows = (await self._desk.status())["instances"]
        wish = await in_thread(find_applied, self._desk.settings, rows, name)
        if wish is None:
            from orchestrator.cli.mcp_server.which import find_declared

            declared = await in_thread(find_declared, self._desk.settings, name)
            raise OrchestrateError(
                f"{declared.instance} is not applied (it is in {declared.profile})",
                hint=f"`ensure_ready` of {name} applies it",
            )
        row = next(one for one in rows if one["name"] == wish.instance)
        if row["phase"] != "ready":
            raise OrchestrateError(
                f"{row['name']} is {row['phase']}, not ready",
                hint=f"`ensure_ready` of {row['name']} waits for it",
            )
        return row, model or wish.model or _only_model(row)

    async def _gather(
        self,
        row: Mapping[str, Any],
        model: str,
        wanted: Wanted,
        whole: Piece,
        progress: Progress,
    ) -> None:
        """Put the pieces together, and tell how many there are."""
        count = 0
        pieces = self._engines.completion(row, model, wanted)
        async with contextlib.aclosing(pieces) as stream:
            async for piece in stream:
                count += bool(piece.text or piece.reasoning)
                whole.text += piece.text
                whole.reasoning += piece.reasoning
                whole.finish = piece.finish or whole.finish
                whole.model = piece.model or whole.model
                whole.prompt_tokens = piece.prompt_tokens or whole.prompt_tokens
                whole.completion_tokens = piece.completion_tokens or count
                if len(whole.text) + len(whole.reasoning) > MOST_CHARACTERS:
                    whole.finish = "length"
                    return
                if count:
                    await progress.say(f"{count} tokens", often=False)


def _only_model(row: Mapping[str, Any]) -> str:
    """Of an Ollama the model that is meant where none is named. Raises `InputError`."""
    if row["engine"] != "ollama":
        return ""
    names = [one["name"] for one in row["models"] if one["state"] == "present"]
    loaded = [one["name"] for one in row["models"] if one["loaded"]]
    for found in (names, loaded):
        if len(found) == 1:
            return found[0]
    has = f"it has {', '.join(names)}" if names else "it has none of its models yet"
    raise InputError(f"which model of {row['name']}?", hint=f"say it as `model`: {has}")
