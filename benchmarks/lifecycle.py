"""From command to ready, an edit, a kill, the end, and doing nothing: ours beside a bare shell.

    python benchmarks/lifecycle.py [--rounds 5] [--only start|change|idle|status] [--idle 20]

The floor is `sh` that starts the very same commands, in turns with ours in one run; everything is
seen from outside, by GET /health. Medians of the rounds, and the budgets of the design.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common import (
    User,
    free_ports,
    load,
    median,
    profile,
    until_answered,
    until_gone,
    verdict,
)

SIZES = (8, 32)
PARTS = ("start", "change", "idle", "status")
FLAGS = {"threads": 1, "ctx-size": 512}
"""With two threads each, dozens of engines would wait for one another while they warm up: seconds
in which nothing but the kernel's scheduler is measured."""


class Shell:
    """The floor: a shell that starts commands and waits for them."""

    def __init__(self, commands: Sequence[Sequence[str]], folder: Path) -> None:
        script = folder / "floor.sh"
        lines = [f"{' '.join(words)} >{folder}/floor.log 2>&1 &" for words in commands]
        # Each tells its pid, so that one can be ended alone.
        script.write_text("\n".join(f"{line}\necho $!" for line in lines) + "\nwait\n")
        self.began = time.perf_counter()
        self._shell = subprocess.Popen(
            ["sh", script], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, start_new_session=True
        )
        self._commands = list(commands)

    def pids(self) -> list[int]:
        assert self._shell.stdout is not None
        return [int(self._shell.stdout.readline()) for _ in self._commands]

    def end(self, pids: Sequence[int]) -> float:
        """Seconds from SIGTERM to the last process."""
        began = time.perf_counter()
        for pid in pids:
            os.kill(pid, signal.SIGTERM)
        seconds = until_gone(pids) - began
        self._shell.wait()
        assert self._shell.stdout is not None
        self._shell.stdout.close()
        return seconds


@dataclass
class Figures:
    """Seconds by row: ours and the floor's, one of each a round."""

    ours: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    floor: dict[str, list[float]] = field(default_factory=dict[str, list[float]])

    def add(self, row: str, *, ours: float | None = None, floor: float | None = None) -> None:
        if ours is not None:
            self.ours.setdefault(row, []).append(ours)
        if floor is not None:
            self.floor.setdefault(row, []).append(floor)


class Bench:
    """One set of instances, in a folder of its own, started by us and by a shell in turns."""

    def __init__(self, folder: Path, size: int, binary: str, model: str) -> None:
        self.folder = folder / f"n{size}"
        self.folder.mkdir()
        self.user = User(self.folder, ORCHESTRATE_LLAMA_SERVER=binary)
        self.ports = free_ports(size)
        self._model = model
        self._shift = 0
        self.file = self.folder / "p.yaml"
        self.empty = self.folder / "empty.yaml"
        self.empty.write_text(profile({}))
        self.write()

    def write(self, changed: dict[str, Any] | None = None) -> None:
        """Save the profile as an editor does; `changed` are flags of the last instance."""
        instances: dict[str, dict[str, Any]] = {
            f"i{at}": {"model": self._model, "port": port, "flags": FLAGS}
            for at, port in enumerate(self.ports)
        }
        if changed:
            instances[f"i{len(self.ports) - 1}"]["flags"] = {**FLAGS, **changed}
        aside = self.file.with_name(".p.yaml.new")
        aside.write_text(profile(instances))
        aside.replace(self.file)

    def up(self) -> float:
        """Seconds from the command to all ready."""
        began = time.perf_counter()
        command = self.user.begin("apply", self.file)
        seconds = until_answered(self.ports) - began
        self.user.end(command)
        return seconds

    def down(self, pids: Sequence[int], *more: str) -> tuple[float, float]:
        """Seconds until all instances are gone, and until the command has ended."""
        began = time.perf_counter()
        command = self.user.begin("down", *more)
        gone = until_gone(pids) - began
        self.user.end(command)
        return gone, time.perf_counter() - began

    def status(self) -> dict[str, Any]:
        return json.loads(self.user.run("status", "--json"))

    def pids(self) -> dict[str, int]:
        return {row["name"]: row["pid"] for row in self.status()["instances"]}

    def commands(self) -> list[list[str]]:
        return [row["command"] for row in self.status()["instances"]]

    def close(self) -> None:
        self.user.run("down")


def starts(bench: Bench, figures: Figures) -> None:
    """From nothing, with the daemon running, and the shell. Leaves all of it stopped."""
    size = len(bench.ports)
    nothing, running = f"N={size} from nothing", f"N={size} daemon running"
    figures.add(nothing, ours=bench.up())
    commands, pids = bench.commands(), bench.pids()
    bench.user.run("apply", bench.empty)
    until_gone(pids.values())
    figures.add(running, ours=bench.up())
    gone, ended = bench.down(list(bench.pids().values()))
    figures.add(f"N={size} stop all", ours=gone)
    figures.add(f"N={size} down returns", ours=ended)
    shell = Shell(commands, bench.folder)
    seconds = until_answered(bench.ports) - shell.began
    figures.add(nothing, floor=seconds)
    figures.add(running, floor=seconds)
    figures.add(f"N={size} stop all", floor=shell.end(shell.pids()))


def changes(bench: Bench, figures: Figures, rounds: int) -> None:
    """An edit and a kill of one among many, ours all rounds, then the shell's."""
    bench.up()
    commands, port = bench.commands(), bench.ports[-1]
    name = f"i{len(bench.ports) - 1}"
    for at in range(rounds):
        before, context = bench.pids(), 1024 + 256 * at
        began = time.perf_counter()
        bench.write({"ctx-size": context})
        figures.add("edit one", ours=until_serves(port, context) - began)
        bench.user.run("wait")
        after = bench.pids()
        if {k for k in before if before[k] != after[k]} != {name}:
            raise SystemExit(f"the edit changed pids: {before} {after}")
        # Another one each round: whoever dies again and again is made to wait, by design.
        time.sleep(0.3)
        began = time.perf_counter()
        os.kill(after[f"i{at}"], signal.SIGKILL)
        until_gone([after[f"i{at}"]])
        figures.add("kill -9 one", ours=until_answered([bench.ports[at]]) - began)
        bench.user.run("wait")
    bench.down(list(bench.pids().values()))
    bench.write()
    shell = Shell(commands, bench.folder)
    until_answered(bench.ports)
    pids = shell.pids()
    for at in range(rounds):
        for row, number in (("edit one", signal.SIGTERM), ("kill -9 one", signal.SIGKILL)):
            context = 1024 + 256 * at
            began = time.perf_counter()
            os.kill(pids[-1], number)
            until_gone(pids[-1:])
            one = subprocess.Popen(
                [word if word != "512" else str(context) for word in commands[-1]],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            ready = until_serves(port, context) if row == "edit one" else until_answered([port])
            figures.add(row, floor=ready - began)
            pids[-1] = one.pid
            reaped.append(one)
    shell.end(pids)
    for one in reaped:
        one.wait()
    reaped.clear()


reaped: list[subprocess.Popen[bytes]] = []
"""Children of the floor, to be waited for."""


def until_serves(port: int, context: int) -> float:
    """The instant at which the instance answers with that context size."""
    return until_answered([port], path="/props", telling=f'"n_ctx":{context}'.encode())


@dataclass(frozen=True)
class Idle:
    """CPU in percent of one core; memory in MB."""

    cpu: float
    pss: float
    rss: float


def idle(pid: int, seconds: float) -> Idle:
    """What the daemon takes while nothing happens."""
    before = _on_a_core(pid)
    time.sleep(seconds)
    busy = _on_a_core(pid) - before
    sizes = dict(
        line.split(":", 1)
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    )
    kilobytes = {name: int(sizes[name].split()[0]) for name in ("Pss", "Rss")}
    return Idle(100 * busy / seconds, kilobytes["Pss"] / 1e3, kilobytes["Rss"] / 1e3)


def _on_a_core(pid: int) -> float:
    """Seconds that its threads ran. Not in ticks: in 20 s the budget is six of them."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def budget_of(row: str, floor: float) -> float | None:
    """The design's, from the floor of the same run. None where it says nothing."""
    kind = row.split(" ", 1)[1] if row.startswith("N=") else row
    return {
        "from nothing": floor + 0.45,
        "daemon running": 1.3 * floor + 0.05,
        "edit one": floor + 0.10,
        "kill -9 one": floor + 0.03,
        "stop all": 0.15,
        "status": 0.12,
    }.get(kind)


def show(figures: Figures) -> bool:
    if figures.ours:
        print(f"\n{'seconds':24}{'floor':>8}{'ours':>8}{'worst':>8}{'ratio':>7}{'budget':>8}")
    kept = True
    for row, ours in figures.ours.items():
        floors = figures.floor.get(row)
        floor, value = median(floors) if floors else 0.0, median(ours)
        budget = budget_of(row, floor)
        told = f"{floor:8.3f}" if floors else f"{'':8}"
        ratio = f"{value / floor:7.1f}" if floors else f"{'':7}"
        line = f"{row:24}{told}{value:8.3f}{max(ours):8.3f}{ratio}"
        if budget is not None:
            line += f"{budget:8.3f}  {verdict(value, budget)}"
            kept &= value <= budget
        print(line)
    return kept


def show_idle(found: Idle, seconds: float) -> bool:
    print(f"\nidle with {max(SIZES)} for {seconds:g} s")
    print(f"{'CPU of one core, %':24}{found.cpu:8.2f}{0.3:8.2f}  {verdict(found.cpu, 0.3)}")
    print(f"{'memory (PSS), MB':24}{found.pss:8.1f}{60:8.1f}  {verdict(found.pss, 60)}")
    print(f"{'memory (RSS), MB':24}{found.rss:8.1f}")
    return found.cpu <= 0.3 and found.pss <= 60


def run(given: argparse.Namespace, folder: Path, binary: str) -> bool:
    """Measure and show; True when every budget is kept."""
    from models.make_tiny import write_tiny

    model = str(write_tiny(folder / "tiny.gguf"))
    parts = [given.only] if given.only else PARTS
    figures, found = Figures(), None
    benches = [Bench(folder, size, binary, model) for size in SIZES]
    try:
        for bench in benches:
            starts(bench, Figures())  # compiles modules, fills caches, counts for nothing
        for _ in range(given.rounds if "start" in parts else 0):
            for bench in benches:
                starts(bench, figures)
        if "change" in parts:
            changes(benches[-1], figures, given.rounds)
        if {"idle", "status"} & set(parts):
            benches[-1].up()
        for _ in range(given.rounds if "status" in parts else 0):
            began = time.perf_counter()
            benches[-1].user.run("status")
            figures.add("status", ours=time.perf_counter() - began)
        if "idle" in parts:
            time.sleep(1)
            found = idle(benches[-1].status()["daemon"]["pid"], given.idle)
    finally:
        for bench in benches:
            bench.close()
    kept = show(figures)
    return kept if found is None else show_idle(found, given.idle) and kept


def main() -> int:
    parser = argparse.ArgumentParser(description="Ours beside a bare shell.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=PARTS)
    parser.add_argument("--idle", type=float, default=20.0, help="seconds of doing nothing")
    given = parser.parse_args()
    from tests.engines import llama_server_path

    binary = llama_server_path()
    if binary is None:
        raise SystemExit("the real llama-server is missing: make engines")
    print(f"{binary}\n{load()}")
    with tempfile.TemporaryDirectory(prefix="orchestrate-bench-") as folder:
        kept = run(given, Path(folder), binary)
    print(f"\n{load()}")
    return 0 if kept else 1


if __name__ == "__main__":
    raise SystemExit(main())
