"""A day of idle life in minutes: does the daemon grow?

    python benchmarks/soak.py [--instances 8] [--probes 8640]

The clock is quickened where a daemon spends its days: every instance is probed as often as in 24
hours at the default interval of 10 s, `status` is asked for, and now and then an instance is
killed, the profile saved, and a mistake made in it. Memory, descriptors, threads and the size of
the store are shown at each tenth of the way; the first is for caches to fill.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from common import User, load, profile

from models.make_tiny import write_tiny

TENTHS = 10
INTERVAL = 0.02
"""Seconds between two probes of an instance here; of 10 s by default."""

LOOKS = 30
"""Looks at the descriptors, of which the fewest count: each probe under way has one."""

GROWTH = 0.05
"""The share by which memory may differ between the second tenth and the last: noise."""


@dataclass(frozen=True)
class Look:
    """The daemon as seen from outside."""

    pss: int
    descriptors: int
    threads: int
    store: int

    @classmethod
    def at(cls, pid: int, state: Path) -> Look:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        pss = next(int(line.split()[1]) for line in rollup if line.startswith("Pss:"))
        store = sum(path.stat().st_size for path in state.glob("state.db*"))
        return cls(
            pss << 10,
            min(_descriptors(pid) for _ in range(LOOKS)),
            len(os.listdir(f"/proc/{pid}/task")),
            store,
        )


def _descriptors(pid: int) -> int:
    time.sleep(INTERVAL / 3)
    return len(os.listdir(f"/proc/{pid}/fd"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--instances", type=int, default=8)
    parser.add_argument("--probes", type=int, default=8640)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        _soak(User(Path(name)), options.instances, options.probes)


def _soak(user: User, instances: int, probes: int) -> None:
    model = write_tiny(user.folder / "tiny.gguf")
    file = user.folder / "p.yaml"
    lively = {"interval": INTERVAL, "timeout": "5s"}
    again = {"initial": "10ms", "max": "10ms", "limit": "1000 in 1m"}
    one = {"model": str(model), "liveness": lively, "restart": again}
    declared = {f"i{n}": one for n in range(instances)}
    good = profile(declared)
    file.write_text(good)
    user.run("apply", file)
    try:
        daemon = json.loads(user.run("status", "--json"))["daemon"]["pid"]
        print(f"{instances} instances, {probes} probes of each; {load()}")
        print(f"{'probes':>8} {'PSS MB':>8} {'files':>6} {'threads':>8} {'store kB':>9}")
        looks: list[Look] = []
        for tenth in range(1, TENTHS + 1):
            until = time.monotonic() + probes / TENTHS * INTERVAL
            _a_bad_moment(user, file, good)
            while time.monotonic() < until:
                user.run("status", "--json")
                time.sleep(0.5)
            look = Look.at(daemon, user.folder / "state")
            looks.append(look)
            print(
                f"{probes * tenth // TENTHS:>8} {look.pss / 1e6:>8.1f} {look.descriptors:>6} "
                f"{look.threads:>8} {look.store / 1e3:>9.0f}",
                flush=True,
            )
        _judge(looks[1], looks[-1])
    finally:
        user.run("down")


def _a_bad_moment(user: User, file: Path, good: str) -> None:
    """A kill, a mistake in the profile, and its mending."""
    document = json.loads(user.run("status", "--json"))
    os.kill(document["instances"][0]["pid"], signal.SIGKILL)
    file.write_text("instances: [")
    time.sleep(0.3)
    file.write_text(good)
    user.run("wait", "--for", "ready")


def _judge(before: Look, after: Look) -> None:
    grown = after.pss / before.pss - 1
    files = after.descriptors - before.descriptors
    print(
        f"memory {grown:+.1%} ({'ok' if grown <= GROWTH else 'GROWS'}), "
        f"files {files:+d} ({'ok' if files <= 0 else 'GROW'}), "
        f"threads {after.threads - before.threads:+d}, "
        f"store {(after.store - before.store) / 1e3:+.0f} kB (bounded by 10,000 events)"
    )


if __name__ == "__main__":
    main()
