"""What an executor takes one for that an earlier daemon started."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from orchestrator.control import executor
from orchestrator.control.bus import Bus
from orchestrator.control.monitor import Watched
from orchestrator.core.spec import Command, Endpoint, InstanceSpec
from orchestrator.core.status import InstanceStatus, Phase
from orchestrator.runtime.logs import Logs
from orchestrator.runtime.process import Process

SPEC = InstanceSpec("a", "llama-server", Command(("true",), {}, "/"), Endpoint("127.0.0.1", 1))


@pytest.mark.parametrize(
    ("phase", "ready_at", "was_ready"),
    [
        (Phase.STARTING, None, False),
        (Phase.READY, 1.0, True),
        (Phase.UNREADY, 1.0, True),
    ],
)
def test_one_that_was_ready_once_does_not_load(
    phase: Phase,
    ready_at: float | None,
    was_ready: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[Watched] = []

    async def watch(watched: Watched, **_: object) -> None:
        seen.append(watched)

    monkeypatch.setattr(executor, "monitor", SimpleNamespace(Watched=_watched, watch=watch))

    async def life() -> None:
        ours = executor.Executor(
            bus=Bus(),
            logs=Logs(str(tmp_path)),
            inherited={},
            owner="o",
            spec_of=lambda _name: SPEC,
            rows_of=lambda _name: (),
            workshop=cast(Any, None),
        )
        running = SimpleNamespace(ref=SimpleNamespace(pid=1), let_go=lambda: None)
        status = InstanceStatus("a", phase, SPEC, "s", started_at=1.0, ready_at=ready_at)
        ours.adopt(status, cast(Process, running))
        await asyncio.sleep(0)
        await ours.let_go()

    asyncio.run(life())
    assert [one.was_ready for one in seen] == [was_ready]


def _watched(*args: Any) -> Any:
    return SimpleNamespace(
        name=args[0],
        start_id=args[1],
        process=args[2],
        spec=lambda: args[4](args[0]),
        was_ready=args[6],
        ready=asyncio.Event(),
        retuned=asyncio.Event(),
    )
