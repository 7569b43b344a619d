"""What chaos runs on: a user's machine with real engines, and the verbs and edits of a user."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from orchestrator.core.successor import base_of
from orchestrator.runtime.identity import read_stat, state_id
from tests.chaos.bystanders import Bystanders
from tests.chaos.declared import GATEWAY, Content, Declared, Server, document
from tests.look import daemon_pid
from tests.world import Ran, World, alive

MARK = "CHAOS_OF_ORCHESTRATE"
"""In the environment of everything that a run starts: instances inherit it."""

PORTS = 24
OLLAMA_MODEL = "tiny"

WAYS = ("rename", "truncate", "pieces", "backup", "in-place")
"""How editors save a file."""


@dataclass(frozen=True)
class Ref:
    """A process for good: a pid alone may be another's tomorrow."""

    pid: int
    ticks: int

    @property
    def lives(self) -> bool:
        stat = read_stat(self.pid)
        return stat is not None and stat.living and stat.start_ticks == self.ticks


class ChaosWorld:
    """The machine. `base` are the processes of our instances as the last check left them."""

    def __init__(self, folder: Path, *, llama_server: str, ollama: str | None) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.ollama = ollama
        self.llama_server = llama_server
        self.binaries = {"ORCHESTRATE_LLAMA_SERVER": llama_server}
        if ollama:
            self.binaries["ORCHESTRATE_OLLAMA"] = ollama
        env = {**os.environ, **self.binaries, MARK: f"{os.getpid()}-{folder.name}"}
        env["OLLAMA_MODELS"] = str(folder / "store")
        self.world = World(folder, folder / "tiny.gguf", env)
        self.mark = state_id(str(self.world.state))
        self.declared = Declared()
        self.base: dict[str, Ref] = {}
        self.ports = [self.world.port() for _ in range(PORTS)]
        self.bystanders = Bystanders(folder / "others", mark=self.mark, env=self.world.env)
        self.said: list[str] = []
        """What a command said that it never should."""
        self.refused: list[str] = []
        """Commands that did not end well since somebody last looked: no fault, but worth a word."""
        self.commands = 0
        """How many were run since somebody began to count."""
        self.no_disk = ""
        """Why there is no small disk, where there is none."""

    # --- making and ending ----------------------------------------------------------------------

    def begin(self) -> None:
        """Everything there, applied and answering, bystanders included."""
        from models.make_tiny import write_tiny

        for name in ("tiny.gguf", "m0.gguf", "m1.gguf", "m2.gguf"):
            write_tiny(self.folder / name)
        self._mount()
        self.declared.files["main"] = _main(self)
        self.declared.applied = ["main"]
        self.save("main", self.declared.files["main"], "rename")
        self.bystanders.gather(
            binary=self.llama_server,
            model=self.world.model,
            ports=[self.ports[0], self.world.port()],
            cwd=self.world.state,
        )
        self.world.run("apply", self.path("main"), timeout=120)

    def _mount(self) -> None:
        """The state folder on a small file system, so that it can be filled."""
        state = self.world.state
        state.mkdir(parents=True, exist_ok=True)
        state.chmod(0o700)
        options = "size=48m,mode=700"
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(state)],
            capture_output=True,
            text=True,
        )
        self.no_disk = done.stderr.strip() or "mount failed" if done.returncode else ""

    def end(self) -> None:
        """`down`, as a user would, then what is left: it was reported before."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.world.run("down", "--timeout", "20s", ok=False)
        self.bystanders.end()
        for pid in self.everything():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if not self.no_disk:
            subprocess.run(["umount", "-l", str(self.world.state)], check=True)

    def everything(self) -> list[int]:
        """Whatever was started for this run, and lives."""
        wanted = f"{MARK}={self.world.env[MARK]}".encode()
        found = [pid for pid in _pids() if wanted in _environ(pid)]
        return [pid for pid in found if alive(pid)]

    def keep(self) -> Path:
        """What is needed to understand a failure, beside the state folder that goes away."""
        kept = self.folder / "kept"
        kept.mkdir(exist_ok=True)
        for path in (*self.world.state.glob("daemon.log*"), *self.world.state.glob("logs/*")):
            with contextlib.suppress(OSError):
                shutil.copy(path, kept / path.name)
        for path in self.world.state.glob("state*"):
            with contextlib.suppress(OSError):
                shutil.copy(path, kept / path.name)
        return kept

    # --- the verbs and edits of a user ----------------------------------------------------------

    def path(self, file: str) -> Path:
        return self.folder / "profiles" / f"{file}.yaml"

    def cli(self, *words: object) -> Ran:
        """A command. Whatever it says, a traceback is wrong; so is one that does not end."""
        self.commands += 1
        try:
            ran = self.world.run(*words, ok=False, timeout=90)
        except subprocess.TimeoutExpired:
            self.said.append(f"`{' '.join(map(str, words))}` did not end within 90 s")
            return Ran(124, "", "")
        if ran.code:
            self.refused.append(f"`{' '.join(map(str, words))}` exits {ran.code}: {ran.err[-500:]}")
        if "Traceback" in ran.err or ran.code not in (0, 1, 3, 4):
            self.said.append(f"`{' '.join(map(str, words))}` exits {ran.code}: {ran.err[-2000:]}")
        return ran

    def save(self, file: str, content: Content, way: str) -> None:
        """Write a profile in one of the ways that editors have."""
        says = document(content)
        # Whole in braces: no beginning of it is a valid profile with less in it.
        text = json.dumps(says, indent=1) if way != "rename" else yaml.safe_dump(says)
        self.save_text(file, text, way)

    def save_text(self, file: str, text: str, way: str) -> None:
        path = self.path(file)
        path.parent.mkdir(parents=True, exist_ok=True)
        if way == "rename" or not path.exists():
            aside = path.with_name(f".{path.name}.new")
            aside.write_text(text)
            aside.replace(path)
        elif way == "backup":
            path.replace(path.with_name(f"{path.name}~"))
            path.write_text(text)
        elif way == "in-place":
            with path.open("r+") as edited:
                edited.write(text)
                edited.truncate()
        else:
            step = max(1, len(text) // 7) if way == "pieces" else len(text) or 1
            with path.open("w", buffering=1) as edited:
                for at in range(0, len(text), step):
                    edited.write(text[at : at + step])
                    edited.flush()

    # --- the daemon -----------------------------------------------------------------------------

    def daemon(self) -> int | None:
        return daemon_pid(self.world)

    def signal_daemon(self, number: int) -> None:
        """And wait for its end, where that is what the signal means."""
        pid = self.daemon()
        if pid is None:
            return
        os.kill(pid, number)
        if number not in (signal.SIGSTOP, signal.SIGCONT):
            self.until(lambda: not alive(pid), f"the daemon ends by signal {number}")

    def until(self, what: Callable[[], Any], why: str, within: float = 20.0) -> bool:
        """Look until it is so; one that never is, is told of."""
        end = time.monotonic() + within
        while not what():
            if time.monotonic() >= end:
                self.said.append(f"never came within {within:g} s: {why}")
                return False
            time.sleep(0.01)
        return True

    # --- our processes --------------------------------------------------------------------------

    def marked(self) -> dict[str, list[Ref]]:
        """The living processes that carry our mark, by instance, its leader first.

        One that was started beside another is that instance, for as long as it runs.
        """
        prefix = f"ORCHESTRATE_OWNER={self.mark}/".encode()
        found: dict[str, list[tuple[bool, Ref]]] = {}
        for pid in _pids():
            mark = next((one for one in _environ(pid) if one.startswith(prefix)), None)
            stat = read_stat(pid) if mark is not None else None
            if mark is None or stat is None or not stat.living:
                continue
            name = base_of(mark.removeprefix(prefix).partition(b"/")[0].decode())
            found.setdefault(name, []).append((stat.session != pid, Ref(pid, stat.start_ticks)))
        return {name: [ref for _, ref in sorted(refs, key=_first)] for name, refs in found.items()}

    def leader(self, name: str) -> Ref | None:
        return next(iter(self.marked().get(name, [])), None)

    def hit(self, name: str, number: int) -> None:
        """Signal the process that the instance had at the last check, if it is that still."""
        ref = self.base.get(name)
        if ref is not None and ref.lives:
            with contextlib.suppress(ProcessLookupError):
                os.kill(ref.pid, number)


def _first(one: tuple[bool, Ref]) -> tuple[bool, int]:
    return (one[0], one[1].ticks)


def _pids() -> Generator[int]:
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            yield int(entry)


def _environ(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def _main(world: ChaosWorld) -> Content:
    """Eight llama-servers, each of them another case, behind a gateway; an Ollama where there is
    one."""
    content: Content = {}
    for number in range(8):
        name = f"i{number}"
        content[name] = Server(
            "llama-server",
            world.ports[number] if number != 5 else None,
            256 * (1 + number % 3),
            f"{name}-a",
            str(world.folder / f"m{number % 3}.gguf"),
            lively=number in (2, 3),
            policy="on-failure" if number == 7 else "always",
            needs=("i0",) if number == 1 else (),
            first=number == 5,
        )
    content[GATEWAY] = Server(GATEWAY, world.ports[9], 64)
    if world.ollama:
        content["o"] = Server(
            "ollama",
            world.ports[8],
            1,
            model=str(world.folder / "tiny.gguf"),
            lively=True,
            models=(OLLAMA_MODEL,),
        )
    return content
