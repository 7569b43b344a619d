"""The toolchain's caches: what is asked once, what is asked again, what may be broken."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from orchestrator.control.toolchain import Toolchain
from orchestrator.errors import InputError
from tests.unit.test_flags import HELP
from tests.unit.test_ollama_engine import HELP as OLLAMA_HELP
from tests.unit.test_ollama_engine import LISTED

CALLS = "calls"


@pytest.fixture
def binary(tmp_path: Path) -> Path:
    """A program that prints the recorded help, and notes each time that it is run."""
    path = tmp_path / "llama-server"
    path.write_text(f"#!/bin/sh\necho x >> {tmp_path / CALLS}\ncat {HELP}\n")
    path.chmod(0o755)
    return path


def calls(binary: Path) -> int:
    counted = binary.with_name(CALLS)
    return len(counted.read_text().split()) if counted.exists() else 0


def cached(folder: Path) -> list[Path]:
    return sorted((folder / "flags").glob("*"))


def test_asked_once_in_memory_and_once_for_every_process(binary: Path, tmp_path: Path) -> None:
    first = Toolchain(str(tmp_path / "cache"))
    engines = [first.llama_server(str(binary), {}) for _ in range(3)]
    engines.append(Toolchain(str(tmp_path / "cache")).llama_server(str(binary), {}))
    assert calls(binary) == 1
    assert [len(engine.table.flags) for engine in engines] == [256] * 4
    assert engines[0].binary.path == str(binary)
    assert not engines[0].embedded


def test_asked_again_when_the_binary_changed(binary: Path, tmp_path: Path) -> None:
    toolchain = Toolchain(str(tmp_path / "cache"))
    before = toolchain.llama_server(str(binary), {})
    binary.write_text(binary.read_text() + "\n# newer\n")
    after = toolchain.llama_server(str(binary), {})
    assert calls(binary) == 2
    assert before.binary.identity != after.binary.identity


def test_cache_is_private(binary: Path, tmp_path: Path) -> None:
    Toolchain(str(tmp_path / "cache")).llama_server(str(binary), {})
    (table,) = cached(tmp_path / "cache")
    assert table.stat().st_mode & 0o777 == 0o600
    assert table.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 99, "flags": []}', "\xff"])
def test_torn_cache_is_replaced(binary: Path, tmp_path: Path, content: str) -> None:
    folder = tmp_path / "cache"
    Toolchain(str(folder)).llama_server(str(binary), {})
    (table,) = cached(folder)
    whole = table.read_bytes()
    table.write_bytes(content.encode("latin-1"))
    assert Toolchain(str(folder)).llama_server(str(binary), {}).table.trusted
    assert table.read_bytes() == whole
    assert calls(binary) == 2


def test_a_cache_that_cannot_be_written_is_no_error(binary: Path, tmp_path: Path) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("no folder")
    toolchain = Toolchain(str(in_the_way))
    assert toolchain.llama_server(str(binary), {}).table.trusted
    assert toolchain.llama_server(str(binary), {}).table.trusted
    assert calls(binary) == 1


def test_old_tables_are_removed(binary: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "flags"
    folder.mkdir(parents=True)
    for number in range(40):
        old = folder / f"{number}.json"
        old.write_text(json.dumps({}))
        os.utime(old, (number, number))
    Toolchain(str(tmp_path / "cache")).llama_server(str(binary), {})
    left = {path.name for path in cached(tmp_path / "cache")}
    assert len(left) == 16
    assert "39.json" in left
    assert "0.json" not in left


def test_what_a_wrapper_says_is_not_kept(tmp_path: Path) -> None:
    wrapper = tmp_path / "wrapper"
    wrapper.write_text("#!/bin/sh\necho no flags here\n")
    wrapper.chmod(0o755)
    engine = Toolchain(str(tmp_path / "cache")).llama_server(str(wrapper), {})
    assert not engine.table.trusted
    assert cached(tmp_path / "cache") == []


def test_a_missing_binary_is_the_callers_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        Toolchain(str(tmp_path)).llama_server("/nowhere/llama-server", {})


def test_embedded(tmp_path: Path) -> None:
    engine = Toolchain(str(tmp_path)).llama_server("embedded", {})
    assert engine.embedded
    assert engine.table.trusted


# --- Ollama ---------------------------------------------------------------------------------------


@pytest.fixture
def ollama_stand_in(tmp_path: Path) -> Path:
    """A program with the recorded help of `ollama serve`, which notes each time that it is run."""
    path = tmp_path / "ollama"
    path.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path / CALLS}\ncat {OLLAMA_HELP}\n')
    path.chmod(0o755)
    return path


def test_ollama_is_asked_once_for_every_process(ollama_stand_in: Path, tmp_path: Path) -> None:
    folder = str(tmp_path / "cache")
    first = Toolchain(folder)
    engines = [first.ollama(str(ollama_stand_in), {}) for _ in range(2)]
    engines.append(Toolchain(folder).ollama(None, {"ORCHESTRATE_OLLAMA": str(ollama_stand_in)}))
    assert (tmp_path / CALLS).read_text() == "serve --help\n"
    assert {engine.binary.path for engine in engines} == {str(ollama_stand_in)}
    assert [engine.variables for engine in engines] == [LISTED] * 3


def test_one_program_under_both_names(ollama_stand_in: Path, tmp_path: Path) -> None:
    """What is kept of it as one engine is not taken for what it says as the other."""
    toolchain = Toolchain(str(tmp_path / "cache"))
    assert not toolchain.llama_server(str(ollama_stand_in), {}).table.trusted
    assert toolchain.ollama(str(ollama_stand_in), {}).variables.trusted
    again = Toolchain(str(tmp_path / "cache"))
    assert not again.llama_server(str(ollama_stand_in), {}).table.trusted


def test_what_a_wrapper_of_ollama_says_is_not_kept(tmp_path: Path) -> None:
    wrapper = tmp_path / "wrapper"
    wrapper.write_text("#!/bin/sh\necho no settings here\n")
    wrapper.chmod(0o755)
    engine = Toolchain(str(tmp_path / "cache")).ollama(str(wrapper), {})
    assert not engine.variables.trusted
    assert cached(tmp_path / "cache") == []


@pytest.mark.ollama
def test_real_ollama_lists_what_was_recorded(ollama: str, tmp_path: Path) -> None:
    engine = Toolchain(str(tmp_path)).ollama(ollama, {"OLLAMA_HOST": "nonsense://"})
    assert engine.variables == LISTED
