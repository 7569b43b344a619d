"""A user's machine in a folder: profiles, a state folder, and the command line to run on it."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

PATIENCE = 30.0
"""Seconds after which what a test waits for will not come any more."""


@dataclass(frozen=True)
class Ran:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class World:
    """Everything a test needs to act as a person would, and to look from outside."""

    def __init__(self, folder: Path, model: Path, env: Mapping[str, str]) -> None:
        self.folder = folder
        self.model = model
        self.state = folder / "state"
        self.env = {
            **env,
            "ORCHESTRATE_STATE_DIR": str(self.state),
            "ORCHESTRATE_CACHE_DIR": str(folder / "cache"),
            "ORCHESTRATE_PROFILES": str(folder / "profiles"),
            "HOME": str(folder),
        }
        self._ports: set[int] = set()

    # --- acting --------------------------------------------------------------------------------

    def command(self, *words: object) -> list[str]:
        return [sys.executable, "-m", "orchestrator", *(str(word) for word in words)]

    def run(self, *words: object, ok: bool = True, timeout: float = 60, **env: str) -> Ran:
        """Run `orchestrate ...`; with `ok`, an exit code but 0 fails the test."""
        done = subprocess.run(
            self.command(*words),
            cwd=self.folder,
            env={**self.env, **env},
            capture_output=True,
            text=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
        )
        ran = Ran(done.returncode, done.stdout, done.stderr)
        if ok:
            assert ran.code == 0, f"{words}: exit {ran.code}\n{ran.out}\n{ran.err}\n{self.log()}"
        return ran

    def begin(self, *words: object, **env: str) -> subprocess.Popen[str]:
        """Start `orchestrate ...` and go on; the caller waits for it."""
        return subprocess.Popen(
            self.command(*words),
            cwd=self.folder,
            env={**self.env, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
        )

    def on_a_terminal(self, *words: object, until: str = "", columns: int = 80, **env: str) -> str:
        """What a command writes when it is looked at; Ctrl-C once it has said `until`."""
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        process = subprocess.Popen(
            self.command(*words),
            cwd=self.folder,
            env={**self.env, "TERM": "xterm", **env},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        said = b""
        try:
            while chunk := _read(ours):
                said += chunk
                if until and until.encode() in said:
                    process.send_signal(signal.SIGINT)
                    # Once: a second one would interrupt its very end.
                    until = ""
        finally:
            process.wait(PATIENCE)
            os.close(ours)
        return said.decode()

    def write(self, name: str, text: str) -> Path:
        """Write a file as an editor does: aside, then renamed."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{path.name}.new")
        aside.write_text(text)
        aside.replace(path)
        return path

    def profile(self, instances: Mapping[str, Any], name: str = "p.yaml", **more: Any) -> Path:
        """A profile with these instances; each gets the tiny model unless it names another."""
        whole = {
            key: {"model": str(self.model), **(value or {})} for key, value in instances.items()
        }
        return self.write(name, yaml.safe_dump({**more, "instances": whole}, sort_keys=False))

    def port(self) -> int:
        """A port that nobody listens on, outside of the range for outgoing connections."""
        for port in range(12000 + share_of_ports(), 18000):
            if port in self._ports:
                continue
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError:
                    continue
            self._ports.add(port)
            return port
        raise AssertionError("no port is free")

    # --- looking -------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """The document of `status --json`, without a command for it: it is looked at all the time.

        Straight from the daemon, or from the store; commands would take half the time of the tests.
        """
        from orchestrator.cli.status import fetch
        from orchestrator.settings import Settings

        return json.loads(json.dumps(fetch(Settings.from_env(self.env))))

    def instance(self, name: str) -> dict[str, Any]:
        """One row of the status; fails when there is none."""
        rows = {row["name"]: row for row in self.status()["instances"]}
        assert name in rows, f"{name} is not among {list(rows)}"
        return rows[name]

    def pids(self) -> dict[str, int]:
        return {row["name"]: row["pid"] for row in self.status()["instances"]}

    def daemon_pid(self) -> int:
        return self.status()["daemon"]["pid"]

    def events(self, *words: str) -> list[dict[str, Any]]:
        lines = self.run("events", "--json", "-n", 1000, *words, ok=False).out.splitlines()
        return [json.loads(line) for line in lines]

    def log(self) -> str:
        path = self.state / "daemon.log"
        return path.read_text() if path.exists() else ""

    def until(self, what: Callable[[], Any], why: str = "") -> Any:
        """Look until it is so; the last thing seen is in the failure."""
        end = time.monotonic() + PATIENCE
        seen = what()
        while not seen:
            assert time.monotonic() < end, f"never came: {why}\n{self.status()}\n{self.log()}"
            time.sleep(0.02)
            seen = what()
        return seen

    def until_phase(self, name: str, *phases: str) -> dict[str, Any]:
        """Wait for an instance to be in one of these phases; its row then."""

        def there() -> dict[str, Any] | None:
            row = next((r for r in self.status()["instances"] if r["name"] == name), None)
            return row if row and row["phase"] in phases else None

        return self.until(there, f"{name} in {phases}")

    def until_converged(self) -> dict[str, Any]:
        return self.until(lambda: (s := self.status())["converged"] and s, "converged")

    def answers(self, port: int, path: str = "/health") -> int | None:
        """The HTTP status that somebody gives there, or None."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            with error:
                return error.code
        except OSError:
            return None

    def props(self, port: int) -> dict[str, Any]:
        """What a llama-server says it runs with."""
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/props", timeout=5) as answer:
            return json.load(answer)

    def complete(self, port: int, prompt: str = "hot", tokens: int = 4) -> str:
        """A real completion."""
        body = json.dumps({"prompt": prompt, "n_predict": tokens}).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/completion", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.load(answer)["content"]

    # --- ending --------------------------------------------------------------------------------

    def end(self) -> None:
        """`down`, as a person would; whatever survives that is the leak check's to find."""
        if self.state.exists():
            self.run("down", ok=False, timeout=60)


def share_of_ports() -> int:
    """Where to begin to look: apart from the tests that run beside these, of this run or another.

    Of two that find the same port free, one would lose it to the other."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
    return (os.getppid() * 500 + int(worker) * 2000) % 5000


def alive(pid: int) -> bool:
    """True while a process has that pid and is no zombie."""
    from orchestrator.runtime.identity import read_stat

    stat = read_stat(pid)
    return stat is not None and stat.living


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 4096)
    except OSError:
        # The other side is closed.
        return b""


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    os.kill(pid, number)


@contextmanager
def listening(port: int) -> Generator[socket.socket]:
    """A stranger on a port."""
    with socket.socket() as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        stranger.bind(("127.0.0.1", port))
        stranger.listen()
        yield stranger
