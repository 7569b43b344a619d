"""Serves on standard input and output, until the client closes them or a signal comes."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Iterator

import anyio

from orchestrator.cli.mcp_server.desk import Desk, in_thread
from orchestrator.cli.mcp_server.offer import AgentServer
from orchestrator.errors import OrchestrateError
from orchestrator.settings import Settings

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

INTERRUPTED = 130

STARTS_WITHIN = 30.0
"""Seconds that a daemon which is being started at the very end may take, before it is stopped."""

_GONE = (OSError, anyio.BrokenResourceError, anyio.ClosedResourceError, EOFError)
"""What writing to a client raises that is not there any more."""


def serve(settings: Settings, *, read_only: bool, stop_on_exit: bool) -> None:
    """Until the end. With `stop_on_exit`, everything is stopped then, as by `down`."""
    code, error = asyncio.run(_serve(settings, read_only=read_only, stop_on_exit=stop_on_exit))
    if error is not None:
        raise error
    if code or _held_up():
        # A thread that reads standard input, or waits for a daemon, cannot be told to end.
        sys.stderr.flush()
        os._exit(code)


async def _serve(
    settings: Settings, *, read_only: bool, stop_on_exit: bool
) -> tuple[int, Exception | None]:
    """The exit code; an error that is to be shown."""
    desk = Desk(settings)
    ended = asyncio.Event()
    seen: list[int] = []
    loop = asyncio.get_running_loop()
    for number in SIGNALS:
        loop.add_signal_handler(number, lambda number=number: (seen.append(number), ended.set()))
    serving = asyncio.create_task(AgentServer(desk, read_only=read_only).run_stdio_async())
    told = asyncio.create_task(ended.wait())
    await asyncio.wait({serving, told}, return_when=asyncio.FIRST_COMPLETED)
    told.cancel()
    if not seen:
        broken = _broken(serving)
        if broken is not None:
            return 1, broken
    if stop_on_exit:
        await in_thread(_stop_everything, desk)
    if seen:
        sys.stderr.flush()
        # The thread that reads standard input keeps the loop from ending.
        os._exit(INTERRUPTED if seen[0] == signal.SIGINT else 0)
    return 0, None


def _broken(serving: asyncio.Task[None]) -> Exception | None:
    """Why it ended, unless by the client's leaving."""
    if serving.cancelled():
        return None
    error = serving.exception()
    if error is None or all(isinstance(one, _GONE) for one in _leaves(error)):
        return None
    return error if isinstance(error, Exception) else OrchestrateError(repr(error))


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
            yield from _leaves(one)  # pyright: ignore[reportUnknownArgumentType]
    else:
        yield error


def _held_up() -> bool:
    """Whether a thread is left that the interpreter would wait for."""
    here = threading.current_thread()
    return any(one is not here and not one.daemon for one in threading.enumerate())


def _stop_everything(desk: Desk) -> None:
    """As `down` does. What cannot be done is said, for nobody is there to ask again."""
    from orchestrator.cli.daemon import anything_to_stop, end
    from orchestrator.cli.launch import ensure_daemon
    from orchestrator.cli.main import show_error

    # One that is being started right now would come up after the look.
    desk.starting.acquire(timeout=STARTS_WITHIN)
    try:
        if anything_to_stop(desk.settings):
            ensure_daemon(desk.settings)
            end(desk.settings, "/v1/down", {"keep_daemon": False}, None, stays=False)
    except OrchestrateError as error:
        show_error(error)
