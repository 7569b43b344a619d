"""What the benchmarks share: a user's machine in a folder, a cheap look from outside, a table.

The look from outside is one thread with plain sockets, for every microsecond that it takes is
missing to the engines that it waits for. It asks each port every 5 ms, as a person never would.
"""

from __future__ import annotations

import contextlib
import os
import select
import selectors
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

PROGRAM = Path(sys.executable).with_name("orchestrate")
"""What a person runs."""

PATIENCE = 30.0
"""Seconds after which a benchmark gives up."""

POLL = 0.005
"""Seconds between two questions to one port."""


class User:
    """Runs `orchestrate` with a state folder, a cache and a home of its own.

    Modules are compiled once and kept, as on any machine but those that are told not to.
    """

    def __init__(self, folder: Path, **env: str) -> None:
        self.folder = folder
        self.env = {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            "HOME": str(folder),
            "LANG": "C.UTF-8",
            "ORCHESTRATE_STATE_DIR": str(folder / "state"),
            "ORCHESTRATE_CACHE_DIR": str(folder / "cache"),
            **env,
        }

    def begin(self, *words: object) -> subprocess.Popen[bytes]:
        """Start `orchestrate ...`; its output goes to a file."""
        with (self.folder / "output").open("wb") as output:
            return subprocess.Popen(
                [PROGRAM, *map(str, words)],
                cwd=self.folder,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def end(self, command: subprocess.Popen[bytes]) -> str:
        """Wait for a command; what it said. One that fails ends the benchmark."""
        # Not `wait` with a timeout: that looks only now and then, in steps of up to 50 ms.
        until_gone([command.pid])
        code = command.wait(0.1)
        said = (self.folder / "output").read_text(errors="replace")
        if code != 0:
            log = self.folder / "state" / "daemon.log"
            tail = log.read_text(errors="replace")[-2000:] if log.exists() else ""
            raise SystemExit(f"{command.args} ended with {code}:\n{said}\n{tail}")
        return said

    def run(self, *words: object) -> str:
        return self.end(self.begin(*words))


def until_answered(
    ports: Iterable[int], *, path: str = "/health", telling: bytes = b" 200 "
) -> float:
    """The instant at which every port has given an answer that contains `telling`."""
    request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
    give_up = time.perf_counter() + PATIENCE
    due = dict.fromkeys(ports, 0.0)
    asked: dict[socket.socket, tuple[int, bytes]] = {}
    with selectors.EpollSelector() as selector:
        while due or asked:
            now = time.perf_counter()
            if now > give_up:
                raise SystemExit(f"no answer from {sorted(due)} in {PATIENCE:g} s")
            for port in [port for port, at in due.items() if at <= now]:
                opened = _asked(port, request)
                if opened is None:
                    due[port] = now + POLL
                else:
                    del due[port]
                    asked[opened] = (port, b"")
                    selector.register(opened, selectors.EVENT_READ)
            for key, _ in selector.select(POLL):
                sock: Any = key.fileobj
                port, answer = asked[sock]
                chunk = _received(sock)
                answer += chunk
                if chunk and telling not in answer:
                    asked[sock] = (port, answer)
                    continue
                selector.unregister(sock)
                sock.close()
                del asked[sock]
                if telling not in answer:
                    due[port] = time.perf_counter() + POLL
    return time.perf_counter()


def _asked(port: int, request: bytes) -> socket.socket | None:
    """A connection with the request on its way; None where nobody listens."""
    sock = socket.socket()
    try:
        # On this machine a connection is made or refused at once.
        sock.connect(("127.0.0.1", port))
        sock.send(request)
    except OSError:
        sock.close()
        return None
    sock.setblocking(False)
    return sock


def _received(sock: socket.socket) -> bytes:
    try:
        return sock.recv(65536)
    except OSError:
        return b""


def until_gone(pids: Iterable[int]) -> float:
    """The instant at which none of these processes runs any more."""
    for descriptor in opened(pids):
        select.select([descriptor], [], [], PATIENCE)
        os.close(descriptor)
    return time.perf_counter()


def opened(pids: Iterable[int]) -> list[int]:
    """Descriptors of those processes that are there."""
    found: list[int] = []
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            found.append(os.pidfd_open(pid))
    return found


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, below those for outgoing connections."""
    found: list[int] = []
    for port in range(21000 + os.getpid() % 4000, 32000):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                found.append(port)
        if len(found) == count:
            return found
    raise SystemExit("not enough ports are free")


def median(seconds: Sequence[float]) -> float:
    return statistics.median(seconds)


def load() -> str:
    """The load average, for whoever reads the figures later."""
    one, five, _ = os.getloadavg()
    return f"load average {one:.1f} over a minute, {five:.1f} over five, {os.cpu_count()} cores"


def verdict(value: float, budget: float) -> str:
    return "ok" if value <= budget else "MISSED"


def profile(instances: Mapping[str, Mapping[str, Any]]) -> str:
    """The text of a profile. JSON is YAML."""
    import json

    lines = [f"  {name}: {json.dumps(config)}" for name, config in instances.items()]
    return "instances:\n" + "\n".join(lines) + "\n" if lines else "instances: {}\n"
