"""`orchestrate doctor`: what it sees, what it says to do, and when it calls a machine unusable."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.cli.doctor_machine import cgroup_limit
from orchestrator.runtime.ports import ephemeral_range
from tests.engines import OLLAMA
from tests.ollama_world import running_ollama
from tests.stand_ins import stand_in
from tests.world import Ran, World, listening

HELP = Path(__file__).parent.parent / "data" / "llama-server-b11434-help.txt"
TOPICS = {
    *("system", "engine", "gpu", "ollama", "memory", "models", "ports", "state", "daemon"),
    "watch",
}


@pytest.fixture
def machine(tmp_path: Path, model: Path) -> Iterator[World]:
    """A machine with no llama-server but the embedded one, and no Ollama."""
    made = World(tmp_path, model, {**os.environ, "PATH": "/usr/bin:/bin"})
    made.env["OLLAMA_HOST"] = f"127.0.0.1:{made.port()}"
    yield made
    made.end()


def program(machine: World, name: str, script: str) -> Path:
    """A program in a folder of its own, for PATH."""
    path = machine.write(f"bin/{name}", f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def found(ran: Ran, topic: str) -> list[dict[str, Any]]:
    return [one for one in ran.json["findings"] if one["topic"] == topic]


def test_a_sound_machine_is_usable(any_world: World) -> None:
    text = any_world.run("doctor").out
    ran = any_world.run("doctor", "--json")

    assert ran.json["ok"]
    assert {one["topic"] for one in ran.json["findings"]} == TOPICS
    assert not [one for one in ran.json["findings"] if one["mark"] == "fail"]
    chosen = [one["data"] for one in found(ran, "engine") if one["data"].get("chosen")]
    assert len(chosen) == 1
    assert chosen[0]["trusted"]
    assert chosen[0]["flags"] > 100
    assert "version" in chosen[0]["version"]
    assert text.count("\nok ") + text.startswith("ok ") >= len(TOPICS)
    # Looking changes nothing.
    assert not any_world.state.exists()


def test_every_problem_says_what_to_do(machine: World) -> None:
    machine.write("models/broken.gguf", "GGUF")
    program(machine, "llama-server", "echo nothing to see")
    with listening(machine.port()) as stranger:
        machine.profile({"a": {"port": stranger.getsockname()[1]}}, name="profiles/p.yaml")
        ran = machine.run("doctor", "--json", PATH=f"{machine.folder}/bin:/usr/bin:/bin")

    bad = [one for one in ran.json["findings"] if one["mark"] != "ok"]
    assert {one["topic"] for one in bad} >= {"engine", "models", "ports"}
    assert all(one["hint"] for one in bad)


def test_a_named_engine_that_is_not_there_makes_it_unusable(machine: World) -> None:
    ran = machine.run("doctor", ok=False, ORCHESTRATE_LLAMA_SERVER="/nowhere/llama-server")

    assert ran.code == 1
    assert "/nowhere/llama-server (named by ORCHESTRATE_LLAMA_SERVER) does not exist" in ran.out
    assert "also here, not used" in ran.out
    assert "not usable" in ran.out
    assert ran.err == ""


def test_candidates_stand_in_the_order_of_the_look_up(machine: World, llama_server: str) -> None:
    program(machine, "llama-server", f'exec {llama_server} "$@"')
    path = f"{machine.folder}/bin:{os.path.dirname(llama_server)}"

    ran = machine.run("doctor", "--json", PATH=path)

    engines = [one["data"] for one in found(ran, "engine")]
    wrapper = f"{machine.folder}/bin/llama-server"
    assert [one["path"] for one in engines[:2]] == [wrapper, llama_server]
    assert [one["chosen"] for one in engines] == [True, False, False]
    assert engines[2]["embedded"]


def test_a_wrapper_without_a_real_help_is_a_warning(machine: World) -> None:
    program(machine, "llama-server", "echo version: 1")

    ran = machine.run("doctor", "--json", PATH=f"{machine.folder}/bin:/usr/bin:/bin")

    first = found(ran, "engine")[0]
    assert first["mark"] == "warn"
    assert first["data"]["flags"] == 0
    assert not first["data"]["trusted"]


def test_an_engine_that_does_not_answer_is_not_waited_for(machine: World) -> None:
    program(machine, "llama-server", "sleep 600 & wait")

    ran = machine.run("doctor", ok=False, PATH=f"{machine.folder}/bin:/usr/bin:/bin", timeout=40)

    assert ran.code == 1
    assert "cannot be run: no answer within" in ran.out


def test_gpus_are_those_that_the_engine_sees(machine: World) -> None:
    program(
        machine,
        "llama-server",
        f"""case "$1" in
          --version) echo 'version: 7 (abc)' ;;
          --help) cat {HELP} ;;
          --list-devices)
            echo 'Available devices:'
            echo '  CUDA0: NVIDIA Card 9000 (24000 MiB, 23000 MiB free)' ;;
        esac""",
    )

    ran = machine.run("doctor", "--json", PATH=f"{machine.folder}/bin:/usr/bin:/bin")

    [gpu] = found(ran, "gpu")
    assert gpu["data"] == {
        "name": "CUDA0",
        "description": "NVIDIA Card 9000",
        "total_bytes": 24000 << 20,
        "free_bytes": 23000 << 20,
    }
    assert "23000 of 24000 MiB free" in gpu["message"]


# --- Ollama ------------------------------------------------------------------------------------


def test_no_ollama_is_no_problem(machine: World) -> None:
    program_, server, store = found(machine.run("doctor", "--json"), "ollama")

    assert "no program is installed" in program_["message"]
    assert "no server is running" in server["message"]
    assert "made when it is needed" in store["message"]
    assert {one["mark"] for one in (program_, server, store)} == {"ok"}


def test_an_ollama_that_was_named_must_be_there(machine: World) -> None:
    ran = machine.run("doctor", "--json", ok=False, ORCHESTRATE_OLLAMA="/nowhere/ollama")

    assert ran.code == 1
    [finding, *_] = found(ran, "ollama")
    assert finding["mark"] == "fail"
    assert "/nowhere/ollama (named by ORCHESTRATE_OLLAMA) does not exist" in finding["message"]
    assert finding["hint"]


def test_an_ollama_without_its_runner_is_a_warning(machine: World) -> None:
    program(machine, "ollama", "echo 'ollama version is 0.34.4'")

    ran = machine.run("doctor", "--json", PATH=f"{machine.folder}/bin:/usr/bin:/bin")

    [ollama, *_] = found(ran, "ollama")
    assert ollama["mark"] == "warn"
    assert "ollama version is 0.34.4" in ollama["message"]
    assert "lib/ollama" in ollama["hint"]
    machine.write("lib/ollama/llama-server", "")
    ran = machine.run("doctor", "--json", PATH=f"{machine.folder}/bin:/usr/bin:/bin")
    assert found(ran, "ollama")[0]["mark"] == "ok"


@pytest.mark.ollama
def test_the_real_one_is_whole(machine: World, ollama: str) -> None:
    ran = machine.run("doctor", "--json", ORCHESTRATE_OLLAMA=ollama)

    [finding, *_] = found(ran, "ollama")
    assert finding["mark"] == "ok"
    assert finding["data"]["path"] == ollama
    assert "(named by ORCHESTRATE_OLLAMA)" in finding["message"]
    assert OLLAMA in finding["data"]["version"]
    assert finding["data"]["runner"].endswith("lib/ollama")


@pytest.mark.ollama
def test_a_server_that_runs_is_named_with_its_owner(machine: World, ollama: str) -> None:
    port = int(machine.env["OLLAMA_HOST"].rpartition(":")[2])
    instance = {"engine": "ollama", "port": port}
    machine.write("profiles/p.yaml", yaml.safe_dump({"instances": {"o": instance}}))
    with running_ollama(machine.folder / "theirs", port, binary=ollama) as server:
        ran = machine.run("doctor", "--json")

    data = found(ran, "ollama")[1]["data"]
    assert data["running"]
    assert (data["pid"], data["version"], data["models"]) == (server.pid, OLLAMA, 0)
    assert data["owner"]
    # It is there to be attached to: no stranger on a port that we need.
    [ports] = found(ran, "ports")
    assert ports["mark"] == "ok"


def test_something_else_on_its_port_is_a_warning(machine: World) -> None:
    with listening(int(machine.env["OLLAMA_HOST"].rpartition(":")[2])):
        ran = machine.run("doctor", "--json")

    server = found(ran, "ollama")[1]
    assert server["mark"] == "warn"
    assert f"pid {os.getpid()}" in server["message"]
    assert server["hint"]


def test_each_store_is_measured(machine: World) -> None:
    store = machine.folder / ".ollama/models"
    stand_in("llama3.1:8b", home=machine.folder, folder=store, tiny=machine.model)
    other = str(machine.folder / "other")

    def stores(named: str = "") -> list[dict[str, Any]]:
        found_ = found(machine.run("doctor", "--json", OLLAMA_MODELS=named), "ollama")[2:]
        return [one for one in found_ if str(machine.folder) in one["message"]]

    [own] = stores()
    assert (own["mark"], own["data"]["models"], own["data"]["writable"]) == ("ok", 1, True)
    assert own["data"]["bytes"] == sum(p.stat().st_size for p in (store / "blobs").iterdir())
    named, usual = stores(other)
    assert (named["data"]["own"], usual["data"]["own"]) == (True, False)
    machine.write("other", "a file")
    [named, _] = stores(f"{other}/store")
    assert (named["mark"], named["data"]["writable"]) == ("warn", False)
    assert "OLLAMA_MODELS" in named["hint"]


def test_a_port_that_a_stranger_holds_names_the_holder(machine: World) -> None:
    port = machine.port()
    machine.profile({"coder": {"port": port}}, name="profiles/p.yaml")
    with listening(port):
        ran = machine.run("doctor", "--json")

    [held, _] = found(ran, "ports")
    assert held["mark"] == "warn"
    assert f"port {port} of instance coder is held by pid {os.getpid()}" in held["message"]
    assert held["data"] == {"instance": "coder", "host": "127.0.0.1", "port": port}


def test_ports_of_our_own_instances_are_no_problem(world: World) -> None:
    profile = world.profile({"a": {"port": world.port()}}, name="far/p.yaml")
    world.run("apply", profile)

    ran = world.run("doctor", "--json")

    [ports] = found(ran, "ports")
    assert ports["mark"] == "ok"
    assert ports["data"]["declared"] == 1
    [daemon] = found(ran, "daemon")
    assert daemon["data"]["pid"] == world.daemon_pid()
    assert daemon["data"]["instances"] == 1
    store = found(ran, "state")[-1]
    assert store["data"]["applied"] == [str(profile)]


def test_a_port_for_outgoing_connections_is_a_bad_choice(machine: World) -> None:
    low, _ = ephemeral_range()
    machine.profile({"a": {"port": low + 1}}, name="profiles/p.yaml")

    [finding, _] = found(machine.run("doctor", "--json"), "ports")

    assert finding["mark"] == "warn"
    assert str(low) in finding["hint"]


def test_models_are_counted_where_they_lie(machine: World) -> None:
    (machine.folder / "models").mkdir()
    (machine.folder / "models" / "tiny.gguf").write_bytes(machine.model.read_bytes())
    machine.write("models/broken.gguf", "GGUF")

    [place] = found(machine.run("doctor", "--json"), "models")

    assert place["mark"] == "warn"
    assert place["data"]["models"] == 1
    assert place["data"]["errors"] == 1
    assert "broken.gguf" in place["message"]


def test_a_machine_without_models_is_told_where_to_put_them(machine: World) -> None:
    [finding] = found(machine.run("doctor", "--json"), "models")

    assert finding["mark"] == "warn"
    assert "./models" in finding["hint"]


def test_a_state_folder_that_cannot_be_used_makes_it_unusable(machine: World) -> None:
    machine.write("file", "")

    ran = machine.run(
        "doctor", "--json", ok=False, ORCHESTRATE_STATE_DIR=f"{machine.folder}/file/state"
    )

    assert ran.code == 1
    assert not ran.json["ok"]
    folder = found(ran, "state")[0]
    assert folder["mark"] == "fail"
    assert "ORCHESTRATE_STATE_DIR" in folder["hint"]


def test_a_state_folder_that_others_can_read_is_a_warning(machine: World) -> None:
    machine.state.mkdir(mode=0o755)

    folder = found(machine.run("doctor", "--json"), "state")[0]

    assert folder["mark"] == "warn"
    assert folder["hint"] == f"chmod 700 {machine.state}"


def test_a_torn_store_is_a_warning(machine: World) -> None:
    machine.state.mkdir(mode=0o700)
    (machine.state / "state.db").write_text("this is no database, and was one once")

    store = found(machine.run("doctor", "--json"), "state")[-1]

    assert store["mark"] == "warn"
    assert "cannot be read" in store["message"]
    machine.run("daemon", "start")


def test_a_silent_daemon_makes_it_unusable(machine: World) -> None:
    machine.state.mkdir(mode=0o700)
    holder = f"""
import time
from orchestrator.runtime import lock
lock.acquire({str(machine.state / "daemon.lock")!r})
print("held", flush=True)
time.sleep(600)
"""
    import subprocess

    process = subprocess.Popen(
        [sys.executable, "-c", holder], stdout=subprocess.PIPE, env=machine.env, text=True
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()
        ran = machine.run("doctor", "--json", ok=False)
    finally:
        process.kill()
        process.communicate()

    assert ran.code == 1
    [daemon] = found(ran, "daemon")
    assert daemon["mark"] == "fail"
    assert f"pid {process.pid} holds the state folder" in daemon["message"]


def test_the_least_limit_of_the_cgroups_above_counts(tmp_path: Path) -> None:
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    (inner / "memory.max").write_text("max\n")
    (tmp_path / "a" / "memory.max").write_text("1000\n")

    assert cgroup_limit(str(tmp_path), "0::/a/b\n") == 1000
    assert cgroup_limit(str(tmp_path), "0::/other\n") is None


def test_the_older_cgroups_are_read_too(tmp_path: Path) -> None:
    (tmp_path / "memory" / "box").mkdir(parents=True)
    (tmp_path / "memory" / "box" / "memory.limit_in_bytes").write_text("2000\n")

    membership = "3:cpu,cpuacct:/box\n2:memory:/box\n1:name=systemd:/\n"
    assert cgroup_limit(str(tmp_path), membership) == 2000
