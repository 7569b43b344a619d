"""Ollama instances with their models: ours beside the same servers and calls by hand.

    python benchmarks/ollama.py [--rounds 5] [--only start|add|idle] [--idle 20]

By hand means `ollama serve` and the very calls that bring a model into memory, or `ollama create`,
made as soon as they can be answered. Everything is seen from outside, by /api/ps and /api/tags.
Medians of the rounds, in turns, and the budgets of the design.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common import User, free_ports, load, median, profile, until_answered, verdict
from lifecycle import idle

SERVERS = 3
IDLE_SERVERS = 4
MODELS = ("one", "two")
PARTS = ("start", "add", "idle")
LARGE = 128 << 20
"""Bytes of the model for which hashing and copying count."""


class Hand:
    """The floor: one `ollama serve`, and what a person would call on it."""

    def __init__(self, binary: str, port: int, store: Path) -> None:
        self._binary = binary
        self.port = port
        self.env = {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            "HOME": str(store.parent),
            "OLLAMA_HOST": f"127.0.0.1:{port}",
            "OLLAMA_MODELS": str(store),
        }
        self._process = subprocess.Popen(
            [binary, "serve"],
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def preload(self, models: Sequence[str]) -> None:
        """Both at once, as soon as it answers."""
        until_answered([self.port], path="/api/version")
        asking = [threading.Thread(target=keep, args=(self.port, name)) for name in models]
        for one in asking:
            one.start()
        for one in asking:
            one.join()

    def create(self, name: str, gguf: Path) -> None:
        modelfile = gguf.with_suffix(".Modelfile")
        modelfile.write_text(f"FROM {gguf}\n")
        command = [self._binary, "create", name, "-f", modelfile]
        subprocess.run(command, env=self.env, check=True, capture_output=True)

    def end(self) -> None:
        os.killpg(self._process.pid, signal.SIGTERM)
        self._process.wait()
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)


def keep(port: int, model: str) -> None:
    """Bring a model into memory, for ever."""
    body = json.dumps({"model": model, "keep_alive": -1, "stream": False}).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}/api/generate", body)
    with urllib.request.urlopen(request, timeout=60) as answer:
        answer.read()


def until_loaded(ports: Sequence[int]) -> float:
    """The instant at which each of these servers has all models in memory."""
    return max(
        until_answered(ports, path="/api/ps", telling=f'"{name}:latest"'.encode())
        for name in MODELS
    )


def until_listed(port: int, name: str) -> float:
    return until_answered([port], path="/api/tags", telling=f'"{name}:latest"'.encode())


@dataclass
class Figures:
    """Seconds by row: ours and the floor's."""

    ours: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    floor: dict[str, list[float]] = field(default_factory=dict[str, list[float]])

    def add(self, row: str, *, ours: float | None = None, floor: float | None = None) -> None:
        if ours is not None:
            self.ours.setdefault(row, []).append(ours)
        if floor is not None:
            self.floor.setdefault(row, []).append(floor)


class Bench:
    """A machine with two models in one store, and a user of ours on it."""

    def __init__(self, folder: Path, binary: str) -> None:
        from models.make_tiny import write_tiny

        self.folder = folder
        self.binary = binary
        self.store = folder / "store"
        self.user = User(folder, ORCHESTRATE_OLLAMA=binary, OLLAMA_MODELS=str(self.store))
        self.ports = free_ports(IDLE_SERVERS)
        self.file = folder / "p.yaml"
        self.ggufs = {
            name: write_tiny(folder / f"{name}.gguf", seed=seed)
            for seed, name in enumerate(MODELS, 1)
        }
        self._made = 0

    def declare(self, ports: Sequence[int], **models: Path) -> None:
        """Save a profile as an editor does: these servers, `models` in the first one of them."""
        instances: dict[str, dict[str, Any]] = {}
        for at, port in enumerate(ports):
            listed = [
                {"name": name, "gguf": str(path), "preload": True}
                for name, path in self.ggufs.items()
            ]
            if at == 0:
                listed += [{"name": name, "gguf": str(path)} for name, path in models.items()]
            instances[f"i{at}"] = {
                "engine": "ollama",
                "port": port,
                "attach": "never",
                "models": listed,
            }
        aside = self.file.with_name(".p.yaml.new")
        aside.write_text(profile(instances))
        aside.replace(self.file)

    def apply(self, ports: Sequence[int]) -> float:
        """Seconds from the command until all models are in memory."""
        self.declare(ports)
        began = time.perf_counter()
        command = self.user.begin("apply", self.file)
        seconds = until_loaded(ports) - began
        self.user.end(command)
        return seconds

    def another(self, gguf: Path) -> tuple[str, Path]:
        """A model of the same size as this one that nobody has seen yet, and its name."""
        self._made += 1
        name = f"new{self._made}"
        path = Path(shutil.copyfile(gguf, self.folder / f"{name}.gguf"))
        with path.open("ab") as file:
            # Engines ignore what stands after the end.
            file.write(os.urandom(32))
        return name, path


def starts(bench: Bench, figures: Figures) -> None:
    """From the command to all in memory; leaves nothing running."""
    ports = bench.ports[:SERVERS]
    figures.add("3 instances, from nothing", ours=bench.apply(ports))
    bench.user.run("down", "--keep-daemon")
    figures.add("3 instances, daemon running", ours=bench.apply(ports))
    bench.user.run("down")
    for count in (1, SERVERS):
        began = time.perf_counter()
        hands = [Hand(bench.binary, port, bench.store) for port in ports[:count]]
        asking = [threading.Thread(target=hand.preload, args=(MODELS,)) for hand in hands]
        for one in asking:
            one.start()
        seconds = until_loaded(ports[:count]) - began
        for one in asking:
            one.join()
        for hand in hands:
            hand.end()
        if count == 1:
            figures.add("1 instance by hand", floor=seconds)
        else:
            figures.add("3 instances, from nothing", floor=seconds)
            figures.add("3 instances, daemon running", floor=seconds)


def adds(bench: Bench, figures: Figures, rounds: int) -> None:
    """A model made of a GGUF on a running instance: from the saved profile to the model."""
    from models.make_tiny import write_tiny

    large = bench.folder / "large.gguf"
    shutil.copyfile(write_tiny(bench.folder / "small.gguf"), large)
    with large.open("ab") as file:
        file.write(os.urandom(LARGE))
    port = bench.ports[0]
    bench.apply([port])
    hand = Hand(bench.binary, bench.ports[1], bench.folder / "by-hand")
    try:
        until_answered([hand.port], path="/api/version")
        for row, gguf in (("add 0.5 MB", bench.folder / "small.gguf"), ("add 134 MB", large)):
            for at in range(rounds + 1):
                name, path = bench.another(gguf)
                began = time.perf_counter()
                bench.declare([port], **{name: path})
                seconds = until_listed(port, name) - began
                bench.user.run("wait")
                other, path = bench.another(gguf)
                began = time.perf_counter()
                hand.create(other, path)
                floor = until_listed(hand.port, other) - began
                if at:  # the first one warms up
                    figures.add(row, ours=seconds, floor=floor)
    finally:
        hand.end()
        bench.user.run("down")


def budget_of(row: str, floors: Mapping[str, float]) -> float | None:
    if row.startswith("3 instances"):
        return 1.3 * floors[row] + 0.2
    return 1.2 * floors[row] if row.startswith("add") else None


def show(figures: Figures) -> bool:
    floors = {row: median(values) for row, values in figures.floor.items()}
    if floors:
        print(f"\n{'seconds':30}{'floor':>8}{'ours':>8}{'worst':>8}{'ratio':>7}{'budget':>8}")
    kept = True
    for row, floor in floors.items():
        line = f"{row:30}{floor:8.3f}"
        budget = budget_of(row, floors)
        if budget is not None:
            value, worst = median(figures.ours[row]), max(figures.ours[row])
            line += f"{value:8.3f}{worst:8.3f}{value / floor:7.1f}{budget:8.3f}"
            line += f"  {verdict(value, budget)}"
            kept &= value <= budget
        print(line)
    return kept


def idles(bench: Bench, seconds: float) -> bool:
    """What the daemon takes while it holds models in memory."""
    bench.apply(bench.ports)
    bench.user.run("wait")
    time.sleep(2)
    found = idle(json.loads(bench.user.run("status", "--json"))["daemon"]["pid"], seconds)
    bench.user.run("down")
    print(f"\nidle with {IDLE_SERVERS} instances of {len(MODELS)} models for {seconds:g} s")
    print(f"{'CPU of one core, %':30}{found.cpu:8.2f}{0.3:8.2f}  {verdict(found.cpu, 0.3)}")
    print(f"{'memory (PSS), MB':30}{found.pss:8.1f}")
    return found.cpu <= 0.3


def run(given: argparse.Namespace, bench: Bench) -> bool:
    parts = [given.only] if given.only else PARTS
    figures, kept = Figures(), True
    try:
        if "start" in parts:
            starts(bench, Figures())  # makes the models, fills caches, counts for nothing
            for _ in range(given.rounds):
                starts(bench, figures)
        if "add" in parts:
            adds(bench, figures, given.rounds)
        kept = show(figures)
        if "idle" in parts:
            kept = idles(bench, given.idle) and kept
    finally:
        bench.user.run("down")
    return kept


def main() -> int:
    parser = argparse.ArgumentParser(description="Ours beside Ollama by hand.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=PARTS)
    parser.add_argument("--idle", type=float, default=20.0, help="seconds of doing nothing")
    given = parser.parse_args()
    from tests.engines import ollama_path

    binary = ollama_path()
    if binary is None:
        raise SystemExit("the real Ollama is missing: make engines")
    print(f"{binary}\n{load()}")
    with tempfile.TemporaryDirectory(prefix="orchestrate-bench-") as folder:
        kept = run(given, Bench(Path(folder), binary))
    print(f"\n{load()}")
    return 0 if kept else 1


if __name__ == "__main__":
    raise SystemExit(main())
