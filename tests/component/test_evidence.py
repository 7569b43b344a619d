"""What is known of an end, what an instance then hangs on, and an end of which nothing is known."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from orchestrator.control import monitor, starting
from orchestrator.control.bus import Bus
from orchestrator.control.evidence import gather, levels, marks_of
from orchestrator.control.executor import Executor
from orchestrator.control.monitor import Watched
from orchestrator.core.cause import Cause, Evidence
from orchestrator.core.event import Event, EventType
from orchestrator.core.spec import Command, Endpoint, InputFile, InstanceSpec
from orchestrator.errors import StartError
from orchestrator.runtime import ports, process
from orchestrator.runtime.logs import Logs
from orchestrator.runtime.oom import OomWatch
from orchestrator.runtime.process import Exit

# pyright: reportPrivateUsage=false


def a_spec(*argv: str, env: dict[str, str] | None = None, model: str = "") -> InstanceSpec:
    inputs = (InputFile("model", model, None),) if model else ()
    command = Command(argv or ("/bin/sh",), env or {}, "/")
    return InstanceSpec("a", "llama-server", command, Endpoint("127.0.0.1", 1), inputs=inputs)


def paths(spec: InstanceSpec, cause: Cause) -> set[str]:
    return set(levels(spec, cause)["files"])


def test_only_what_it_reads_is_hung_on() -> None:
    env = {"LLAMA_CACHE": "/cache", "SOME_FILE": "/some"}
    argv = ("/x/run", "--model", "/m.gguf", "--log-file", "/l.log", "--slot-save-path=/slots")
    spec = a_spec(*argv, env=env, model="/m.gguf")
    assert paths(spec, Cause("bad-flag", "x")) == {"/m.gguf", "/x/run"}
    given = a_spec("/x/run", "--chat-template-file", "/t.jinja", "--log-file", "/l.log")
    assert paths(given, Cause("bad-flag", "x")) == {"/x/run", "/t.jinja"}
    # What the engine has named itself counts, but for what it writes.
    words = "cannot open '/a b.json', '/l.log', '/slots/1', '/cache/y': No such file"
    assert paths(spec, Cause("crashed", words)) == {"/m.gguf", "/x/run", "/a b.json"}
    words = "exited with code 126: /x/run: 2: exec: /y/tool: Permission denied"
    assert paths(spec, Cause("permission", words)) == {"/m.gguf", "/x/run", "/y/tool"}


def test_a_library_that_is_missing_may_come_beside_the_program(tmp_path: Path) -> None:
    program = os.path.realpath(tmp_path / "bin" / "run")
    words = "run: error while loading shared libraries: liby.so.1: cannot open shared object file"
    found = paths(a_spec(program), Cause("binary-incompatible", words))
    assert found == {
        program,
        str(tmp_path.resolve() / "bin" / "liby.so.1"),
        str(tmp_path.resolve() / "lib" / "liby.so.1"),
    }


def test_a_file_counts_as_it_was_when_the_run_began(tmp_path: Path) -> None:
    model = tmp_path / "m.gguf"
    model.write_text("half")
    spec = a_spec(model=str(model))
    began = marks_of(spec)
    model.write_text("whole now")
    seen = levels(spec, Cause("model-unreadable", "x"), began=began)
    assert seen["files"][str(model)] == began[str(model)]
    evidence = gather(
        spec, Exit(code=1), lines=[], was_ready=False, memory=OomWatch(1), began=began
    )
    assert [file.state for file in evidence.files] == ["changed"]


async def _watched(folder: Path, program: str, meanwhile: Callable[[Watched], Any]) -> list[Event]:
    """What is posted of a run of that shell program."""
    bus, spec = Bus(), a_spec()
    with (folder / "log").open("wb") as log:
        running = process.spawn(
            Command(("/bin/sh", "-c", program), {}, "/"),
            inherited=dict(os.environ),
            owner=("ORCHESTRATE_TEST", "a"),
            log=log.fileno(),
        )
    watched = Watched("a", "s1", running, 0.0, lambda _: spec, OomWatch(running.ref.pid))
    meanwhile(watched)
    await monitor.watch(watched, bus=bus, logs=Logs(str(folder)))
    return [item for item in bus.drain() if isinstance(item, Event)]


@pytest.mark.parametrize("blind", [(ports, "listeners"), (monitor, "last_lines")])
def test_an_end_is_told_also_where_its_cause_cannot_be_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blind: tuple[Any, str]
) -> None:
    def scarce(*_: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(*blind, scarce)
    events = asyncio.run(_watched(tmp_path, "exit 3", lambda _: None))
    kinds = [event.type for event in events]
    assert kinds.count(EventType.EXITED) == 1
    assert kinds[-1] is EventType.EXITED
    assert EventType.BUG in kinds
    assert (events[-1].reason, events[-1].data["exit_code"]) == ("crashed", 3)


def test_what_was_condemned_does_not_wait_for_a_port(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = Cause("port-taken", "x", permanent=True, waits=True)
    monkeypatch.setattr(monitor, "judge", lambda _: taken)
    events = asyncio.run(_watched(tmp_path, "exit 3", lambda watched: watched.condemned.set()))
    assert (events[-1].data["waits"], events[-1].data["permanent"]) == (False, False)


@pytest.mark.parametrize("hung", [True, False])
def test_an_end_that_was_asked_for_is_not_looked_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hung: bool
) -> None:
    """Its successor waits for it; but of one that hangs it is to be known what it hangs on."""
    looked: list[InstanceSpec] = []

    def noted(spec: InstanceSpec, *rest: Any, **more: Any) -> Evidence:
        looked.append(spec)
        return gather(spec, *rest, **more)

    def end(watched: Watched) -> None:
        if hung:
            watched.condemned.set()
        watched.process.signal(signal.SIGTERM)

    monkeypatch.setattr(monitor, "gather", noted)
    events = asyncio.run(_watched(tmp_path, "exec sleep 60", end))
    assert (events[-1].type, events[-1].data["signal"]) == (EventType.EXITED, signal.SIGTERM)
    assert events[-1].data["ended"] == "killed by SIGTERM"
    assert bool(looked) is hung


def _an_executor(folder: Path, spec: InstanceSpec) -> Executor:
    return Executor(
        bus=Bus(),
        logs=Logs(str(folder)),
        inherited=dict(os.environ),
        owner="test",
        spec_of=lambda _: spec,
        rows_of=lambda _: (),
        workshop=cast(Any, SimpleNamespace()),
    )


@pytest.mark.parametrize("ended", [True, False])
def test_a_process_that_is_gone_is_not_kept_whatever_goes_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ended: bool
) -> None:
    spec = a_spec()
    made = _an_executor(tmp_path, spec)

    async def story() -> None:
        with (tmp_path / "log").open("wb") as log:
            command = Command(("/bin/sh", "-c", "exec sleep 60"), {}, "/")
            running = process.spawn(
                command, inherited={}, owner=("ORCHESTRATE_TEST", "a"), log=log.fileno()
            )

        async def broken(*_: object, **__: object) -> None:
            if ended:
                await process.stop(running, grace=5.0)
            raise OSError(24, "Too many open files")

        monkeypatch.setattr(monitor, "watch", broken)
        made._watched["a"] = watched = Watched(
            "a", "s1", running, 0.0, lambda _: spec, OomWatch(running.ref.pid)
        )
        with suppress(OSError):
            await made._watch_to_the_end(watched)
        # As long as it runs it has to be there for a stop.
        assert made.idle == ended
        assert ("a" in made._watched) == (not ended)
        await process.stop(running, grace=5.0)

    asyncio.run(story())


def test_a_start_that_failed_is_told_although_a_mount_hangs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(monitor, "EVIDENCE_WITHIN", 0.05)
    monkeypatch.setattr(starting, "levels", lambda *_: time.sleep(0.5))
    error = StartError("no", reason="binary-missing", permanent=True)
    event = asyncio.run(starting.start_failed(a_spec(), "s1", error))
    assert (event.type, event.data["hangs_on"]) == (EventType.START_FAILED, {})
