"""`models pull`, `rm`, `prune` and `verify`, on the real Ollama and its stores."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from orchestrator.runtime.identity import all_pids, command_of
from tests.generated_models import write_small
from tests.ollama_world import OllamaWorld, cli, generate, running_ollama, tags
from tests.registry import Registry, padded
from tests.world import PATIENCE, World

STOCK = ("tiny:latest", "alias:latest", "spoken:v1")
"""What a machine has that has some: all of one blob, the last with a text of its own."""


@pytest.fixture
def machine(ollama_world: OllamaWorld) -> OllamaWorld:
    """A machine on which no Ollama runs: nothing is at its usual address."""
    usual = f"127.0.0.1:{ollama_world.port()}"
    ollama_world.env["OLLAMA_HOST"] = usual
    return ollama_world


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory, model: Path, ollama: str) -> Path:
    """A store with `STOCK`, made by Ollama itself."""
    folder = tmp_path_factory.mktemp("stock")
    made = World(folder, model, os.environ)
    modelfile = folder / "Modelfile"
    modelfile.write_text(f"FROM {model}\nSYSTEM speak\n")
    port = made.port()
    with running_ollama(folder / "home", port, binary=ollama, store=folder / "store"):
        (folder / "Plain").write_text(f"FROM {model}\n")
        cli(ollama, port, "create", "tiny", "-f", folder / "Plain", home=folder)
        cli(ollama, port, "cp", "tiny", "alias", home=folder)
        cli(ollama, port, "create", "spoken:v1", "-f", modelfile, home=folder)
    return folder / "store"


@pytest.fixture
def stocked(machine: OllamaWorld, stock: Path) -> OllamaWorld:
    """A machine whose own store has `STOCK`."""
    shutil.copytree(stock, machine.store)
    return machine


def refs(world: World) -> list[str]:
    found = world.run("models", "--json").json["models"]
    return sorted(one["ref"] for one in found if one["source"] == "ollama")


def weights(world: OllamaWorld, size: int) -> Path:
    """The blob of the tiny model in the store."""
    [blob] = [p for p in (world.store / "blobs").iterdir() if p.stat().st_size == size]
    return blob


def servers_of(store: Path) -> list[int]:
    """Every `ollama serve` that has this store."""
    found: list[int] = []
    for pid in all_pids():
        if command_of(pid)[1:2] == ["serve"]:
            environ = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            found += [pid] if f"OLLAMA_MODELS={store}".encode() in environ else []
    return found


# --- pull --------------------------------------------------------------------------------------


def test_a_pull_needs_no_server(machine: OllamaWorld, registry: Registry) -> None:
    name = registry.push("lib/tiny", machine.model)

    ran = machine.run("models", "pull", name, "--insecure")

    assert ran.out.startswith(f"pulled {name} through the server at http://127.0.0.1:")
    assert f"{name}: pulling manifest" in ran.err
    assert refs(machine) == [name]
    assert servers_of(machine.store) == []
    machine.run("models", "verify", name)


def test_a_pull_as_json_is_a_line_for_each_step(machine: OllamaWorld, registry: Registry) -> None:
    name = registry.push("lib/tiny", machine.model)

    ran = machine.run("models", "pull", name, "--insecure", "--json")

    *steps, last = [json.loads(line) for line in ran.out.splitlines()]
    assert [steps[0]["status"], steps[-1]["status"]] == ["pulling manifest", "success"]
    assert (last["ok"], last["model"], last["instance"]) == (True, name, "")
    assert last["size_bytes"] > machine.model.stat().st_size
    assert ran.err == ""


def test_a_pull_goes_through_the_server_that_runs(
    machine: OllamaWorld, registry: Registry, ollama: str
) -> None:
    name = registry.push("lib/tiny", machine.model)
    port = machine.port()
    with running_ollama(machine.folder / "other", port, binary=ollama) as server:
        ran = machine.run("models", "pull", name, "--insecure", OLLAMA_HOST=f"127.0.0.1:{port}")
        assert f"through the server at http://127.0.0.1:{port}" in ran.out
        assert list(tags(port)) == [name]
        assert server.process.poll() is None
    assert not machine.store.exists()


def test_the_registry_says_why_itself(machine: OllamaWorld, registry: Registry) -> None:
    name = registry.push("lib/tiny", machine.model)

    absent = machine.run("models", "pull", f"{registry.host}/lib/none:1", "--insecure", ok=False)
    tls = machine.run("models", "pull", name, "--json", ok=False)
    nobody = machine.run(
        "models", "pull", f"127.0.0.1:{machine.port()}/lib/tiny", "--insecure", ok=False
    )
    no_name = machine.run("models", "pull", "./models/tiny.gguf", ok=False)

    assert absent.code == 2
    assert "pull model manifest: file does not exist" in absent.err
    assert "hint: the registry has no such model" in absent.err
    assert tls.code == 1
    document = json.loads(tls.out.splitlines()[-1])
    assert document["ok"] is False
    assert "--insecure" in document["hint"]
    assert nobody.code == 1
    assert "connection refused" in nobody.err
    assert no_name.code == 2
    assert "[HOST/NAMESPACE/]NAME[:TAG]" in no_name.err
    assert servers_of(machine.store) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_pull_leaves_no_server_and_goes_on_where_it_was(
    machine: OllamaWorld, registry: Registry, number: signal.Signals
) -> None:
    size = 4 << 20
    gguf = padded(machine.folder / "big.gguf", machine.model, size)
    name = registry.push("lib/big", gguf)
    registry.rate = 2 << 20
    with machine.begin("models", "pull", name, "--insecure", "--json") as pull:
        assert pull.stdout is not None
        steps = (json.loads(line) for line in pull.stdout)
        assert any(step.get("completed", 0) > 1 << 20 for step in steps)
        pull.send_signal(number)
        _, said = pull.communicate(timeout=20)

    assert pull.returncode == (130 if number != signal.SIGKILL else -signal.SIGKILL)
    assert "run it again" in said or number == signal.SIGKILL
    machine.until(lambda: not servers_of(machine.store), "its server is gone")
    assert refs(machine) == []

    before, registry.rate = sum(registry.served.values()), None
    machine.run("models", "pull", name, "--insecure")
    assert refs(machine) == [name]
    if number != signal.SIGKILL:
        assert sum(registry.served.values()) - before < size
    machine.run("models", "verify", name)


def test_a_pull_through_an_instance(machine: OllamaWorld, registry: Registry) -> None:
    name = registry.push("lib/tiny", machine.model)
    theirs = machine.folder / "theirs"
    config = {"attach": "never", "settings": {"models": str(theirs)}}
    profile = machine.ollamas({"o": config, "l": {"model": str(machine.model)}})
    machine.run("apply", profile)

    ran = machine.run("models", "pull", name, "--insecure", "--instance", "o")
    assert "through instance 'o'" in ran.out
    assert list(tags(machine.port_of("o"))) == [name]
    assert not machine.store.exists()

    for instance, code, said in (
        ("nope", 2, "unknown instance 'nope'"),
        ("l", 2, "is a llama-server"),
    ):
        ran = machine.run("models", "pull", name, "--instance", instance, ok=False)
        assert (ran.code, said in ran.err) == (code, True), ran.err
    machine.run("stop", "o")
    ran = machine.run("models", "pull", name, "--instance", "o", ok=False)
    assert ran.code == 1
    assert "is stopped, not ready" in ran.err


def test_without_any_ollama_it_says_so(machine: OllamaWorld) -> None:
    ran = machine.run(
        *("models", "pull", "tiny"), ok=False, PATH="/usr/bin:/bin", ORCHESTRATE_OLLAMA=""
    )
    assert ran.code == 2
    assert "no Ollama server answers, and none can be started" in ran.err
    assert "hint: " in ran.err


def test_a_bar_on_a_terminal(machine: OllamaWorld, registry: Registry) -> None:
    name = registry.push("lib/big", padded(machine.folder / "b.gguf", machine.model, 2 << 20))
    registry.rate = 2 << 20
    said = machine.on_a_terminal("models", "pull", name, "--insecure", columns=140)
    assert re.search(r"█+░+ +\d+%  [\d.]+ MiB of 2.0 MiB, [\d.]+ [KM]iB/s", said), said
    assert f"pulled {name}" in said


# --- rm ----------------------------------------------------------------------------------------


def test_rm_goes_through_ollama_and_keeps_what_others_share(stocked: OllamaWorld) -> None:
    size = stocked.model.stat().st_size

    ran = stocked.run("models", "rm", "tiny", "--yes", "--json")
    assert ran.json["removed"] == [
        {
            "ref": "tiny:latest",
            "source": "ollama",
            "path": str(stocked.store),
            "freed_bytes": 0,
        }
    ]
    assert refs(stocked) == ["alias:latest", "spoken:v1"]
    stocked.run("models", "verify")

    freed = stocked.run("models", "rm", "alias", "spoken:v1", "--yes", "--json").json["removed"]
    assert sum(one["freed_bytes"] for one in freed) > size
    assert list((stocked.store / "blobs").iterdir()) == []
    assert servers_of(stocked.store) == []


def test_rm_asks_and_without_a_terminal_wants_yes(stocked: OllamaWorld) -> None:
    ran = stocked.run("models", "rm", "tiny", ok=False)
    assert ran.code == 2
    assert "add --yes" in ran.err

    code, said = answered(stocked, "n", "models", "rm", "tiny")
    assert code == 1
    assert "tiny:latest" in said
    assert refs(stocked) == sorted(STOCK)

    code, said = answered(stocked, "y", "models", "rm", "tiny")
    assert code == 0, said
    assert refs(stocked) == ["alias:latest", "spoken:v1"]


def answered(world: World, answer: str, *words: str) -> tuple[int, str]:
    """Exit code and what it says, of a command that asks somebody at a terminal."""
    ours, theirs = pty.openpty()
    try:
        os.write(ours, f"{answer}\n".encode())
        done = subprocess.run(
            world.command(*words),
            cwd=world.folder,
            env=world.env,
            stdin=theirs,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
    finally:
        os.close(ours)
        os.close(theirs)
    return done.returncode, done.stdout + done.stderr


def test_rm_refuses_what_is_declared_or_loaded(stocked: OllamaWorld, ollama: str) -> None:
    port = stocked.port()
    usual = f"127.0.0.1:{port}"
    profile = stocked.profile({"l": {"model": "alias"}})
    stocked.run("apply", profile)
    with running_ollama(stocked.folder / "h", port, binary=ollama, store=stocked.store):
        generate(port, "tiny", keep_alive=-1)
        for ref, why in (("alias", "instance 'l'"), ("tiny", "has it loaded")):
            ran = stocked.run(
                "models", "rm", ref, "spoken:v1", "--yes", ok=False, OLLAMA_HOST=usual
            )
            assert (ran.code, why in ran.err) == (2, True), ran.err
        assert refs(stocked) == sorted(STOCK)
        stocked.run("models", "rm", "tiny", "--yes", "--force", OLLAMA_HOST=usual)
        assert sorted(tags(port)) == ["alias:latest", "spoken:v1"]


def test_rm_of_files_keeps_to_its_own_folders(machine: OllamaWorld) -> None:
    inside, outside = machine.folder / "models", machine.folder / "elsewhere"
    for number in (1, 2):
        write_small(inside / f"split-0000{number}-of-00002.gguf")
    write_small(inside / "deep" / "plain.gguf")
    write_small(outside / "theirs.gguf")
    write_small(machine.folder / "extra" / "more.gguf")
    (inside / "link.gguf").symlink_to(outside / "theirs.gguf")
    (inside / "folder").symlink_to(outside)

    for ref in ("link", outside / "theirs.gguf", inside / "folder" / "theirs.gguf"):
        ran = machine.run("models", "rm", ref, "plain", "--yes", ok=False)
        assert ran.code == 2
        assert "lies outside of the folders" in ran.err
        assert str(outside / "theirs.gguf") in ran.err
    assert (inside / "deep" / "plain.gguf").exists()

    extra = str(machine.folder / "extra")
    machine.run("models", "rm", "split", "plain", "more", "--yes", ORCHESTRATE_MODELS=extra)
    left = [path for path in inside.rglob("*") if path.is_file() or path.is_symlink()]
    assert sorted(path.name for path in left) == ["folder", "link.gguf"]
    assert (outside / "theirs.gguf").exists()
    assert os.listdir(extra) == []


def test_rm_refuses_a_file_that_an_applied_profile_runs(machine: OllamaWorld) -> None:
    path = machine.folder / "models" / "mine.gguf"
    path.parent.mkdir()
    shutil.copy(machine.model, path)
    machine.run("apply", machine.profile({"l": {"model": str(path)}}))
    ran = machine.run("models", "rm", "mine", "--yes", ok=False)
    assert ran.code == 2
    assert "instance 'l' of the applied profiles" in ran.err
    machine.run("models", "rm", "mine", "--yes", "--force")
    assert not path.exists()


# --- prune -------------------------------------------------------------------------------------


def listed(world: World, *words: str, host: str = "") -> dict[str, Any]:
    usual = host or world.env["OLLAMA_HOST"]
    found = world.run("models", "prune", "--json", *words, OLLAMA_HOST=usual).json
    return {**found, "models": {one["ref"]: one["frees_bytes"] for one in found["models"]}}


def test_prune_lists_what_is_really_freed_and_deletes_only_with_yes(stocked: OllamaWorld) -> None:
    size = stocked.model.stat().st_size
    write_small(stocked.folder / "models" / "plain.gguf")

    whole = listed(stocked)
    assert set(whole["models"]) == set(STOCK)
    assert whole["frees_bytes"] == sum(
        p.stat().st_size for p in (stocked.store / "blobs").iterdir()
    )
    assert refs(stocked) == sorted(STOCK)

    stocked.write("profiles/p.yaml", "instances: {o: {engine: ollama, models: [tiny]}}\n")
    some = listed(stocked)
    assert set(some["models"]) == {"alias:latest", "spoken:v1"}
    assert some["frees_bytes"] < size

    assert listed(stocked, "--yes")["deleted"] is True
    assert refs(stocked) == ["tiny:latest"]
    assert (stocked.folder / "models" / "plain.gguf").exists()
    stocked.run("models", "verify", "tiny")
    assert "nothing to prune" in stocked.run("models", "prune").out
    assert servers_of(stocked.store) == []


def test_prune_keeps_what_any_profile_builds_upon_or_runs(stocked: OllamaWorld) -> None:
    stocked.write("profiles/Modelfile", "FROM tiny\nSYSTEM x\n")
    mine = "{engine: ollama, models: [{name: mine, modelfile: Modelfile}]}"
    stocked.write("profiles/a.yaml", f"instances: {{o: {mine}}}\n")
    stocked.write("profiles/b.yaml", "instances: {l: {model: 'spoken:v1'}}\n")
    assert set(listed(stocked)["models"]) == {"alias:latest"}


def test_what_an_applied_instance_declares_is_safe(stocked: OllamaWorld) -> None:
    alias = {"name": "mine", "alias": "spoken:v1"}
    stocked.run("apply", stocked.ollamas({"o": {"attach": "never", "models": ["tiny", alias]}}))
    assert set(listed(stocked)["models"]) == {"alias:latest"}
    for ref in ("tiny", "mine", "spoken:v1"):
        ran = stocked.run("models", "rm", ref, "--yes", ok=False)
        assert ran.code == 2
        assert "instance 'o' of the applied profiles declares it" in ran.err
    stocked.run("models", "prune", "--yes")
    assert sorted(tags(stocked.port_of("o"))) == ["mine:latest", "spoken:v1", "tiny:latest"]
    assert stocked.status()["converged"]


def test_prune_keeps_what_a_server_has_loaded_by_its_blob(
    stocked: OllamaWorld, ollama: str
) -> None:
    port = stocked.port()
    with running_ollama(stocked.folder / "h", port, binary=ollama, store=stocked.store):
        generate(port, "tiny", keep_alive=-1)
        assert listed(stocked, host=f"127.0.0.1:{port}")["models"] == {}
    assert set(listed(stocked)["models"]) == set(STOCK)


def test_prune_says_nothing_when_a_profile_is_invalid(stocked: OllamaWorld) -> None:
    path = stocked.write("profiles/bad.yaml", "instances: {o: {engne: ollama}}\n")
    ran = stocked.run("models", "prune", "--yes", ok=False)
    assert ran.code == 2
    assert f"{path} is invalid" in ran.err

    mine = "{engine: ollama, models: [{name: mine, modelfile: Modelfile}]}"
    stocked.write("profiles/bad.yaml", f"instances: {{o: {mine}}}\n")
    assert "Modelfile cannot be read" in stocked.run("models", "prune", "--yes", ok=False).err
    stocked.write("profiles/Modelfile", "SYSTEM x\n")
    assert "there is no FROM line" in stocked.run("models", "prune", "--yes", ok=False).err
    assert refs(stocked) == sorted(STOCK)


# --- verify ------------------------------------------------------------------------------------


def test_verify_names_each_fault_with_what_to_do(stocked: OllamaWorld) -> None:
    whole = stocked.run("models", "verify")
    assert whole.out.startswith("all whole: ")

    blob = weights(stocked, stocked.model.stat().st_size)
    content = blob.read_bytes()
    blob.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    cut = write_small(stocked.folder / "models" / "cut.gguf")
    os.truncate(cut, cut.stat().st_size - 10)
    write_small(stocked.folder / "models" / "half-00001-of-00002.gguf")

    ran = stocked.run("models", "verify", "--json", ok=False)
    assert ran.code == 1
    faults = {os.path.basename(one["path"]): one for one in ran.json["faults"]}
    assert set(faults) == {blob.name, "cut.gguf", "half-00001-of-00002.gguf"}
    assert sorted(faults[blob.name]["refs"]) == sorted(STOCK)
    assert "models pull" in faults[blob.name]["hint"]
    assert "is cut short" in faults["cut.gguf"]["message"]
    assert "download or copy it again" in faults["cut.gguf"]["hint"]

    text = stocked.run("models", "verify", ok=False).out
    assert f"{blob} is not what its digest says" in text
    assert "3 faults in " in text


def test_verify_of_one_model_reads_only_that(stocked: OllamaWorld) -> None:
    write_small(stocked.folder / "models" / "plain.gguf")
    os.truncate(write_small(stocked.folder / "models" / "cut.gguf"), 100)
    assert stocked.run("models", "verify", "plain", "--json").json["files"] == 1
    assert stocked.run("models", "verify", "tiny", "--json").json["bytes_read"] > 400_000
    assert stocked.run("models", "verify", "cut", ok=False).code == 1
    assert stocked.run("models", "verify", "nope", ok=False).code == 2


def test_what_is_damaged_is_mended_by_what_the_hint_says(
    machine: OllamaWorld, registry: Registry
) -> None:
    name = registry.push("lib/tiny", machine.model)
    machine.run("models", "pull", name, "--insecure")
    blob = weights(machine, machine.model.stat().st_size)

    blob.unlink()
    [fault] = machine.run("models", "verify", "--json", name, ok=False).json["faults"]
    assert fault["reason"] == "vanished"
    machine.run("models", "pull", name, "--insecure")
    machine.run("models", "verify")

    blob.write_bytes(bytes(blob.stat().st_size))
    [fault] = machine.run("models", "verify", "--json", name, ok=False).json["faults"]
    words = fault["hint"].partition(", then ")[0].removeprefix("orchestrate ").split()
    machine.run(*words)
    machine.run("models", "pull", name, "--insecure")
    machine.run("models", "verify")

    os.truncate(blob, 10)
    ran = machine.run("models", "pull", name, "--insecure", ok=False)
    assert ran.code == 1
    assert "has 10 bytes where its manifest says" in ran.err
    assert f"models rm {name} --force" in ran.err


def test_verify_is_quick_to_end(machine: OllamaWorld) -> None:
    digest = "0" * 64
    (machine.store / "blobs").mkdir(parents=True)
    with (machine.store / "blobs" / f"sha256-{digest}").open("wb") as file:
        file.truncate(1 << 40)
    manifest = machine.store / "manifests/registry.ollama.ai/library/huge/latest"
    manifest.parent.mkdir(parents=True)
    layer = {
        "mediaType": "application/vnd.ollama.image.model",
        "digest": f"sha256:{digest}",
        "size": 1 << 40,
    }
    manifest.write_text(json.dumps({"layers": [layer]}))
    said = machine.on_a_terminal("models", "verify", "huge", until="verifying")
    assert "1.0 TiB" in said


# --- what llama-server cannot run --------------------------------------------------------------


def test_a_blob_runs_in_place_and_what_cannot_is_refused(stocked: OllamaWorld) -> None:
    _with_adapter(stocked)
    rows = {one["ref"]: one for one in stocked.run("models", "--json").json["models"]}
    assert "has an adapter" in rows["tuned:latest"]["unfit"]
    assert rows["tuned:latest"]["engine_hint"] == "ollama"
    assert rows["tiny:latest"]["unfit"] == ""
    assert "has an adapter" in stocked.run("models").out
    assert "ollama only" in stocked.run("models", "show", "tuned").out

    bad = stocked.profile({"l": {"model": "tuned"}}, name="bad.yaml")
    ran = stocked.run("validate", bad, ok=False)
    assert ran.code == 2
    assert "'tuned' cannot run on llama-server: it has an adapter" in ran.err + ran.out
    assert "engine: ollama" in ran.err + ran.out

    stocked.run("apply", stocked.profile({"l": {"model": "tiny:latest", "port": stocked.port()}}))
    row = stocked.instance("l")
    assert str(stocked.store / "blobs") in " ".join(row["command"])
    assert stocked.complete(row["port"])


def _with_adapter(world: OllamaWorld) -> None:
    """A tag of which Ollama applies an adapter on top of a base, as older versions made them."""
    library = world.store / "manifests/registry.ollama.ai/library"
    document = json.loads((library / "tiny" / "latest").read_text())
    base = next(one for one in document["layers"] if one["mediaType"].endswith(".model"))
    document["layers"].append({**base, "mediaType": "application/vnd.ollama.image.adapter"})
    (library / "tuned").mkdir()
    (library / "tuned" / "latest").write_text(json.dumps(document))


def test_who_has_a_model_loaded_is_shown(stocked: OllamaWorld) -> None:
    model = {"name": "tiny", "preload": True}
    stocked.run("apply", stocked.ollamas({"o": {"attach": "never", "models": [model]}}))
    rows = {one["ref"]: one for one in stocked.run("models", "--json").json["models"]}
    assert rows["tiny:latest"]["loaded_by"] == ["o"]
    assert rows["spoken:v1"]["loaded_by"] == []
    assert "LOADED BY" in stocked.run("models").out


@pytest.mark.parametrize("known", ["applied", "in the profiles folder"])
def test_stores_that_profiles_name_are_looked_into(
    machine: OllamaWorld, stock: Path, known: str
) -> None:
    shutil.copytree(stock, machine.folder / "other")
    settings = {"attach": "never", "settings": {"models": str(machine.folder / "other")}}
    if known == "applied":
        machine.run("apply", machine.ollamas({"o": settings}))
    else:
        machine.ollamas({"o": settings}, file="profiles/p.yaml")

    assert refs(machine) == sorted(STOCK)
    shown = machine.run("models", "show", "tiny:latest", "--json").json
    assert shown["path"].startswith(str(machine.folder / "other"))
    verified = machine.run("models", "verify", "tiny:latest", "--json").json
    assert verified["bytes_read"] > machine.model.stat().st_size


def test_damage_of_a_running_instances_model_is_mended_by_it(ollama_world: OllamaWorld) -> None:
    """Found by hand, without `verify:`: the instance makes it again of what it was made of."""
    world = ollama_world
    made = {"name": "mine", "gguf": str(world.model)}
    world.run("apply", world.ollamas({"o": {"models": [made]}}))
    size = world.model.stat().st_size
    blob = next(p for p in (world.store / "blobs").iterdir() if p.stat().st_size == size)
    content = blob.read_bytes()
    # Not in place: it may be the very file that it was made of.
    blob.unlink()
    blob.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    ran = world.run("models", "verify", "--json", ok=False)
    assert (ran.code, ran.json["instances"]) == (1, ["o"])
    world.until(lambda: blob.exists() and blob.read_bytes() == content, "it is whole again")
    world.until_converged()
    reasons = [e["reason"] for e in world.events("o") if e["type"] == "model"]
    assert "corrupt" in reasons
    assert world.run("models", "verify").code == 0
