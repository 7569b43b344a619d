"""The probe itself: against an Ollama that says what a test wants, and against a real one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Callable, Generator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from orchestrator.control.inference import InferenceProbe
from orchestrator.core.liveness import Verdict
from orchestrator.core.spec import (
    Command,
    Endpoint,
    Inference,
    InstanceSpec,
    Liveness,
    ModelSet,
    ModelSpec,
)
from orchestrator.runtime.effort import Effort, effort_of
from tests.ollama_world import Server, ask, expires_in, generate, ps, running_ollama
from tests.world import PATIENCE

LIVENESS = Liveness(interval=30.0, mode="inference", slow=10.0, down=20.0)
NEVER = "2318-01-01T00:00:00Z"


def free_port() -> int:
    """A port that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def a_llama_server(port: int, **changes: Any) -> InstanceSpec:
    spec = InstanceSpec(
        "a",
        "llama-server",
        Command(("llama-server",), {}, "/"),
        Endpoint("127.0.0.1", port),
        liveness=LIVENESS,
        inference=Inference("/completion", "{}"),
    )
    return replace(spec, **changes)


def an_ollama(port: int, *models: str, **changes: Any) -> InstanceSpec:
    holds = ModelSet(tuple(ModelSpec(name) for name in models))
    return a_llama_server(port, engine="ollama", inference=None, holds=holds, **changes)


def looked(spec: InstanceSpec, *, pid: int | None = None) -> Verdict:
    return asyncio.run(InferenceProbe(lambda: spec, lambda: pid).look())[0]


# --- a server that says what is wanted ------------------------------------------------------------

Say = Callable[[str, Any], tuple[int, Any]]
"""Path and document of a request; status and document of its answer."""


@contextlib.asynccontextmanager
async def saying(say: Say) -> AsyncGenerator[tuple[int, list[tuple[str, str, Any]]]]:
    """Its port, and what it was asked: path, Authorization, document."""
    asked: list[tuple[str, str, Any]] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, EOFError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
            body = await reader.readexactly(int(fields.get("Content-Length", "0")))
            document = json.loads(body) if body else None
            path = head.split()[1]
            asked.append((path, fields.get("Authorization", ""), document))
            status, said = say(path, document)
            payload = json.dumps(said).encode()
            writer.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n" % (status, len(payload)))
            writer.write(payload)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], asked


def in_memory(*names: str, until: str = NEVER) -> dict[str, Any]:
    return {
        "models": [
            {"name": name, "digest": "d", "expires_at": until, "context_length": 2048}
            for name in names
        ]
    }


def test_an_error_is_believed_only_when_it_is_repeated() -> None:
    async def story() -> None:
        answers = [(500, {"error": "runner has terminated"}), (200, {}), (500, {}), (500, {})]
        async with saying(lambda _path, _document: answers.pop(0)) as (port, asked):
            probe = InferenceProbe(lambda: a_llama_server(port), lambda: None)
            assert (await probe.look())[0].kind == "healthy"
            verdict, _ = await probe.look()
            assert (verdict.kind, verdict.message) == ("down", "answers 500")
            assert len(asked) == 4

    asyncio.run(story())


@pytest.mark.parametrize("by", ["env", "file"])
def test_a_key_is_told_and_not_shown(tmp_path: Path, by: str) -> None:
    file = tmp_path / "keys"
    file.write_text("\nsesame\nother\n")
    env = {"LLAMA_API_KEY": "sesame,other"} if by == "env" else {}
    argv = ("llama-server", "--api-key-file", str(file)) if by == "file" else ("llama-server",)

    async def story() -> None:
        refusal = 401, {"error": {"message": "Invalid API Key"}}
        async with saying(lambda _path, _document: refusal) as (port, asked):
            spec = a_llama_server(port, command=Command(argv, env, "/"))
            verdict, _ = await InferenceProbe(lambda: spec, lambda: None).look()
            assert asked == [("/completion", "Bearer sesame", {})]
            assert verdict.message == "refuses the probe: answers 401: Invalid API Key"

    asyncio.run(story())


def test_models_take_turns_and_declared_ones_come_first() -> None:
    def say(path: str, document: Any) -> tuple[int, Any]:
        if path == "/api/ps":
            return 200, in_memory("b:latest", "a:latest", "stranger:latest")
        sick = document["model"] == "b:latest" and len(models) == 1
        models.append(document["model"])
        return (503, {"error": "busy"}) if sick else (200, {})

    async def story() -> None:
        async with saying(say) as (port, _):
            spec = an_ollama(port, "a:latest", "b:latest")
            probe = InferenceProbe(lambda: spec, lambda: None)
            kinds = [(await probe.look())[0].kind for _ in range(4)]
        assert kinds == ["healthy", "slow", "healthy", "healthy"]

    models: list[str] = []
    asyncio.run(story())
    # One that could not answer is asked again before it is another's turn.
    assert models == ["a:latest", "b:latest", "b:latest", "a:latest"]


def test_a_model_that_only_embeds_is_asked_for_that() -> None:
    def say(path: str, _document: Any) -> tuple[int, Any]:
        if path == "/api/generate":
            return 400, {"error": '"e:latest" does not support generate'}
        return 200, in_memory("e:latest")

    async def story() -> None:
        async with saying(say) as (port, asked):
            probe = InferenceProbe(lambda: an_ollama(port), lambda: None)
            verdict, _ = await probe.look()
            assert verdict.message.startswith("an embedding of e:latest after")
            await probe.look()
        paths = [path for path, _, _ in asked if path != "/api/ps"]
        assert paths == ["/api/generate", "/api/embed", "/api/embed"]
        assert asked[-1][2] == {
            "model": "e:latest",
            "input": "a",
            "options": {"num_ctx": 2048},
            "keep_alive": -1,
        }

    asyncio.run(story())


def test_an_ollama_that_says_nonsense_of_its_memory_is_asked_for_its_version() -> None:
    for nonsense in ([], {"models": 3}, {"models": [7]}, "x"):

        async def story(nonsense: Any = nonsense) -> None:
            async with saying(lambda _path, _document: (200, nonsense)) as (port, asked):
                verdict, _ = await InferenceProbe(lambda: an_ollama(port), lambda: None).look()
                assert verdict.message.startswith("its version after")
                assert [path for path, _, _ in asked] == ["/api/ps", "/api/version"]

        asyncio.run(story())


def test_nobody_there_is_down_at_once() -> None:
    began = time.monotonic()
    assert looked(a_llama_server(free_port())).kind == "down"
    assert looked(an_ollama(free_port())).kind == "down"
    assert time.monotonic() - began < PATIENCE / 2


# --- what a server does that does not answer ------------------------------------------------------

MUTE = """
import socket, sys, threading
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
while sys.argv[1] == "works":
    pass
threading.Event().wait()
"""


@contextlib.contextmanager
def mute(what: str) -> Generator[tuple[int, int]]:
    """Port and pid of one that accepts every connection, and answers nothing."""
    command = [sys.executable, "-c", MUTE, what]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline()), process.pid
        finally:
            process.kill()


@pytest.mark.parametrize(("what", "kind"), [("works", "slow"), ("sleeps", "down")])
@pytest.mark.parametrize("engine", [a_llama_server, an_ollama])
def test_one_that_computes_is_slow_and_one_that_does_nothing_is_down(
    engine: Callable[..., InstanceSpec], what: str, kind: str
) -> None:
    quick = replace(LIVENESS, slow=0.2, down=1.0)
    with mute(what) as (port, pid):
        verdict = looked(engine(port, liveness=quick), pid=pid)
        assert (verdict.kind, verdict.counts) == (kind, kind == "down")
        assert ("busy" in verdict.message) == (what == "works")
        # Whose process it is may not be visible: then nothing speaks for it.
        assert looked(engine(port, liveness=quick)).kind == "down"


def test_effort_is_that_of_children_too_and_ends_with_a_stop() -> None:
    spins = "import os; os.fork() or exec('while True: pass'); os.wait()"
    with subprocess.Popen([sys.executable, "-c", spins], process_group=0) as process:
        try:
            first = effort_of(process.pid)
            assert first is not None
            end = time.monotonic() + PATIENCE
            while (now := effort_of(process.pid)) is None or now.cpu < first.cpu + 0.2:
                assert time.monotonic() < end
            os.killpg(process.pid, signal.SIGSTOP)
            still = effort_of(process.pid)
            while (now := effort_of(process.pid)) != still:
                assert time.monotonic() < end
                still = now
            assert isinstance(still, Effort)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
    assert effort_of(process.pid) is None


# --- a real Ollama --------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path: Path, model: Path, ollama: str, llama_server: str) -> Generator[Server]:
    """With the model `tiny`, which is not in memory."""
    with running_ollama(tmp_path / "ollama", free_port(), binary=ollama) as running:
        digest = _upload(running.port, model)
        body = {"model": "tiny", "files": {"tiny.gguf": digest}, "stream": False}
        ask(running.port, "/api/create", body)
        yield running


def _upload(port: int, model: Path) -> str:
    import hashlib
    import urllib.request

    content = model.read_bytes()
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    url = f"http://127.0.0.1:{port}/api/blobs/{digest}"
    urllib.request.urlopen(urllib.request.Request(url, content), timeout=PATIENCE).close()
    return digest


def runners(server: Server) -> list[int]:
    with open(f"/proc/{server.pid}/task/{server.pid}/children") as file:
        direct = file.read().split()
    found = [int(pid) for pid in direct]
    for thread in os.listdir(f"/proc/{server.pid}/task"):
        with open(f"/proc/{server.pid}/task/{thread}/children") as file:
            found += [int(pid) for pid in file.read().split()]
    return sorted(set(found))


def test_what_is_not_in_memory_is_not_loaded(server: Server) -> None:
    verdict = looked(an_ollama(server.port, "tiny:latest"))
    assert verdict.kind == "healthy"
    assert verdict.message.startswith("its version after")
    assert ps(server.port) == {}


def test_a_probe_neither_loads_a_model_anew_nor_moves_its_end(server: Server) -> None:
    port = server.port
    generate(port, "tiny", keep_alive=500, options={"num_ctx": 1000})
    running = runners(server)
    assert running
    spec = an_ollama(port, "tiny:latest")

    async def story() -> None:
        probe = InferenceProbe(lambda: spec, lambda: server.pid)
        assert (await probe.look())[0].message.startswith("a token of tiny:latest after")
        first = await asyncio.to_thread(until, port)
        for _ in range(3):
            assert (await probe.look())[0].kind == "healthy"
        assert await asyncio.to_thread(until, port) == pytest.approx(first, abs=5.0)
        # What says nothing of it is held for as long as before.
        await asyncio.to_thread(generate, port, "tiny", options={"num_ctx": 1000})
        await probe.look()
        assert await asyncio.to_thread(expires_in, port, "tiny:latest") == pytest.approx(
            500, abs=10
        )

    asyncio.run(story())
    assert runners(server) == running
    assert ps(port)["tiny:latest"]["context_length"] == 1000


def until(port: int) -> float:
    return time.time() + expires_in(port, "tiny:latest")


def test_what_is_pinned_stays_pinned(server: Server) -> None:
    generate(server.port, "tiny", keep_alive=-1)
    assert looked(an_ollama(server.port)).message.startswith("a token of tiny:latest after")
    assert expires_in(server.port, "tiny:latest") > 1e9


def test_a_runner_that_hangs_is_noticed_though_its_server_is_well(server: Server) -> None:
    generate(server.port, "tiny", keep_alive=-1)
    for pid in runners(server):
        os.kill(pid, signal.SIGSTOP)
    spec = an_ollama(server.port, liveness=replace(LIVENESS, slow=0.3, down=1.0))
    verdict = looked(spec, pid=server.pid)
    assert (verdict.kind, verdict.counts) == ("down", True)
    assert "a token of tiny:latest" in verdict.message
