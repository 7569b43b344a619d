"""An agent as it drives us: the official client, over a real process and its standard streams."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.types import TextContent

from tests.world import World

LONG = 50.0
"""Seconds for an answer; a test has 60."""


@dataclass
class Answer:
    """What a tool answered."""

    text: str
    data: Any
    failed: bool
    told: list[tuple[float, str]] = field(default_factory=list[tuple[float, str]])
    """Progress as it came: the number, and the message."""


class Agent:
    """One session with one server. Calls wait for their answers; `begin` does not."""

    def __init__(self, client: Client, loop: asyncio.AbstractEventLoop) -> None:
        self.client = client
        self._loop = loop

    def call(self, tool: str, **arguments: Any) -> Answer:
        """A tool that has to work."""
        answer = self.begin(tool, **arguments).result(LONG)
        assert not answer.failed, f"{tool} {arguments}: {answer.text}"
        return answer

    def refused(self, tool: str, **arguments: Any) -> str:
        """What a tool says that has to fail."""
        answer = self.begin(tool, **arguments).result(LONG)
        assert answer.failed, f"{tool} {arguments}: {answer.text}"
        return answer.text

    def begin(
        self, tool: str, *, on_progress: Callable[[str], None] | None = None, **arguments: Any
    ) -> Future[Answer]:
        """A call that goes on; to cancel it is to cancel what it asks for."""
        return self.ask(self._call(tool, arguments, on_progress))

    def ask(self, question: Any) -> Future[Any]:
        """Anything that the client can be asked."""
        return asyncio.run_coroutine_threadsafe(question, self._loop)

    def read(self, uri: str) -> str:
        """The text of a resource."""
        return self.ask(self.client.read_resource(uri)).result(LONG).contents[0].text

    def tools(self) -> dict[str, Any]:
        return {tool.name: tool for tool in self.ask(self.client.list_tools()).result(LONG).tools}

    async def _call(
        self, tool: str, arguments: dict[str, Any], on_progress: Callable[[str], None] | None
    ) -> Answer:
        told: list[tuple[float, str]] = []

        async def hear(progress: float, total: float | None, message: str | None) -> None:
            told.append((progress, message or ""))
            if on_progress is not None:
                on_progress(message or "")

        result = await self.client.call_tool(tool, arguments, progress_callback=hear)
        [content] = result.content
        assert isinstance(content, TextContent)
        return Answer(content.text, result.structured_content, bool(result.is_error), told)


@contextlib.contextmanager
def agent(world: World, *options: str, mode: Any = "auto") -> Generator[Agent]:
    """A session with `orchestrate mcp` in that world; it is closed as clients close it."""
    words = ["-m", "orchestrator", "mcp", *options]
    with session(sys.executable, words, world.env, world.folder, mode=mode) as one:
        yield one
    said = (world.folder / "mcp.err").read_text()
    assert not said, f"its standard error has: {said}"


@contextlib.contextmanager
def session(
    command: str,
    words: Sequence[str],
    env: dict[str, str],
    folder: Path,
    *,
    errors: Path | None = None,
    mode: Any = "auto",
) -> Generator[Agent]:
    """A session with any server, started in `folder`; its standard error goes to `mcp.err` there,
    or in the folder `errors`."""
    given = StdioServerParameters(command=command, args=list(words), env=env, cwd=folder)
    errors = (errors or folder) / "mcp.err"
    opened: Future[Agent] = Future()
    closed = threading.Event()
    thread = threading.Thread(
        target=lambda: asyncio.run(_hold(given, mode, errors, opened, closed)),
        daemon=True,
        name="agent",
    )
    thread.start()
    try:
        yield opened.result(LONG)
    finally:
        closed.set()
        thread.join(LONG)
        assert not thread.is_alive(), "the session does not end"


async def _hold(
    given: StdioServerParameters,
    mode: Any,
    said: Path,
    opened: Future[Agent],
    closed: threading.Event,
) -> None:
    """Keep a session open; it must be closed by the task that opened it."""
    try:
        with said.open("a") as errors:
            async with Client(stdio_client(given, errlog=errors), mode=mode) as client:
                opened.set_result(Agent(client, asyncio.get_running_loop()))
                await asyncio.to_thread(closed.wait)
    except BaseException as error:
        if opened.done():
            raise
        opened.set_exception(error)
