"""`models verify` against `sha256sum` on as many cores: bytes that are read and hashed a second.

    python benchmarks/verify.py [--blobs 8] [--megabytes 192] [--folder DIR]

A store of incompressible blobs, in shared memory when it has the room, so that hashing is measured
and no disk. Both take turns, and the best of each counts. `verify` is the whole command, from its
start to its end; `one blob` a store with a single large one, where there is nothing to share out.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from common import User, load

SHARED = Path("/dev/shm")
TURNS = 3
BUDGET = 0.8
"""The least share of what `sha256sum` reads in a second."""


def write_store(store: Path, sizes: list[int]) -> list[Path]:
    """A store of one model per size, of bytes that differ from each other's."""
    blobs, manifests = store / "blobs", store / "manifests/registry.ollama.ai/library"
    blobs.mkdir(parents=True)
    written: list[Path] = []
    for number, size in enumerate(sizes):
        digest, part = hashlib.sha256(), blobs / "part"
        with part.open("wb") as file:
            for _ in range(size >> 20):
                chunk = os.urandom(1 << 20)
                digest.update(chunk)
                file.write(chunk)
        blob = part.rename(blobs / f"sha256-{digest.hexdigest()}")
        layer = {
            "mediaType": "application/vnd.ollama.image.model",
            "digest": f"sha256:{digest.hexdigest()}",
            "size": size,
        }
        manifest = manifests / f"model{number}" / "latest"
        manifest.parent.mkdir(parents=True)
        manifest.write_text(json.dumps({"schemaVersion": 2, "layers": [layer]}))
        written.append(blob)
    return written


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def sha256sum(blobs: list[Path], cores: int) -> None:
    """One process per file, as many at a time as there are cores."""
    names = "\0".join(map(str, blobs)).encode()
    command = ["xargs", "-0", "-n", "1", "-P", str(cores), "sha256sum"]
    subprocess.run(command, input=names, check=True, stdout=subprocess.DEVNULL)


def row(name: str, folder: Path, sizes: list[int]) -> bool:
    """Measure one store and print its line; True when the budget is kept."""
    folder.mkdir()
    store, cores = folder / "store", os.cpu_count() or 1
    blobs = write_store(store, sizes)
    user = User(folder, OLLAMA_MODELS=str(store))
    refs = [f"model{number}" for number in range(len(blobs))]
    floor, ours = [], []
    for _ in range(TURNS):
        floor.append(seconds(lambda: sha256sum(blobs, cores)))
        ours.append(seconds(lambda: user.run("models", "verify", *refs)))
    whole = sum(sizes) / 1e6
    share = min(floor) / min(ours)
    print(
        f"{name:12}{whole:8.0f}{whole / min(floor):14.0f}{whole / min(ours):14.0f}"
        f"{share:8.2f}{BUDGET:8.2f}  {'ok' if share >= BUDGET else 'MISSED'}"
    )
    shutil.rmtree(folder)
    return share >= BUDGET


def roomy_folder(size: int) -> str | None:
    """Shared memory, when it holds all of it twice over; None for the usual temporary folder."""
    return str(SHARED) if SHARED.is_dir() and shutil.disk_usage(SHARED).free > 2 * size else None


def main() -> int:
    parser = argparse.ArgumentParser(description="`models verify`, against sha256sum.")
    parser.add_argument("--blobs", type=int, default=8)
    parser.add_argument("--megabytes", type=int, default=192, help="of each blob")
    parser.add_argument("--folder", type=Path, help="where to write them; they are removed")
    given = parser.parse_args()
    size = given.megabytes << 20
    parent = given.folder or roomy_folder(given.blobs * size)
    print(load())
    print(f"{'':12}{'MB':>8}{'sha256sum':>14}{'verify':>14}{'share':>8}{'budget':>8}  (MB/s)")
    with tempfile.TemporaryDirectory(prefix="orchestrate-bench-", dir=parent) as folder:
        kept = row("many blobs", Path(folder) / "many", [size] * given.blobs)
        kept &= row("one blob", Path(folder) / "one", [size * given.blobs])
    return 0 if kept else 1


if __name__ == "__main__":
    raise SystemExit(main())
