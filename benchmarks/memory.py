"""The memory estimate against real llama-servers: is it within 15 % on models of several shapes?

    python benchmarks/memory.py [--models DIR]

Each server is loaded and given one prompt that fills a micro-batch; then its RSS is what it takes,
and its PSS what it takes where others have the same program loaded. Beside our estimate stand that
of `llama-fit-params`, told the same slots as the server chooses, and xllamacpp's. Theirs are of
buffers alone: what the program itself takes is not in them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common import ROOT, free_ports, until_answered
from memory_models import SHAPES, Shape, write

sys.path.insert(0, str(ROOT))
from models.make_tiny import write_tiny, write_tiny_embedding
from orchestrator.core.loading import loading_of
from orchestrator.core.memory import estimate
from orchestrator.discovery.gguf_metadata import read_facts
from tests.engines import llama_server_path

MIB = 1 << 20
BUDGET = 0.15
SETTINGS = (
    "--ctx-size 4096",
    "--ctx-size 32768",
    "--ctx-size 16384 --cache-type-k q8_0 --cache-type-v q4_0",
    "--ctx-size 8192 --parallel 4 --ubatch-size 1024 --no-kv-unified",
    "--ctx-size 16384 --parallel 2 --kv-unified --cache-type-k q4_0 --cache-type-v q4_0",
    "--ctx-size 8192 --load-mode none",
)


@dataclass(frozen=True, slots=True)
class Case:
    """A model, the flags it is served with, and what it is asked."""

    name: str
    model: Path
    flags: tuple[str, ...]
    asks: str = "completion"


@dataclass(frozen=True, slots=True)
class Outcome:
    """Bytes. `fit` and `xllamacpp` are None where they say nothing."""

    case: Case
    rss: int
    pss: int
    ours: int
    fit: int | None
    xllamacpp: int | None

    @property
    def error(self) -> float:
        return self.ours / self.rss - 1


def cases(folder: Path) -> list[Case]:
    tiny = write_tiny(folder / "tiny.gguf", context=32768)
    embed = write_tiny_embedding(folder / "embed.gguf", embedding=512, layers=8)
    found = [Case("tiny", tiny, tuple(flags.split())) for flags in SETTINGS]
    found += [Case("embed", embed, ("--embeddings", "--ctx-size", "512"), "embedding")]
    for shape in SHAPES:
        found += [Case(shape.name, _written(shape, folder), tuple(f.split())) for f in SETTINGS]
    return found


def _written(shape: Shape, folder: Path) -> Path:
    path = write(shape, folder)
    print(f"{path.name}: {path.stat().st_size / MIB:.0f} MiB", file=sys.stderr)
    return path


def measure(server: str, case: Case) -> Outcome:
    (port,) = free_ports(1)
    argv = [server, "--model", str(case.model), "--host", "127.0.0.1", "--port", str(port)]
    argv += ["--threads", "2", *case.flags]
    env = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env)
    try:
        until_answered([port])
        _ask(port, case)
        sizes = _sizes(process.pid)
    finally:
        process.terminate()
        process.wait(30)
    load = loading_of(argv, {}).load
    facts = read_facts(str(case.model))
    ours = estimate(facts.metadata, size_bytes=case.model.stat().st_size, load=load).total
    return Outcome(
        case, sizes["Rss"], sizes["Pss"], ours, _by_fit(server, argv), _by_xllamacpp(case, argv)
    )


def _ask(port: int, case: Case) -> None:
    """A prompt of 700 tokens (an encoder: 400), which fills a micro-batch."""
    many = 400 if case.asks == "embedding" else 700
    body = {"content": [7] * many} if case.asks == "embedding" else {"prompt": [7] * many}
    data = json.dumps({**body, "n_predict": 4}).encode()
    url = f"http://127.0.0.1:{port}/{case.asks}"
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as answer:
        answer.read()


def _sizes(pid: int) -> dict[str, int]:
    found: dict[str, int] = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        key, _, rest = line.partition(":")
        if rest.strip().endswith("kB"):
            found[key] = int(rest.split()[0]) << 10
    return found


def _by_fit(server: str, argv: Sequence[str]) -> int | None:
    """What `llama-fit-params` computes for the same settings: model, context, compute."""
    load = loading_of(argv, {}).load
    pairs = {
        "-c": load.context,
        # It knows no unified cache, which is that of one sequence.
        "-np": 1 if load.unified else load.parallel,
        "-ctk": load.cache_type_k,
        "-ctv": load.cache_type_v,
        "-ub": load.micro_batch,
    }
    words = [str(word) for pair in pairs.items() for word in pair]
    program = str(Path(server).with_name("llama-fit-params"))
    command = [program, "-m", argv[2], *words, "-fitp", "on"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith("Host")]
    return sum(map(int, rows[0][1:4])) * MIB if rows else None


_XLLAMACPP = """
import json, sys, xllamacpp
said = json.loads(sys.argv[1])
gpu = {"name": "g", "memory_free": 1 << 44, "memory_total": 1 << 44}
made = xllamacpp.estimate_gpu_layers(
    [gpu], said["model"], [], context_length=said["context"], batch_size=said["batch"],
    num_parallel=said["parallel"], kv_cache_type=said["kind"],
)
print(made.vram_size if hasattr(made, "vram_size") else made["vram_size"])
"""


def _by_xllamacpp(case: Case, argv: Sequence[str]) -> int | None:
    """Its estimate with all layers on one endless GPU: weights, cache and graph."""
    load = loading_of(argv, {}).load
    said = {
        "model": str(case.model),
        "context": load.context,
        "batch": load.micro_batch,
        "parallel": load.parallel,
        "kind": load.cache_type_k,
    }
    command = [sys.executable, "-c", _XLLAMACPP, json.dumps(said)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    last = done.stdout.strip().rpartition("\n")[2]
    return int(last) if last.isdecimal() else None


def _row(one: Outcome) -> str:
    others = (
        "     -" if count is None else f"{count / one.rss - 1:+6.0%}"
        for count in (one.fit, one.xllamacpp)
    )
    flags = " ".join(one.case.flags).replace("--", "")
    fields = f"{one.rss / MIB:8.0f} {one.pss / MIB:8.0f} {one.ours / MIB:8.0f} {one.error:+7.1%}"
    return f"{one.case.name:<10} {fields}  {'  '.join(others)}  {flags}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--models", type=Path, help="where the models are kept for another run")
    given = parser.parse_args()
    server = llama_server_path()
    if server is None:
        raise SystemExit("there is no llama-server: run `make engines`")
    with tempfile.TemporaryDirectory() as temporary:
        folder: Path = given.models or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        print(f"{'model':<10} {'RSS':>8} {'PSS':>8} {'ours':>8} {'off':>7}    fit-p  xllama  flags")
        outcomes: list[Outcome] = []
        for case in cases(folder):
            outcomes.append(measure(server, case))
            print(_row(outcomes[-1]), flush=True)
    errors = [abs(one.error) for one in outcomes]
    within = sum(error <= BUDGET for error in errors)
    print(f"\n{within} of {len(errors)} within {BUDGET:.0%}; the furthest off by {max(errors):.1%}")
    for name in ("fit", "xllamacpp"):
        told = [(getattr(o, name), o.rss) for o in outcomes if getattr(o, name) is not None]
        if told:
            worst = max(abs(count / rss - 1) for count, rss in told)
            mean = sum(abs(count / rss - 1) for count, rss in told) / len(told)
            print(f"{name}: off by {mean:.0%} on average, {worst:.0%} at most")
    print(f"ours: off by {sum(errors) / len(errors):.1%} on average")


if __name__ == "__main__":
    main()
