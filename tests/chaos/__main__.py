"""`python -m tests.chaos --seed 7 --faults 1000`: see the package. Exits 1 on any violation."""

from __future__ import annotations

import argparse
import secrets
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests import engines
from tests.chaos.faults import ALL
from tests.chaos.run import Plan, run
from tests.chaos.world import ChaosWorld


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--seed", type=int, help="the sequence; a new one by default")
    parser.add_argument("--faults", type=int, default=1000, help="how many")
    parser.add_argument("--seconds", type=float, default=3600, help="end after this time at most")
    parser.add_argument("--kinds", nargs="*", help="these alone, one by one (other sequences)")
    given = parser.parse_args(argv)
    seed = secrets.randbelow(1_000_000) if given.seed is None else given.seed
    llama_server = engines.llama_server_path()
    if llama_server is None:
        print("!!! LLAMA-SERVER IS NOT BUILT (make engines): there is nothing to hurt")
        return 1
    known = {kind.__name__.replace("_", "-"): kind for kind in ALL}
    chosen = tuple(known[name] for name in given.kinds or ())
    plan = Plan(seed, given.faults, given.seconds, kinds=chosen or ALL, pairs=not chosen)
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    print(f"seed {seed}: make chaos SEED={seed} FAULTS={given.faults}", flush=True)
    world = ChaosWorld(folder / "w", llama_server=llama_server, ollama=engines.ollama_path())
    report = run(world, plan)
    print("\n".join(report.lines()), flush=True)
    if report.kept is None:
        shutil.rmtree(folder)
    return 1 if report.violations else 0


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    sys.exit(main())
