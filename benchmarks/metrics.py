"""What a scrape costs, and what counting costs while nobody scrapes.

Run: `python benchmarks/metrics.py [--instances 100] [--live 4]`. The first part makes metrics of a
made-up status; the second scrapes a real daemon over its socket while `status` is asked for beside
it, and compares that with `status` alone. Exit code 1 when a budget is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from common import ROOT, User, free_ports, load, profile, verdict

from models.make_tiny import write_tiny
from orchestrator.api.families import Sheet, filled, written
from orchestrator.control.tally import Tally
from orchestrator.core.event import Event, EventType
from tests.engines import llama_server_path
from tests.metric_moments import moment_of, observed_of

STEP = 0.005
"""Seconds at most that a scrape keeps others from their turn."""

COUNTING = 2e-5
"""Seconds that a pass and an event may take to be counted."""

EVERY = 15.0
"""Seconds between two scrapes, as is usual."""

BESIDE = 0.010
"""Seconds by which the slowest of twenty `status` may be slower beside scrapes."""

ROUNDS = 20


def made_up(count: int) -> bool:
    """Seconds of CPU of one scrape, and of its longest step."""
    moment = moment_of(observed_of(f"instance-{number}" for number in range(count)))
    whole: list[float] = []
    longest: list[float] = []
    size = 0
    for _ in range(ROUNDS):
        sheet = Sheet()
        steps = list(timed(filled(sheet, moment)))
        parts, _ = written(sheet.metrics(), "")
        body: list[bytes] = []
        steps += list(timed(_kept(parts, body)))
        whole.append(sum(steps))
        longest.append(max(steps))
        size = sum(map(len, body))
    took, step = statistics.median(whole), statistics.median(longest)
    print(
        f"{count:>4} instances: {took * 1e3:7.2f} ms of CPU, {size >> 10} KiB, "
        f"{took / EVERY:.3%} of a core every {EVERY:g} s; "
        f"longest step {step * 1e3:.2f} ms (at most {STEP * 1e3:g}): {verdict(step, STEP)}"
    )
    return step <= STEP


def _kept(parts: Iterator[bytes], body: list[bytes]) -> Iterator[None]:
    for part in parts:
        body.append(part)
        yield


def timed(steps: Iterable[object]) -> Iterator[float]:
    """Seconds of CPU of each step."""
    began = time.thread_time()
    for _ in steps:
        yield time.thread_time() - began
        began = time.thread_time()


def counting() -> bool:
    """What the reconciler pays for one event and one pass."""
    tally, rounds = Tally(), 100_000
    (status,) = observed_of(["a"]).values()
    event = Event(EventType.HEALTH, "a")
    began = time.thread_time()
    for _ in range(rounds):
        tally.fold(event, status, status)
        tally.passed(0.0004, apart_since=None)
    took = (time.thread_time() - began) / rounds
    say = f"(at most {COUNTING * 1e6:g}): {verdict(took, COUNTING)}"
    print(f"counting: {took * 1e6:.2f} us for a pass with an event {say}")
    return took <= COUNTING


async def asked(path: str, target: str) -> float:
    """Seconds until the whole answer is there."""
    began = time.perf_counter()
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(f"GET {target} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    if b" 200 " not in answer[:20]:
        raise SystemExit(f"{target}: {answer[:200]!r}")
    return time.perf_counter() - began


async def statuses(path: str) -> float:
    """The slowest of twenty, one after the other."""
    took: list[float] = []
    for _ in range(ROUNDS):
        took.append(await asked(path, "/v1/status"))
        await asyncio.sleep(0.12)
    return max(took)


async def beside(path: str) -> bool:
    """`status` alone, then beside scrapes of the same daemon."""
    first = await asked(path, "/metrics")
    later = statistics.median([await asked(path, "/metrics") for _ in range(ROUNDS)])
    relayed = statistics.median([await asked(path, "/metrics?relay=1") for _ in range(ROUNDS)])
    print(f"the first scrape {first * 1e3:.0f} ms, then {later * 1e3:.1f} ms, ", end="")
    print(f"with the engines' own {relayed * 1e3:.1f} ms")
    alone = await statuses(path)

    async def scrapes() -> None:
        while True:
            await asked(path, "/metrics?relay=1")

    scraping = asyncio.create_task(scrapes())
    together = await statuses(path)
    scraping.cancel()
    say = f"(at most {BESIDE * 1e3:g} ms more): {verdict(together - alone, BESIDE)}"
    print(f"status alone {alone * 1e3:.1f} ms, beside scrapes {together * 1e3:.1f} ms {say}")
    return together - alone <= BESIDE


def live(count: int) -> bool:
    binary = llama_server_path()
    if binary is None:
        raise SystemExit("no llama-server: make engines")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = write_tiny(folder / "tiny.gguf")
        user = User(folder, ORCHESTRATE_LLAMA_SERVER=binary)
        one = {"model": str(model), "flags": {"metrics": True}}
        ports = free_ports(count)
        instances = {f"i{port}": {**one, "port": port} for port in ports}
        (folder / "p.yaml").write_text(profile(instances))
        try:
            user.run("apply", folder / "p.yaml")
            print(f"a real daemon with {count} real llama-servers, over its socket:")
            return asyncio.run(beside(str(folder / "state" / "control.sock")))
        finally:
            user.run("down")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--instances", type=int, default=100)
    parser.add_argument("--live", type=int, default=4)
    given = parser.parse_args()
    print(load())
    good = [made_up(count) for count in sorted({1, 10, given.instances})]
    good.append(counting())
    if given.live:
        good.append(live(given.live))
    return int(not all(good))


if __name__ == "__main__":
    assert ROOT
    sys.exit(main())
