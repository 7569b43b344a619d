"""Finding the engines' programs, with real files in real folders, and reading their help."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.engines.help_parser import parse_help
from orchestrator.errors import InputError
from orchestrator.runtime.binaries import (
    OLLAMA_VARIABLE,
    FoundBinary,
    Program,
    find_llama_server,
    find_ollama,
)
from orchestrator.runtime.binary_help import HELP_LIMIT, read_help


def program(path: Path, script: str = "exit 0") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def find(explicit: str | None = None, **env: str) -> FoundBinary:
    return find_llama_server(explicit=explicit, env=env)


def test_order_of_places(tmp_path: Path) -> None:
    named = program(tmp_path / "named" / "server")
    variable = program(tmp_path / "variable" / "server")
    on_path = program(tmp_path / "path" / "llama-server")
    home = program(tmp_path / "home" / "llama.cpp" / "build" / "bin" / "llama-server")
    env = {
        "PATH": f"relative:{tmp_path / 'empty'}:{on_path.parent}",
        "HOME": str(tmp_path / "home"),
        "ORCHESTRATE_LLAMA_SERVER": str(variable),
    }
    found = [find(str(named), **env)]
    found.append(find(**env))
    env["ORCHESTRATE_LLAMA_SERVER"] = ""
    found.append(find(**env))
    env["PATH"] = ""
    found.append(find(**env))
    assert [one.path for one in found] == [str(p) for p in (named, variable, on_path, home)]
    assert [one.launcher for one in found] == [(one.path,) for one in found]
    assert "binary:" in found[0].why
    assert "ORCHESTRATE_LLAMA_SERVER" in found[1].why
    assert "PATH" in found[2].why
    assert str(home.parent) in found[3].why


def test_embedded_stands_behind_all_others(tmp_path: Path) -> None:
    found = find(HOME=str(tmp_path))
    assert found.embedded
    assert found.path.endswith(".so")
    assert "no llama-server" in found.why


def test_embedded_by_name(tmp_path: Path) -> None:
    program(tmp_path / "llama-server")
    env = {"PATH": str(tmp_path)}
    assert find("embedded", **env).embedded
    assert find(**env, ORCHESTRATE_LLAMA_SERVER="embedded").embedded
    assert not find(**env).embedded


def test_a_bare_name_is_looked_up(tmp_path: Path) -> None:
    special = program(tmp_path / "llama-server-cuda")
    assert find("llama-server-cuda", PATH=str(tmp_path)).path == str(special)
    assert find("~/llama-server-cuda", HOME=str(tmp_path)).path == str(special)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("/nowhere/llama-server", "does not exist"),
        ("{folder}/plain", "not an executable file"),
        ("{folder}", "not an executable file"),
        ("no-such-program", "not on PATH"),
        ("./build/llama-server", "relative path"),
    ],
)
@pytest.mark.parametrize("by", ["binary", "variable"])
def test_what_was_named_is_never_replaced(tmp_path: Path, name: str, message: str, by: str) -> None:
    program(tmp_path / "llama-server")
    (tmp_path / "plain").write_text("data")
    named = name.format(folder=tmp_path)
    env = {"PATH": str(tmp_path)}
    if by == "variable":
        env["ORCHESTRATE_LLAMA_SERVER"] = named
    with pytest.raises(InputError, match=message) as raised:
        find(named if by == "binary" else None, **env)
    assert raised.value.exit_code == 2
    assert raised.value.hint


def test_fingerprint_follows_the_binary_and_its_libraries(tmp_path: Path) -> None:
    binary = program(tmp_path / "bin" / "llama-server")
    library = program(tmp_path / "lib" / "libllama.so")
    link = tmp_path / "llama-server"
    link.symlink_to(binary)
    seen = [find(str(link)).fingerprint]
    program(tmp_path / "bin" / "unrelated.txt", "anything")
    assert find(str(link)).fingerprint == seen[0]
    program(library, "other")
    seen.append(find(str(link)).fingerprint)
    program(binary, "exit 1")
    seen.append(find(str(link)).fingerprint)
    assert len(set(seen)) == 3
    assert find(str(link)).identity.size == binary.stat().st_size


def test_environment_that_changes_engines_does_not_reach_the_help(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    binary = program(tmp_path / "llama-server", "env | sort")
    for name in ("LLAMA_ARG_PORT", "LLAMA_API_KEY", "MTMD_X", "OLLAMA_HOST", "LD_X"):
        monkeypatch.setenv(name, "inherited")
    said = read_help(find(str(binary)), {"LLAMA_ARG_HOST": "x", "FROM": "caller"})
    assert "FROM=caller" in said
    assert "LD_X=inherited" in said
    assert not [line for line in said.splitlines() if line.startswith(("LLAMA", "MTMD", "OLL"))]


def test_both_streams_are_read(tmp_path: Path) -> None:
    binary = program(tmp_path / "llama-server", "echo -e out; echo err >&2")
    assert set(read_help(find(str(binary)), {}).split()) >= {"out", "err"}


@pytest.mark.parametrize("script", ["sleep 600 & exec sleep 600", "sleep 600 & exit 0"])
def test_a_wrapper_that_starts_a_server_is_ended_with_all_its_processes(
    tmp_path: Path, script: str
) -> None:
    binary = program(tmp_path / "llama-server", f"echo started; {script}")
    assert read_help(find(str(binary)), {}, timeout=0.3) == "started\n"


def test_endless_output_is_cut(tmp_path: Path) -> None:
    binary = program(tmp_path / "llama-server", "exec yes")
    assert len(read_help(find(str(binary)), {})) == HELP_LIMIT


def test_a_broken_binary_says_why(tmp_path: Path) -> None:
    broken = program(tmp_path / "llama-server", "echo 'cannot open libllama.so' >&2; exit 127")
    with pytest.raises(InputError, match=r"cannot be run: cannot open libllama\.so"):
        read_help(find(str(broken)), {})
    alien = tmp_path / "alien"
    alien.write_bytes(b"\x7fELF nonsense")
    alien.chmod(0o755)
    with pytest.raises(InputError, match="cannot be run"):
        read_help(find(str(alien)), {})


def test_embedded_help() -> None:
    found = find("embedded")
    assert parse_help(read_help(found, {})).trusted
    assert found.fingerprint == find("embedded").fingerprint


@pytest.mark.real
def test_real_help(llama_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMA_ARG_PORT", "nonsense")
    table = parse_help(read_help(find(llama_server), {}))
    assert len(table.flags) > 200
    assert table.find("ctx-size") is not None


# --- Ollama ---------------------------------------------------------------------------------------


def test_order_of_places_of_ollama(tmp_path: Path) -> None:
    named = program(tmp_path / "named" / "ollama")
    variable = program(tmp_path / "variable" / "ollama")
    on_path = program(tmp_path / "path" / "ollama")
    home = program(tmp_path / "home" / ".local" / "bin" / "ollama")
    env = {
        "PATH": str(on_path.parent),
        "HOME": str(tmp_path / "home"),
        "ORCHESTRATE_OLLAMA": str(variable),
    }
    found = [find_ollama(explicit=str(named), env=env), find_ollama(explicit=None, env=env)]
    env["ORCHESTRATE_OLLAMA"] = ""
    found.append(find_ollama(explicit=None, env=env))
    assert [one.path for one in found] == [str(named), str(variable), str(on_path)]
    assert find_ollama(explicit="ollama", env=env).path == str(on_path)
    if not any(Path(folder, "ollama").exists() for folder in ("/usr/local/bin", "/usr/bin")):
        env["PATH"] = ""
        assert find_ollama(explicit=None, env=env).path == str(home)


@pytest.mark.parametrize("by", ["binary", "variable"])
def test_an_ollama_that_was_named_is_never_replaced(tmp_path: Path, by: str) -> None:
    env = {"PATH": str(program(tmp_path / "ollama").parent)}
    explicit = "/nowhere/ollama" if by == "binary" else None
    if by == "variable":
        env["ORCHESTRATE_OLLAMA"] = "/nowhere/ollama"
    with pytest.raises(InputError, match="does not exist"):
        find_ollama(explicit=explicit, env=env)


def test_without_an_ollama_it_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "orchestrator.runtime.binaries.OLLAMA", Program("ollama", OLLAMA_VARIABLE, ("~/bin",))
    )
    with pytest.raises(InputError, match="no ollama was found") as raised:
        find_ollama(explicit=None, env={"HOME": str(tmp_path)})
    for word in ("install", "ORCHESTRATE_OLLAMA", "attach: only"):
        assert word in raised.value.hint


def test_the_help_of_a_command_of_a_program(tmp_path: Path) -> None:
    binary = program(tmp_path / "ollama", 'echo "$@"')
    found = find_ollama(explicit=str(binary), env={})
    assert read_help(found, {}, "serve") == "serve --help\n"
