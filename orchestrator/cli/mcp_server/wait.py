"""Waiting: what moves is told as progress, a daemon that dies is followed by the next."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from typing import Annotated, Any, TypeVar

from mcp.server.mcpserver import Context
from pydantic import Field

from orchestrator.cli import model_lines
from orchestrator.cli.mcp_server.desk import Desk
from orchestrator.cli.mcp_server.plain import tidy
from orchestrator.core.wording import is_idle
from orchestrator.errors import NoDaemonError, TimedOutError

Result = TypeVar("Result")

PATIENCE = 50.0
"""Seconds for which a tool waits unless told otherwise: many clients give up after 60."""

LONGEST = 3600.0

EVERY = 1.0
"""Seconds between two notifications that say the same."""

REFRESH = 250
"""Milliseconds between two snapshots."""

LEAST = 0.05
"""Seconds that any step has, even when the time is over."""

DAEMONS = 5
"""How many daemons in a row may go away in the middle of one call."""

Timeout = Annotated[
    float,
    Field(
        gt=0,
        le=LONGEST,
        description="Seconds to wait. What was begun goes on after that: call again to wait on.",
    ),
]


class Progress:
    """Tells the client what moves, as long as it listens. The number is seconds, and so grows.

    `goal` is what is waited for, in a word. What times out does so `seconds` after this was made,
    however many things are waited for one after the other.
    """

    def __init__(self, context: Context[Any, Any], goal: str = "ready") -> None:
        self.goal = goal
        self._context = context
        self._began = time.monotonic()
        self._said = ""
        self._at = -EVERY

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self._began

    def left(self, seconds: float) -> float:
        """What is left of so many seconds; never nothing, so that each step has one look."""
        return max(seconds - self.seconds, LEAST)

    async def say(self, message: str, *, often: bool = True) -> None:
        """At once when it is news, unless news come all the time; else now and then."""
        now = self.seconds
        if (message == self._said or not often) and now - self._at < EVERY:
            return
        self._said, self._at = message, now
        await self._context.report_progress(round(now, 3), None, tidy(message))


async def until(
    desk: Desk,
    progress: Progress,
    verdict: Callable[[dict[str, Any]], bool],
    names: Callable[[str], bool],
    seconds: float,
) -> dict[str, Any]:
    """The first status of which `verdict` is true; it may raise what ends the waiting.

    Instances for which `names` is true are told of meanwhile. A daemon that dies is started again.
    """
    status: dict[str, Any] = {}
    try:
        async with asyncio.timeout(progress.left(seconds)):
            for _ in range(DAEMONS):
                with contextlib.suppress(NoDaemonError):
                    async with contextlib.aclosing(_snapshots(desk)) as stream:
                        async for status in stream:
                            if verdict(status):
                                return status
                            await progress.say(doing(status, names))
                await desk.ensure_daemon()
    except TimeoutError:
        raise timed_out(status, progress.goal, names, seconds) from None
    raise NoDaemonError(
        "the daemon goes away again and again", hint="`orchestrate logs --daemon` shows why"
    )


async def _snapshots(desk: Desk) -> AsyncGenerator[dict[str, Any]]:
    async for snapshot in desk.daemon.snapshots(refresh_ms=REFRESH):
        yield snapshot["status"]


async def while_told(
    desk: Desk,
    progress: Progress,
    work: Coroutine[Any, Any, Result],
    names: Callable[[str], bool],
    seconds: float,
) -> Result:
    """The result of `work`; instances are told of while it goes on."""
    telling = asyncio.create_task(_tell(desk, progress, names))
    try:
        async with asyncio.timeout(progress.left(seconds)):
            return await work
    except TimeoutError:
        raise timed_out(await desk.status(), progress.goal, names, seconds) from None
    finally:
        telling.cancel()
        await asyncio.gather(telling, return_exceptions=True)


async def _tell(desk: Desk, progress: Progress, names: Callable[[str], bool]) -> None:
    with contextlib.suppress(NoDaemonError):
        async with contextlib.aclosing(_snapshots(desk)) as stream:
            async for status in stream:
                await progress.say(doing(status, names))


def timed_out(
    status: Mapping[str, Any], goal: str, names: Callable[[str], bool], seconds: float
) -> TimedOutError:
    """What was waited for in vain."""
    return TimedOutError(
        f"not {goal} within {seconds:g} s: {doing(status, names) or 'nothing was heard of it'}",
        hint="it goes on; call this again to wait on, or `status` to see how far it is",
    )


def doing(status: Mapping[str, Any], names: Callable[[str], bool]) -> str:
    """What those are at that are not ready."""
    rows = [one for one in status.get("instances", ()) if names(one["name"])]
    unready = [one for one in rows if one["phase"] != "ready" or one["lacking"]]
    open_ = [one for one in unready if not is_idle(one)] or rows
    return "; ".join(f"{one['name']}: {_at(one)}" for one in open_)


def _at(one: Mapping[str, Any]) -> str:
    moving = model_lines.remark(one)
    if one["phase"] == "ready":
        return moving or "ready"
    why = ": ".join(part for part in (one["reason"], one["message"]) if part)
    return f"{one['phase']} ({why})" if why else one["phase"]
