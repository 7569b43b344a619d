"""A short chaos run with a seed of its own; `make chaos` is the long one."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from tests import engines
from tests.chaos.run import Plan, run
from tests.chaos.world import ChaosWorld

FAULTS = 25
SECONDS = 28.0
"""After which no further fault begins, however many there were."""

OLLAMA = engines.ollama_path()
"""Looked up before the test has a home of its own."""


@pytest.mark.timeout(240)
def test_whatever_is_done_to_it_the_world_is_as_declared_again(
    tmp_path: Path, llama_server: str
) -> None:
    seed = secrets.randbelow(1_000_000)
    print(f"make chaos SEED={seed} FAULTS={FAULTS}")
    world = ChaosWorld(tmp_path / "world", llama_server=llama_server, ollama=OLLAMA)

    report = run(world, Plan(seed, FAULTS, SECONDS))

    print("\n".join(report.lines()))
    assert report.violations == []
    assert sum(report.faults.values()) > 0
