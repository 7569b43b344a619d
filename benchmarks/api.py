"""What the control API takes: `status` with many instances, and readers beside a converge.

Run: `python benchmarks/api.py [--instances 100] [--replaced 8] [--rounds 6]`. All is real: the
daemon, the llama-servers, 200 readers of events over TCP and 50 `status` a second. A converge is
timed with them and without them in turn, in one run, so that whatever else the machine does counts
for both. Exit code 1 when a budget is missed.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import selectors
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

from common import ROOT, User, free_ports, load, median, profile, verdict

from models.make_tiny import write_tiny
from tests.engines import llama_server_path

STATUS = 0.005
"""Seconds for `status` over the socket."""

LONGER = 0.10
"""Part by which a converge may be longer beside readers."""

READERS = 200
A_SECOND = 50
"""Requests for `status`."""

ROUNDS = 60


class Socket(http.client.HTTPConnection):
    """One kept connection over the control socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=60)
        self._at = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._at)

    def ask(self, method: str, path: str, body: object = None) -> Any:
        self.request(method, path, None if body is None else json.dumps(body))
        answer = self.getresponse()
        raw = answer.read()
        if answer.status != 200:
            raise SystemExit(f"{method} {path}: {answer.status} {raw[:500]!r}")
        return json.loads(raw) if raw[:1] == b"{" else raw


class Machine:
    """A daemon that serves over TCP too, with so many real llama-servers."""

    def __init__(self, folder: Path, count: int, binary: str) -> None:
        self.folder = folder
        self.model = str(write_tiny(folder / "tiny.gguf"))
        (port,) = free_ports(1)
        self.user = User(folder, ORCHESTRATE_LLAMA_SERVER=binary, ORCHESTRATE_LISTEN=str(port))
        self.port = port
        self.ports = free_ports(count + 1)[1:]
        self.file = folder / "p.yaml"
        self._daemon = 0

    def write(self, count: int, context: int) -> None:
        one = {"model": self.model, "flags": {"ctx-size": context, "threads": 1}}
        rows = {f"i{port}": {**one, "port": port} for port in self.ports[:count]}
        self.file.write_text(profile(rows))

    def on_a_core(self) -> float:
        """Seconds that the daemon has computed so far, to the nanosecond."""
        if not self._daemon:
            with contextlib.closing(self.socket()) as connection:
                self._daemon = connection.ask("GET", "/v1/status")["daemon"]["pid"]
        return int(Path(f"/proc/{self._daemon}/schedstat").read_text().split()[0]) / 1e9

    def socket(self) -> Socket:
        return Socket(self.folder / "state" / "control.sock")


def status(machine: Machine, count: int) -> bool:
    """The median of many, each with its own look at the process table; and again at once."""
    machine.write(count, 256)
    machine.user.run("apply", machine.file)
    connection = machine.socket()
    anew: list[float] = []
    again: list[float] = []
    computed: list[float] = []
    for _ in range(ROUNDS):
        time.sleep(0.3)
        before = machine.on_a_core()
        for found in (anew, again):
            began = time.perf_counter()
            connection.ask("GET", "/v1/status")
            found.append(time.perf_counter() - began)
            if found is anew:
                computed.append(machine.on_a_core() - before)
    connection.close()
    took = median(computed)
    print(f"`status` with {count} instances over the socket, medians of {ROUNDS}; {load()}:")
    print(
        f"  made anew: {took * 1e3:.2f} ms of CPU of the daemon   "
        f"budget {STATUS * 1e3:g} ms  {verdict(took, STATUS)}"
    )
    print(
        f"  seen by a client: {median(anew) * 1e3:.2f} ms, again at once {median(again) * 1e3:.2f}"
    )
    return took <= STATUS


def beside(machine: Machine, count: int, rounds: int) -> bool:
    """Seconds until so many replaced instances are ready again, with readers and without."""
    machine.write(count, 256)
    machine.user.run("apply", machine.file)
    alone: list[float] = []
    crowded: list[float] = []
    busy: dict[bool, list[float]] = {True: [], False: []}
    context = 512
    converge(machine, count, context)
    for turn in range(2 * rounds):
        # Once the one first, once the other.
        with_readers = turn % 4 in (1, 2)
        context = 768 - context
        with readers(machine) if with_readers else contextlib.nullcontext():
            before = machine.on_a_core()
            (crowded if with_readers else alone).append(converge(machine, count, context))
            busy[with_readers].append(machine.on_a_core() - before)
    without, beside_them = median(alone), median(crowded)
    longer = beside_them / without - 1
    print(
        f"replacing {count} instances, median of {rounds} each: alone {without:.3f} s, beside "
        f"{READERS} readers and {A_SECOND} status/s {beside_them:.3f} s: {longer:+.1%}   "
        f"budget {LONGER:+.0%}  {verdict(longer, LONGER)}"
    )
    spread = [f"{min(some):.3f}..{max(some):.3f}" for some in (alone, crowded)]
    print(f"  spread: alone {spread[0]}, beside them {spread[1]}; {load()}")
    print(
        f"  CPU of the daemon in a converge: alone {median(busy[False]):.3f} s, "
        f"beside them {median(busy[True]):.3f} s"
    )
    return longer <= LONGER


def converge(machine: Machine, count: int, context: int) -> float:
    machine.write(count, context)
    source = {"path": str(machine.file), "is_folder": False, "cwd": str(machine.folder)}
    env = {name: machine.user.env[name] for name in ("PATH", "HOME", "ORCHESTRATE_LLAMA_SERVER")}
    with contextlib.closing(machine.socket()) as connection:
        began = time.perf_counter()
        connection.ask("POST", "/v1/apply", {"sources": [{**source, "env": env}]})
        connection.ask("GET", "/readyz?wait=60")
        return time.perf_counter() - began


@contextlib.contextmanager
def readers(machine: Machine) -> Generator[None]:
    """A process that reads, from when all of it is connected."""
    token = (machine.folder / "state" / "token").read_text().strip()
    process = subprocess.Popen(
        [sys.executable, __file__, "--read", str(machine.port), token],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdout.readline()
    yield
    process.stdin.close()
    said = process.stdout.read().decode()
    process.wait()
    print(f"  {said.strip()}")


def read(port: int, token: str) -> None:
    """Until standard input ends: plain sockets, for what this takes is missing to the others."""
    head = f"HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
    streams = [_opened(port, b"GET /v1/events?recent=0 " + head) for _ in range(READERS)]
    asking = _opened(port, b"")
    asking.setblocking(True)
    with selectors.EpollSelector() as selector:
        for one in streams:
            selector.register(one, selectors.EVENT_READ)
        selector.register(sys.stdin, selectors.EVENT_READ)
        print(flush=True)
        slow = total = 0
        for asked, due in enumerate(_ticks()):
            while (left := due - time.monotonic()) > 0:
                for key, _ in selector.select(left):
                    source: Any = key.fileobj
                    if source is sys.stdin:
                        print(f"{asked} status, {slow} late, {total >> 10} KiB of events")
                        return
                    total += len(source.recv(65536))
            began = time.monotonic()
            asking.sendall(b"GET /v1/status " + head)
            _whole(asking)
            slow += time.monotonic() - began > 1 / A_SECOND


def _ticks() -> Iterator[float]:
    at = time.monotonic()
    while True:
        at = max(at + 1 / A_SECOND, time.monotonic() - 1)
        yield at


def _opened(port: int, request: bytes) -> socket.socket:
    one = socket.create_connection(("127.0.0.1", port))
    one.sendall(request)
    if request:
        one.recv(65536)
    one.setblocking(False)
    return one


def _whole(one: socket.socket) -> None:
    got = one.recv(65536)
    head, _, body = got.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    while len(body) < length:
        body += one.recv(65536)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--instances", type=int, default=100)
    parser.add_argument("--replaced", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--read", nargs=2, metavar=("PORT", "TOKEN"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.read:
        read(int(given.read[0]), given.read[1])
        return 0
    binary = llama_server_path()
    if binary is None:
        raise SystemExit("no llama-server: make engines")
    print(load())
    with tempfile.TemporaryDirectory() as folder:
        machine = Machine(Path(folder), max(given.instances, given.replaced), binary)
        try:
            kept = [status(machine, given.instances)] if given.instances else []
            kept.append(beside(machine, given.replaced, given.rounds))
        finally:
            machine.user.run("down")
    return int(not all(kept))


if __name__ == "__main__":
    assert ROOT
    sys.exit(main())
