"""What the gateway costs, beside the direct connection to the same engine in the same run.

    python benchmarks/gateway.py [--rounds 5] [--swaps 20] [--only one|eight|first|idle|swap|cold]

Completions of one token at one connection and at eight; the first piece of a stream; memory for
streams that are open and silent; replacing an engine under 50 requests a second; and the first
request to an engine that is started on demand. Requests are made by a process of its own, with
plain sockets. Exit code 1 when a budget is missed or a request has failed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

from common import ROOT, User, free_ports, load, median, until_answered, until_gone, verdict

from tests.load import Beside, Load, completion, percentile

ADDED = 1.2e-3
"""Seconds that the gateway may add to a completion of one token."""

FIRST = 1.5e-3
"""Seconds that it may add to the first piece of a stream."""

A_SECOND = 1000
"""Requests at eight connections."""

FOR_A_STREAM = 10_000
"""Bytes for a stream that is open and silent."""

STREAMS = 1000

UNDER = 50
"""Requests a second while an engine is replaced."""

COLD = 0.030
"""Seconds that a start on demand may take beside the engine's own."""

PARTS = ("one", "eight", "first", "idle", "swap", "cold")


class Bench:
    """A gateway with one real engine behind it, kept by a daemon."""

    def __init__(self, folder: Path, binary: str) -> None:
        from models.make_tiny import write_tiny

        self.folder = folder
        self.model = str(write_tiny(folder / "tiny.gguf"))
        self.user = User(folder, ORCHESTRATE_LLAMA_SERVER=binary)
        self.port, self.direct = free_ports(2)
        self.file = folder / "p.yaml"

    def write(self, **more: Any) -> None:
        """Save the profile as an editor does."""
        instance = {"model": self.model, "flags": {"threads": 1, "ctx-size": 4096}, **more}
        whole = {"gateway": {"port": self.port}, "instances": {"a": instance}}
        aside = self.folder / ".p.yaml.new"
        aside.write_text(json.dumps(whole))
        aside.replace(self.file)

    def apply(self, **more: Any) -> None:
        self.write(**more)
        self.user.run("apply", self.file)

    def status(self) -> dict[str, Any]:
        """Straight from the daemon: a command takes as much as ten requests."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(self.folder / "state" / "control.sock"))
            sock.sendall(b"GET /v1/status HTTP/1.0\r\nHost: localhost\r\n\r\n")
            answer = b""
            while chunk := sock.recv(1 << 16):
                answer += chunk
        return json.loads(answer.partition(b"\r\n\r\n")[2])

    def until(self, what: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
        """Look at the status now and then until it is so."""
        end = time.monotonic() + 60
        while not what(found := self.status()):
            if time.monotonic() > end:
                raise SystemExit(f"it never came: {found}")
            time.sleep(0.05)
        return found

    def gateway(self) -> int:
        return self.status()["gateway"]["pid"]


# --- one request after the other --------------------------------------------------------------


def ask(port: int, connections: int, count: int, *, stream: bool) -> list[dict[str, float]]:
    """What requests took that a process of its own has made."""
    words = [str(port), str(connections), str(count), "stream" if stream else "whole"]
    done = subprocess.run(
        [sys.executable, __file__, "--ask", *words], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout)


def asking(port: int, connections: int, count: int, kind: str) -> None:
    """The other end of `ask`."""
    request = completion("a", stream=kind == "stream", tokens=8 if kind == "stream" else 1)
    line = Load(port)
    line.in_a_row(request, connections=connections, count=50)
    began = time.perf_counter()
    went = line.in_a_row(request, connections=connections, count=count)
    seconds = time.perf_counter() - began
    line.close()
    if wrong := [one.wrong for one in went if one.wrong]:
        raise SystemExit(f"{len(wrong)} of {count} failed, as in: {wrong[0]}")
    rows = [{"first": one.first, "took": one.took} for one in went]
    print(json.dumps([{"seconds": seconds}, *rows]))


def on_a_core(pid: int) -> float:
    """Seconds that a process has computed."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def compare(bench: Bench, rounds: int, connections: int, count: int, what: str) -> dict[str, float]:
    """Medians of the rounds, direct and through the gateway in turn."""
    pid = bench.gateway()
    found: dict[str, list[float]] = {"direct": [], "ours": [], "cpu": [], "rate": [], "floor": []}
    for at in range(rounds):
        for port in (bench.direct, bench.port) if at % 2 else (bench.port, bench.direct):
            before = on_a_core(pid)
            whole, *rows = ask(port, connections, count, stream=what == "first")
            ours = port == bench.port
            if ours:
                # 50 requests come before those that are counted.
                found["cpu"].append((on_a_core(pid) - before) / (count + 50))
            found["ours" if ours else "direct"].append(median([row[what] for row in rows]))
            found["rate" if ours else "floor"].append(count / whole["seconds"])
    return {name: median(values) for name, values in found.items()}


def one(bench: Bench, rounds: int) -> bool:
    """A completion of one token, one connection."""
    found = compare(bench, rounds, 1, 1000, "took")
    added = found["ours"] - found["direct"]
    print(
        f"one token, 1 connection: direct {found['direct'] * 1e3:.2f} ms, through the gateway "
        f"{found['ours'] * 1e3:.2f} ms: {added * 1e3:+.2f} ms   budget {ADDED * 1e3:+.2f} ms  "
        f"{verdict(added, ADDED)}"
    )
    print(f"  CPU of the gateway: {found['cpu'] * 1e6:.0f} µs a request; {load()}")
    return added <= ADDED


def eight(bench: Bench, rounds: int) -> bool:
    """The same at eight connections, by how many a second."""
    found = compare(bench, rounds, 8, 4000, "took")
    print(
        f"one token, 8 connections: direct {found['floor']:,.0f} requests/s, through the gateway "
        f"{found['rate']:,.0f}   budget {A_SECOND:,}  {verdict(A_SECOND, found['rate'])}"
    )
    print(f"  CPU of the gateway: {found['cpu'] * 1e6:.0f} µs a request; {load()}")
    return found["rate"] >= A_SECOND


def first(bench: Bench, rounds: int) -> bool:
    """The first piece of a stream."""
    found = compare(bench, rounds, 1, 500, "first")
    added = found["ours"] - found["direct"]
    print(
        f"first piece of a stream: direct {found['direct'] * 1e3:.2f} ms, through the gateway "
        f"{found['ours'] * 1e3:.2f} ms: {added * 1e3:+.2f} ms   budget {FIRST * 1e3:+.2f} ms  "
        f"{verdict(added, FIRST)}"
    )
    print(f"  CPU of the gateway: {found['cpu'] * 1e6:.0f} µs a stream of 8 pieces; {load()}")
    return added <= FIRST


# --- streams that are open and silent ----------------------------------------------------------


async def hold(port: int, folder: Path) -> None:
    """A daemon and an engine in one, as far as a gateway sees them: streams begin, and go on."""
    target = {"name": "a", "engine": "llama-server", "host": "127.0.0.1", "port": port}
    target |= {"phase": "ready", "run": "1", "slots": 2 * STREAMS}
    table = {"targets": [target], "names": [{"name": "a", "aims": [{"target": "a"}]}]}

    async def daemon(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.0 200 OK\r\n\r\n")
        if b"/table" in asked:
            writer.write(json.dumps(table).encode() + b"\n")
            await reader.read()
        writer.close()

    async def engine(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
                b"Transfer-Encoding: chunked\r\n\r\n9\r\ndata: {}\n\r\n"
            )
            while await reader.read(1 << 16):
                pass
        writer.close()

    await asyncio.start_unix_server(daemon, folder / "control.sock")
    await asyncio.start_server(engine, "127.0.0.1", port, backlog=1024)
    await asyncio.Event().wait()


def open_streams(port: int, count: int) -> list[socket.socket]:
    """So many clients, each with the beginning of its answer."""
    request = completion("a", stream=True, path="/v1/chat/completions")
    opened: list[socket.socket] = []
    for _ in range(count):
        sock = socket.create_connection(("127.0.0.1", port), 30)
        sock.sendall(request)
        said = b""
        while b"data: {}" not in said:
            said += sock.recv(4096)
        opened.append(sock)
    return opened


def pss(pid: int) -> int:
    """Bytes of memory of a process, what it shares counted in part."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


@contextlib.contextmanager
def running(*words: object, cwd: Path) -> Generator[int]:
    """A process of ours for a while; its pid."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with (cwd / "held.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, *map(str, words)], cwd=cwd, env=env, stdout=log, stderr=log
        )
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()


def idle(folder: Path) -> bool:
    """Memory for each of many streams in which nothing happens."""
    most = 4 * STREAMS
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, hard), hard))
    held = folder / "held"
    held.mkdir()
    engine, port = free_ports(2)
    with (
        running(__file__, "--hold", engine, held, cwd=held),
        running("-m", "orchestrator.gateway", "--port", port, cwd=held) as pid,
    ):
        until_answered([port])
        opened = open_streams(port, 100)
        before = pss(pid)
        opened += open_streams(port, STREAMS)
        each = (pss(pid) - before) / STREAMS
        computed = on_a_core(pid)
        time.sleep(5)
        computed = on_a_core(pid) - computed
        for sock in opened:
            sock.close()
    print(
        f"{STREAMS:,} silent streams: {each / 1e3:.1f} kB of the gateway (PSS) each   "
        f"budget {FOR_A_STREAM / 1e3:.0f} kB  {verdict(each, FOR_A_STREAM)}"
    )
    print(f"  CPU of the gateway meanwhile: {computed / 5:.1%} of a core")
    return each <= FOR_A_STREAM


# --- an engine that is replaced, and one that is started on demand ------------------------------


def swap(bench: Bench, rounds: int, strategy: str) -> bool:
    """Edits under load, one after the other; nothing may fail, and little may take longer."""
    how = {"port": "auto", "update": {"strategy": strategy}}
    bench.apply(**how)
    requests = [*[completion("a")] * 4, completion("a", stream=True, tokens=20)]
    with Beside(bench.port, requests, a_second=UNDER) as calm:
        time.sleep(10)
    with Beside(bench.port, requests, a_second=UNDER) as beside:
        for at in range(rounds):
            before = bench.status()["instances"][0]["pid"]
            bench.write(**how, flags={"threads": 1, "ctx-size": 4096 + 256 * (at % 4 + 1)})
            bench.until(lambda s, old=before: _is_new(s, old))
            time.sleep(0.5)
    normal = [one.took for one in calm.load.done]
    took = [one.took for one in beside.load.done]
    wrong = calm.wrong + beside.wrong
    budget = percentile(normal, 0.99) + max(normal)
    print(
        f"{strategy}, {rounds} edits under {UNDER} requests/s: {len(wrong)} of {len(took):,} "
        f"failed   budget 0  {verdict(len(wrong), 0)}"
    )
    print(
        f"  p50 {percentile(took, 0.5) * 1e3:.1f} ms, p99 {percentile(took, 0.99) * 1e3:.1f} ms, "
        f"longest {max(took) * 1e3:.0f} ms; without edits {percentile(normal, 0.5) * 1e3:.1f}, "
        f"{percentile(normal, 0.99) * 1e3:.1f}, {max(normal) * 1e3:.0f} ms; {load()}"
    )
    if wrong:
        print(f"  {wrong[0]}")
    if strategy != "start-first":
        # Requests wait for the start of an engine here: that is what it says.
        return not wrong
    p99 = percentile(took, 0.99)
    print(
        f"  p99 {p99 * 1e3:.1f} ms   budget {budget * 1e3:.1f} ms, the p99 without edits and one "
        f"request that ends  {verdict(p99, budget)}"
    )
    return not wrong and p99 <= budget


def _is_new(status: dict[str, Any], old: int) -> bool:
    (row,) = status["instances"]
    return row["pid"] not in (None, old) and row["phase"] == "ready" and status["converged"]


def cold(bench: Bench, rounds: int) -> bool:
    """The first request to what is at rest, beside the same start by a shell and a request."""
    bench.apply(port=bench.direct, start="on-demand", idle="1s")
    ours: list[float] = []
    floor: list[float] = []
    request = completion("a")
    for _ in range(rounds):
        bench.until(lambda s: s["instances"][0]["pid"] is None)
        ours.append(_asked_once(bench.port, request))
        row = bench.until(lambda s: s["instances"][0]["pid"])["instances"][0]
        bench.until(lambda s: s["instances"][0]["pid"] is None)
        began = time.perf_counter()
        process = subprocess.Popen(
            row["command"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        until_answered([bench.direct])
        _asked_once(bench.direct, request)
        floor.append(time.perf_counter() - began)
        process.terminate()
        until_gone([process.pid])
        process.wait()
    added = median(ours) - median(floor)
    print(
        f"first request on demand: {median(ours) * 1e3:.0f} ms, the engine's own start and a "
        f"request {median(floor) * 1e3:.0f} ms: {added * 1e3:+.0f} ms   "
        f"budget {COLD * 1e3:+.0f} ms  {verdict(added, COLD)}; {load()}"
    )
    return added <= COLD


def _asked_once(port: int, request: bytes) -> float:
    line = Load(port)
    (went,) = line.in_a_row(request, connections=1, count=1)
    line.close()
    if went.wrong:
        raise SystemExit(went.wrong)
    return went.took


def run(given: argparse.Namespace, folder: Path, binary: str) -> bool:
    """Measure and show; True when every budget is kept."""
    parts = [given.only] if given.only else PARTS
    kept = True
    bench = Bench(folder, binary)
    try:
        bench.apply(port=bench.direct)
        for part, measure in (("one", one), ("eight", eight), ("first", first)):
            if part in parts:
                kept &= measure(bench, given.rounds)
        if "swap" in parts:
            for strategy in ("stop-first", "start-first"):
                kept &= swap(bench, given.swaps, strategy)
        if "cold" in parts:
            kept &= cold(bench, given.rounds)
    finally:
        bench.user.run("down")
    if "idle" in parts:
        kept &= idle(folder)
    return kept


def main() -> int:
    parser = argparse.ArgumentParser(description="The gateway beside a direct connection.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--swaps", type=int, default=20)
    parser.add_argument("--only", choices=PARTS)
    parser.add_argument("--ask", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--hold", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.ask:
        port, connections, count, kind = given.ask
        asking(int(port), int(connections), int(count), kind)
        return 0
    if given.hold:
        asyncio.run(hold(int(given.hold[0]), Path(given.hold[1])))
    from tests.engines import llama_server_path

    binary = llama_server_path()
    if binary is None:
        raise SystemExit("the real llama-server is missing: make engines")
    print(f"{binary}\n{load()}")
    with tempfile.TemporaryDirectory(prefix="orchestrate-bench-") as folder:
        kept = run(given, Path(folder), binary)
    print(load())
    return 0 if kept else 1


if __name__ == "__main__":
    raise SystemExit(main())
