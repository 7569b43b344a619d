"""Processes of other people, made so that a careless kill hits them: they tell of every signal."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from orchestrator.runtime.identity import OWNER_VARIABLE, read_stat

PATIENCE = 30.0
GATHERED = 6
"""How many there are from the beginning."""

RECORDER = """
import signal, sys
every = [s for s in signal.Signals if s not in (signal.SIGKILL, signal.SIGSTOP)]
signal.pthread_sigmask(signal.SIG_BLOCK, every)
with open(sys.argv[1], "a", buffering=1) as log:
    log.write("ready\\n")
    while True:
        found = signal.sigwaitinfo(every)
        log.write(f"signal {found.si_signo} from pid {found.si_pid}\\n")
"""


class Bystander:
    """One of them, alive from its making on."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: Path | None) -> None:
        self.name = name
        self.process = process
        self._log = log
        stat = read_stat(process.pid)
        assert stat is not None, f"{name} did not start"
        self._ticks = stat.start_ticks

    def wrong(self) -> str:
        """What was done to it, or an empty string."""
        code = self.process.poll()
        if code is not None:
            return f"the foreign {self.name} has ended: {code}"
        stat = read_stat(self.process.pid)
        if stat is None or stat.start_ticks != self._ticks or stat.state == "T":
            return f"the foreign {self.name} is {stat and stat.state}"
        told = self._log.read_text().splitlines()[1:] if self._log else []
        return f"the foreign {self.name} was signalled: {'; '.join(told)}" if told else ""

    def end(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE)


class Bystanders:
    """All of them. `mark` is what our own instances carry."""

    def __init__(self, folder: Path, *, mark: str, env: dict[str, str]) -> None:
        self._folder = folder
        self._env = env
        self._mark = mark
        self.all: list[Bystander] = []
        folder.mkdir(parents=True)
        self._program = folder / "llama-server"
        self._program.symlink_to(os.path.realpath(sys.executable))

    def gather(self, *, binary: str, model: Path, ports: list[int], cwd: Path) -> None:
        """Start them. They bear the names, arguments, folders and nearly the marks of ours."""
        like_ours = ["--model", str(model), "--host", "127.0.0.1", "--port", str(ports[0])]
        own = f"{OWNER_VARIABLE}={self._mark}/i0/0123456789abcdef"
        self._record("look-alike", like_ours)
        self._record(
            "one of another state folder",
            like_ours,
            **{OWNER_VARIABLE: f"{self._mark[::-1]}/i0/0123456789abcdef"},
        )
        self._record("one with a longer mark", [], **{OWNER_VARIABLE: f"{self._mark}0/i0/abc"})
        self._record("one with our mark in another variable", [], **{f"X_{OWNER_VARIABLE}": own})
        self._record("one with our mark as an argument", [own], cwd=str(cwd))
        self._llama_server(binary, model, ports[1])

    def _record(self, name: str, words: list[str], cwd: str | None = None, **env: str) -> None:
        self._listens(name, self._spawn(name, words, cwd, **env))

    def _spawn(
        self, name: str, words: list[str], cwd: str | None = None, **env: str
    ) -> subprocess.Popen[bytes]:
        self._log(name).unlink(missing_ok=True)
        return subprocess.Popen(
            [str(self._program), "-I", "-S", "-c", RECORDER, str(self._log(name)), *words],
            env={**self._env, **env},
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.signals"

    def _listens(self, name: str, process: subprocess.Popen[bytes]) -> None:
        log = self._log(name)
        _until(lambda: log.exists() and log.read_text().startswith("ready"), name)
        self.all.append(Bystander(name, process, log))

    def _llama_server(self, binary: str, model: Path, port: int) -> None:
        words = [binary, "--model", str(model), "--host", "127.0.0.1", "--port", str(port)]
        words += ["--ctx-size", "512", "--parallel", "1"]
        with (self._folder / "foreign.log").open("ab") as log:
            process = subprocess.Popen(
                words,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,
            )
        self.all.append(Bystander("llama-server", process, None))

    def with_pid(self, pid: int) -> None:
        """One more, with this pid, where the kernel can be talked into it: it asks root only."""
        for _ in range(20):
            try:
                Path("/proc/sys/kernel/ns_last_pid").write_text(str(pid - 1))
            except OSError:
                return
            name = f"one that was given pid {pid}"
            process = self._spawn(name, [])
            if process.pid == pid:
                self._listens(name, process)
                return
            process.kill()
            process.wait(PATIENCE)
            if Path(f"/proc/{pid}").exists():
                return

    def forget(self, most: int = 12) -> None:
        """The oldest of those that came later go: they have seen enough."""
        while len(self.all) > most:
            self.all.pop(GATHERED).end()

    def wrong(self) -> list[str]:
        """What was done to any of them. One that suffered is told of once, and let go."""
        hurt = {one: said for one in self.all if (said := one.wrong())}
        for one in hurt:
            one.end()
            self.all.remove(one)
        return list(hurt.values())

    def end(self) -> None:
        for one in self.all:
            one.end()


def _until(what: Callable[[], bool], why: str) -> None:
    end = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < end, f"never came: {why}"
        time.sleep(0.01)
