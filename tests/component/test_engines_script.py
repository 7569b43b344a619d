"""What `make test` prints last: which real engines a run could not have. It never fails a run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import engines, machine_has

ROOT = Path(__file__).resolve().parents[2]
FOLDER = engines.default_folder()
"""Looked up before any test changes HOME."""


def report(folder: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run it as the Makefile does: as a file, from the project's folder."""
    return subprocess.run(
        [sys.executable, "tests/engines.py", "--report", "--folder", folder],
        cwd=ROOT,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=30,
    )


def test_an_empty_folder_is_no_failure_and_each_engine_is_named(tmp_path: Path) -> None:
    done = report(tmp_path / "nowhere")

    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    skipped = [line for line in lines if line.startswith("!!! ") and line.endswith(": SKIPPED")]
    assert [line.split()[1] for line in skipped][:2] == ["llama-server", "Ollama"]
    assert lines[-1] == f"engines in {tmp_path / 'nowhere'}: {len(skipped)} missing"
    assert not (tmp_path / "nowhere").exists()


def test_what_is_there_is_not_named_as_missing(llama_server: str, ollama: str) -> None:
    done = report(FOLDER)

    assert (done.returncode, done.stderr) == (0, "")
    assert "llama-server is missing" not in done.stdout
    assert "Ollama is missing" not in done.stdout
    if engines.missing_engines(FOLDER) == []:
        assert done.stdout == f"engines in {FOLDER}: all there\n"


def test_programs_that_are_missing_are_named_with_what_goes_untested(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(machine_has.shutil, "which", lambda name, path: None)

    assert "pulls from a real registry (missing: docker-registry)" in machine_has.untested()
