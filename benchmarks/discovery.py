"""Discovery of 1,000 models with big vocabularies, against its budgets.

    python benchmarks/discovery.py [--files 1000] [--folder DIR]

The files have headers of 8 MB laid out as llama-quantize writes them, and tensors that are holes:
8 GB in all, in shared memory when it has the room (so that the page cache is warm), else in the
folder for temporary files. Each row is a process of its own that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

HEADER_BYTES = 8_100_000
SHARED = Path("/dev/shm")
MEMORY_BUDGET = 80.0
"""MB of the largest of the processes."""
BUDGETS = {"first listing": 1.0, "complete": 5.0, "rescan": 0.05}
"""Seconds for 1,000 files."""


def measure(row: str, folder: str, cache: str) -> None:
    """In a process of its own: one scan, timed from after the imports. Prints JSON."""
    from orchestrator.discovery.places import Location
    from orchestrator.discovery.scan import scan

    places = [Location("folder", folder, named=True)]
    began = time.perf_counter()
    catalog = scan(places, cache_file=cache, complete=row != "first listing")
    seconds = time.perf_counter() - began
    found = {
        "seconds": seconds,
        "models": len(catalog.models),
        "errors": len(catalog.errors),
        "complete": sum(model.metadata.complete for model in catalog.models),
        "megabytes": peak_megabytes(),
    }
    print(json.dumps(found))


def peak_megabytes() -> float:
    """Of this program alone: what `getrusage` says includes the parent as it was at the fork."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise SystemExit("this kernel does not tell the peak of memory")


def run(files: int, folder: Path) -> bool:
    """Print the table; True when every budget is kept."""
    from tests.generated_models import write_many

    began = time.perf_counter()
    write_many(folder / "models", files)
    print(f"{files} files written in {time.perf_counter() - began:.1f} s\n")
    print(f"{'':16}{'seconds':>10}{'budget':>10}{'ratio':>8}{'peak MB':>10}{'models':>9}")
    kept, peak = True, 0.0
    for row, budget in BUDGETS.items():
        command = [sys.executable, __file__, "--measure", row, "--folder", str(folder)]
        found = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        expected = 0 if row == "first listing" else files
        if (found["models"], found["errors"], found["complete"]) != (files, 0, expected):
            raise SystemExit(f"{row}: {found}, but all {files} were to be found")
        seconds, peak = found["seconds"], max(peak, found["megabytes"])
        kept &= seconds <= budget
        print(
            f"{row:16}{seconds:10.3f}{budget:10.2f}{seconds / budget:8.2f}"
            f"{found['megabytes']:10.1f}{found['models']:9}"
        )
    print(f"{'peak memory':16}{peak:10.1f}{MEMORY_BUDGET:10.1f}{peak / MEMORY_BUDGET:8.2f}")
    return kept and peak <= MEMORY_BUDGET


def roomy_folder(files: int) -> str | None:
    """Shared memory, when it holds all files twice over; None for the usual temporary folder."""
    wanted = 2 * files * HEADER_BYTES
    if SHARED.is_dir() and shutil.disk_usage(SHARED).free > wanted:
        return str(SHARED)
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description="Discovery, against its budgets.")
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--folder", type=Path, help="where to write the files; they are removed")
    parser.add_argument("--measure", choices=sorted(BUDGETS), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        measure(given.measure, str(given.folder / "models"), str(given.folder / "cache"))
        return 0
    parent = given.folder or roomy_folder(given.files)
    with tempfile.TemporaryDirectory(prefix="orchestrate-bench-", dir=parent) as folder:
        return 0 if run(given.files, Path(folder)) else 1


if __name__ == "__main__":
    raise SystemExit(main())
