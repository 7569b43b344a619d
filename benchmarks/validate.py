"""`orchestrate validate` of a profile of 200 instances, as a command, against its budget.

    python benchmarks/validate.py [--instances 200] [--rounds 9]

Once with every model named by its path, once by its name, for which the folders are searched. The
share of the imports is that of a command that does nothing else.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import User, load, median, profile, verdict

BUDGET = 0.3
IMPORTS = (
    "import orchestrator.cli.main, orchestrator.cli.check, orchestrator.cli.offline,"
    " orchestrator.control.resolution, orchestrator.control.toolchain"
)


def written(user: User, model: str, count: int) -> Path:
    """A profile with a bit of everything that an instance may say."""
    instances: dict[str, dict[str, Any]] = {
        f"instance-{at:03}": {
            "model": model,
            "port": 9000 + at,
            "description": "one of many",
            "flags": {"ctx-size": 4096, "threads": 2, "flash-attn": "auto", "jinja": True},
            "env": {"CUDA_VISIBLE_DEVICES": "0"},
            "restart": {"max": "30s"},
            "needs": [f"instance-{at - 1:03}"] if at % 10 else [],
        }
        for at in range(count)
    }
    file = user.folder / f"{Path(model).stem}-{'path' if '/' in model else 'name'}.yaml"
    file.write_text("catalog: {dirs: [.]}\n" + profile(instances))
    return file


def seconds(act: Callable[[], object], rounds: int) -> list[float]:
    found: list[float] = []
    for _ in range(rounds):
        began = time.perf_counter()
        act()
        found.append(time.perf_counter() - began)
    return found


def run(user: User, instances: int, rounds: int) -> bool:
    from models.make_tiny import write_tiny

    model = str(write_tiny(user.folder / "tiny.gguf"))
    files = {
        "models by path": written(user, model, instances),
        "models by name": written(user, "tiny", instances),
    }
    for file in files.values():
        user.run("validate", file)  # compiles modules, reads the binary's help, fills the cache
    command = [sys.executable, "-c", IMPORTS]
    imports = seconds(lambda: subprocess.run(command, env=user.env, check=True), rounds)
    print(f"\n{instances} instances{'':9}{'seconds':>10}{'worst':>8}{'budget':>8}")
    kept = True
    for name, file in files.items():
        took = seconds(lambda file=file: user.run("validate", file), rounds)
        kept &= median(took) <= BUDGET
        print(
            f"{name:22}{median(took):10.3f}{max(took):8.3f}{BUDGET:8.3f}"
            f"  {verdict(median(took), BUDGET)}"
        )
    print(f"{'imports alone':22}{median(imports):10.3f}{max(imports):8.3f}")
    return kept


def main() -> int:
    parser = argparse.ArgumentParser(description="validate, against its budget.")
    parser.add_argument("--instances", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    from tests.engines import llama_server_path

    binary = llama_server_path()
    if binary is None:
        raise SystemExit("the real llama-server is missing: make engines")
    print(load())
    with tempfile.TemporaryDirectory(prefix="orchestrate-bench-") as folder:
        user = User(Path(folder), ORCHESTRATE_LLAMA_SERVER=binary)
        kept = run(user, given.instances, given.rounds)
    print(f"\n{load()}")
    return 0 if kept else 1


if __name__ == "__main__":
    raise SystemExit(main())
