"""A loop that does not turn is noticed, and what it did meanwhile is told."""

from __future__ import annotations

import asyncio
import threading
import time

from orchestrator.runtime.stall import StallWatch

LIMIT = 0.05


def told_while(work: float, *, limit: float = LIMIT) -> list[tuple[float, list[str]]]:
    """What is told of a loop that, once, works for so many seconds without turning."""
    told: list[tuple[float, list[str]]] = []
    watch = StallWatch(limit)

    async def life() -> None:
        heard = asyncio.Event()

        def tell(took: float, stack: list[str]) -> None:
            told.append((took, stack))
            heard.set()

        with watch.watching(tell):
            await asyncio.sleep(0)
            until = time.monotonic() + work
            while time.monotonic() < until:
                pass
            # A bound, not a wait: where nothing is told, nothing comes.
            await asyncio.wait([asyncio.ensure_future(heard.wait())], timeout=work)

    with asyncio.Runner(loop_factory=watch.new_loop) as runner:
        runner.run(life())
    return told


def test_a_pass_that_takes_too_long_is_told_once_with_its_stack() -> None:
    (took, stack), *more = told_while(10 * LIMIT)
    assert took >= 10 * LIMIT
    assert "in life" in stack[-1]
    assert not more


def test_a_loop_that_turns_is_left_alone() -> None:
    assert told_while(0.0, limit=5.0) == []


def test_the_watcher_ends_with_the_loop() -> None:
    told_while(0.0)
    assert all(thread.name != "stall" for thread in threading.enumerate())


def test_a_pass_that_ended_while_it_was_written_down_is_not_told_as_the_next() -> None:
    told: list[float] = []
    watch = StallWatch(limit=20.0)

    async def life() -> None:
        with watch.watching(lambda took, _stack: told.append(took)):
            await asyncio.sleep(0)
            # What the thread writes when the pass that it saw is over already.
            watch._stack = (time.monotonic() - 60.0, ["f:1 in g"])
            for _ in range(3):
                await asyncio.sleep(0)

    with asyncio.Runner(loop_factory=watch.new_loop) as runner:
        runner.run(life())
    assert told == []
    assert watch._stack is None
