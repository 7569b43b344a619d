"""How quickly the dashboard is there, and how quickly it tells: in a real Chromium.

    python benchmarks/dashboard.py

First paint is what the browser itself reports, of a daemon that is warm; `rows` is when the
instances stand there with their phases. A kill is timed from the signal to the change in the page.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import common

from orchestrator.api import static
from tests import engines, look
from tests.browser import Browser, chromium
from tests.world import World

LOADS, KILLS = 9, 7
PAINT, ROWS_BUDGET, KILL, SIZE = 0.200, 0.400, 0.300, 60_000

WATCH = """
window.seen = {};
new MutationObserver(() => {
  const phases = [...document.querySelectorAll('.card .phase')].map((one) => one.textContent);
  if (!window.seen.rows && phases.length === 3) window.seen.rows = performance.now();
  const ends = [...document.querySelectorAll('#timeline li')]
    .filter((one) => one.textContent.includes('exited'));
  window.seen.ends ??= ends.length;
  if (ends.length === window.seen.ends) return;
  [window.seen.kill, window.seen.ends] = [Date.now(), ends.length];
}).observe(document, { subtree: true, childList: true, characterData: true });
"""


def main() -> None:
    from models.make_tiny import write_tiny

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        binary = engines.llama_server_path()
        env = {key: os.environ[key] for key in ("PATH", "LANG") if key in os.environ}
        if binary:
            env["ORCHESTRATE_LLAMA_SERVER"] = binary
        world = World(folder, write_tiny(folder / "tiny.gguf"), env)
        try:
            often = {"limit": "100 in 10m", "initial": "0.1s", "max": "0.1s"}
            ours = {one: {"port": world.port(), "restart": often} for one in "abc"}
            world.profile(ours, "profiles/p.yaml")
            world.run("apply", "p")
            with chromium(folder / "browser") as page:
                measure(world, page)
        finally:
            world.end()


def measure(world: World, page: Browser) -> None:
    page.driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": WATCH})
    link = world.run("dashboard", "--no-open").out.strip()
    page.go(link)
    url = link.partition("/login")[0] + "/"
    loads = [load(page, url) for _ in range(LOADS)]
    kills = [kill(world, page) for _ in range(KILLS)]
    packed = sum(len(one.packed) for one in static.assets().values())
    plain = sum(len(one.body) for one in static.assets().values())
    show("first paint", [paint for paint, _ in loads], PAINT)
    show("rows", [rows for _, rows in loads], ROWS_BUDGET)
    show("a kill is seen", kills, KILL)
    told = common.verdict(packed, SIZE)
    print(f"size       {packed:>8,} bytes sent ({plain:,} unpacked), budget {SIZE:,}: {told}")
    print(common.load())


def load(page: Browser, url: str) -> tuple[float, float]:
    """Seconds to the first paint and to the rows of one load."""
    page.go("about:blank")
    page.go(url)
    asked: Any = page.until(
        lambda: page.js(
            "const paint = performance.getEntriesByName('first-contentful-paint')[0];"
            "return paint && window.seen.rows ? [paint.startTime, window.seen.rows] : null"
        ),
        "the page is painted",
    )
    return asked[0] / 1000, asked[1] / 1000


def kill(world: World, page: Browser) -> float:
    """Seconds from SIGKILL to its line in the page."""
    row = look.until_phase(world, "b", "ready")
    page.until_text("#link-text", "live")
    page.until(lambda: page.js("return document.querySelectorAll('#timeline li').length"))
    page.js("window.seen.kill = 0")
    at = time.time()
    os.kill(row["pid"], signal.SIGKILL)
    seen = page.until(lambda: page.js("return window.seen.kill"), "the kill is seen")
    look.until_row(world, "b", lambda now: now["pid"] not in (row["pid"], None))
    look.until_phase(world, "b", "ready")
    return seen / 1000 - at


def show(what: str, seconds: list[float], budget: float) -> None:
    middle = common.median(seconds)
    spread = f"{min(seconds) * 1000:.0f} to {max(seconds) * 1000:.0f}"
    told = common.verdict(middle, budget)
    print(f"{what:<15}{middle * 1000:>5.0f} ms ({spread}), budget {budget * 1000:.0f} ms: {told}")


if __name__ == "__main__":
    sys.exit(main())
