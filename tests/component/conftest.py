"""What several tests of the applied set stand on."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.control.toolchain import Toolchain
from tests.applied_story import Story
from tests.unit.test_flags import HELP
from tests.unit.test_ollama_engine import HELP as OLLAMA_HELP


@pytest.fixture(scope="module")
def toolchain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Toolchain, str]:
    """A program with llama-server's help; nothing here is ever started."""
    folder = tmp_path_factory.mktemp("engine")
    binary = folder / "llama-server"
    binary.write_text(f"#!/bin/sh\ncat {HELP}\n")
    binary.chmod(0o755)
    return Toolchain(str(folder / "cache")), str(binary)


@pytest.fixture
def ollama_help(tmp_path: Path) -> str:
    """A program with Ollama's help; nothing here is ever started."""
    binary = tmp_path / "ollama"
    binary.write_text(f"#!/bin/sh\ncat {OLLAMA_HELP}\n")
    binary.chmod(0o755)
    return str(binary)


@pytest.fixture
def story(tmp_path: Path, model: Path, toolchain: tuple[Toolchain, str]) -> Story:
    return Story(tmp_path, model, toolchain)
