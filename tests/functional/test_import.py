"""`orchestrate import`: from the configuration of another tool to servers that answer."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import urllib.request
from pathlib import Path

import pytest
import yaml
from openai import OpenAI

from tests.ollama_world import OllamaWorld, cli, running_ollama
from tests.stand_ins import stand_in
from tests.world import World

DATA = Path(__file__).parent.parent / "data" / "import"


@pytest.fixture
def desk(world: World) -> World:
    """A machine with a real llama-server and a model below `models`, where paths are relative."""
    (world.folder / "models").mkdir()
    (world.folder / "models" / "tiny.gguf").write_bytes(world.model.read_bytes())
    # The model's own port is one that nobody has here.
    world.env["SERVER_PORT"] = str(world.port())
    return world


def swap_config(world: World) -> Path:
    """Two models, one at a fixed port and with a key; and one that is none for us."""
    return world.write(
        "config.yaml",
        """\
macros:
  server: llama-server --port ${PORT} -c 256 -ngl 0
models:
  "Chat/Tiny":
    cmd: |
      ${server}
      # a comment
      --model models/tiny.gguf --no-warmup
  keyed:
    cmd: llama-server --port ${env.SERVER_PORT} -m models/tiny.gguf --api-key sk-hunter2 -c 128
    aliases: [locked]
  boxed:
    cmd: docker run llama
""",
    )


@pytest.mark.real
def test_llama_swap_to_servers_that_answer(desk: World) -> None:
    words = (swap_config(desk), "--listen", desk.port(), "-o", "profiles/swap.yaml")
    ran = desk.run("import", "llama-swap", *words)

    assert ran.out.splitlines() == [
        "wrote profiles/swap.yaml: chat-tiny, keyed",
        "next: orchestrate validate profiles/swap.yaml",
    ]
    assert f"{desk.folder}/config.yaml:13: not carried over: models.boxed: a container" in ran.err
    assert "hunter2" not in ran.out + ran.err + (desk.folder / "profiles/swap.yaml").read_text()
    unset = desk.run("validate", "swap", ok=False)
    assert "the environment variable LLAMA_API_KEY is not set" in unset.err
    desk.env["LLAMA_API_KEY"] = "sk-hunter2"
    assert desk.run("validate", "swap").err == ""

    desk.run("apply", "swap")
    desk.run("start", "chat-tiny", "keyed")
    row, keyed = desk.instance("chat-tiny"), desk.instance("keyed")
    assert desk.complete(row["port"])
    assert desk.props(row["port"])["default_generation_settings"]["n_ctx"] == 256
    assert keyed["port"] == int(desk.env["SERVER_PORT"])
    assert desk.answers(keyed["port"], "/props") == 401
    desk.run("down")


SWAP = """\
globalTTL: 600
apiKeys: [sk-hunter2]
models:
  Chat/Tiny: {cmd: "llama-server --port ${PORT} -m models/tiny.gguf -c 256", aliases: [small]}
  other: {cmd: "llama-server --port ${PORT} -m models/tiny.gguf -c 128", ttl: 0}
selectors:
  any: {strategy: warm, targets: [other, Chat/Tiny]}
hooks: {on_startup: {preload: [other]}}
"""


@pytest.mark.real
def test_clients_of_llama_swap_go_on_as_they_are(desk: World) -> None:
    desk.write("config.yaml", SWAP)
    port, key = desk.port(), "sk-hunter2"
    desk.env["GATEWAY_TOKEN"] = key

    ran = desk.run("import", "llama-swap", "config.yaml", "--listen", port, "-o", "swap.yaml")
    assert key not in ran.out + ran.err + (desk.folder / "swap.yaml").read_text()
    assert desk.run("validate", "swap.yaml").out.endswith("ok, 2 instances and a gateway\n")
    desk.run("apply", "swap.yaml")

    before = {row["name"]: (row["phase"], row["reason"]) for row in desk.status()["instances"]}
    assert before == {"chat-tiny": ("stopped", "idle"), "other": ("ready", "")}
    client = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=key, max_retries=0)
    served: dict[str, str | None] = {}
    with client:
        for name in ("other", "Chat/Tiny", "small", "any"):
            answer = client.completions.with_raw_response.create(
                model=name, prompt="hot", max_tokens=1
            )
            served[name] = answer.headers.get("x-orchestrate-instance")
            assert answer.parse().choices
        assert {"other", "Chat/Tiny", "small", "any"} <= {one.id for one in client.models.list()}
    assert served.pop("any") in ("other", "chat-tiny")
    assert served == {"other": "other", "Chat/Tiny": "chat-tiny", "small": "chat-tiny"}
    assert desk.answers(port, "/v1/models") == 401
    desk.run("down")


@pytest.mark.real
def test_a_router_to_servers_that_answer(desk: World) -> None:
    desk.write("preset.ini", "version = 1\n[*]\nc = 256\n[tiny]\nno-warmup = 1\n")
    words = ("preset.ini", "--models-dir", "models", "--listen", port := desk.port())

    ran = desk.run("import", "router", *words, "-o", "r.yaml")

    assert ran.err == ""
    desk.run("validate", "r.yaml")
    desk.run("apply", "r.yaml")
    assert desk.instance("tiny")["reason"] == "idle"
    with OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none") as client:
        assert client.completions.create(model="tiny", prompt="hot", max_tokens=1).choices
    direct = desk.instance("tiny")["port"]
    assert desk.props(direct)["default_generation_settings"]["n_ctx"] == 256
    desk.run("down")


ODD = """\
version = 1
[*]
c = 2048
no-warmup = true
parallel = 2        # slots
[first]
model = {model}
LLAMA_ARG_ENDPOINT_METRICS = 1
jinja = off
flash-attn = on
lora = /a#b
temp = 0.50
tags = code,local
[second]
model = /nowhere
c = 1
[second]
model = {model}
no-jinja = off
threads = 3
"""


@pytest.mark.real
def test_presets_are_read_as_llama_server_itself_reads_them(world: World) -> None:
    presets, port = world.write("odd.ini", ODD.format(model=world.model)), world.port()
    program = world.env["ORCHESTRATE_LLAMA_SERVER"]
    words = [program, "--models-preset", str(presets), "--host", "127.0.0.1", "--port", str(port)]
    with (
        open(world.folder / "router.log", "wb") as log,
        subprocess.Popen(words, env=world.env, stdout=log, stderr=log) as server,
    ):
        try:
            world.until(lambda: world.answers(port) == 200, "the router to answer")
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/models") as answer:
                rows = {one["id"]: one["status"]["args"] for one in json.load(answer)["data"]}
        finally:
            server.terminate()

    ours = world.run("import", "router", presets, "-o", "odd.yaml", "--json").json["profile"]
    shared = ours["defaults"]["llama-server"]["flags"]
    assert set(rows) == set(ours["instances"])
    for name, one in ours["instances"].items():
        said = {"model": one["model"], **shared, **one["flags"]}
        assert rendered(said) == settings(rows[name]), name


def rendered(flags: dict[str, object]) -> dict[str, str]:
    """Flags of a profile as words of a command line, switches with their value."""
    switch = {True: "on", False: "off"}
    return {k: switch[v] if isinstance(v, bool) else str(v) for k, v in flags.items()}


def settings(words: list[str]) -> dict[str, str]:
    """A command line as settings, less what the router adds of its own."""
    found: dict[str, str] = {}
    for word, after in itertools.pairwise([*words[1:], "--"]):
        if word.startswith("--"):
            bare = after.startswith("--")
            name = word[2:].removeprefix("no-") if bare else word[2:]
            found[name] = after if not bare else "off" if word.startswith("--no-") else "on"
    return {k: v for k, v in found.items() if k not in ("host", "port", "alias", "log-colors")}


def test_all_that_a_configuration_may_say_is_a_valid_profile(desk: World) -> None:
    for ref in ("hf:some/repo:Q4_K_M", "hf:some-org/Some-Model-GGUF:Q8_0"):
        stand_in(ref, home=desk.folder, folder=desk.folder / "models", tiny=desk.model)
    secrets = {"LLAMA_API_KEY": "k", "HF_TOKEN": "t", "SOME_TOKEN": "t"}
    secrets |= {"GATEWAY_TOKEN_1": "1", "TEAM_KEY": "2"}
    desk.env.update(MODEL_DIR=str(desk.folder / "models"), **secrets)

    for kind, name in (("llama-swap", "llama-swap.yaml"), ("router", "router.ini")):
        desk.run("import", kind, DATA / name, "--cwd", desk.folder, "-o", f"{kind}.yaml")
        assert desk.run("validate", f"{kind}.yaml").err == ""
    document = yaml.safe_load((desk.folder / "llama-swap.yaml").read_text())
    assert document["instances"]["twice"]["model"] == "hf:some/repo:Q4_K_M"


def test_it_is_printed_or_given_as_json(desk: World) -> None:
    config = swap_config(desk)

    printed = desk.run("import", "llama-swap", config)
    given = desk.run("import", "llama-swap", config, "--json")

    assert given.err == ""
    assert given.json["text"] == printed.out
    assert given.json["profile"] == yaml.safe_load(printed.out)
    assert given.json["file"] is None
    [boxed] = [one for one in given.json["remarks"] if one["kind"] == "lost"]
    assert boxed == {
        "kind": "lost",
        "file": str(config),
        "line": 13,
        "path": "models.boxed",
        "instance": "boxed",
        "message": "a container (docker): only programs of this machine are run",
    }
    written = desk.run("import", "llama-swap", config, "--json", "-o", "x.yaml").json
    assert Path(written["file"]).read_text() == printed.out


def test_it_overwrites_only_when_told_to(desk: World) -> None:
    config, mine = swap_config(desk), desk.write("mine.yaml", "# mine\n")
    (desk.folder / "link.yaml").symlink_to("nowhere")

    for target in ("mine.yaml", "link.yaml"):
        ran = desk.run("import", "llama-swap", config, "-o", target, ok=False)
        assert (ran.code, ran.out) == (2, "")
        assert f"error: {target} exists\nhint: --force overwrites it" in ran.err
    assert mine.read_text() == "# mine\n"

    desk.run("import", "llama-swap", config, "-o", "mine.yaml", "--force")
    assert "instances:" in mine.read_text()


def test_what_cannot_be_read_says_where(desk: World) -> None:
    desk.write("bad.ini", "[a]\nmodel = /x\nwhat is this\n")

    ran = desk.run("import", "router", "bad.ini", ok=False)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("bad.ini:3:1: this is no setting")

    given = desk.run("import", "router", "bad.ini", "--json", ok=False)
    assert [one["line"] for one in given.json["errors"]] == [3]
    assert (given.code, given.err) == (2, "")

    none = desk.run("import", "llama-swap", "none.yaml", ok=False)
    assert (none.code, none.err.splitlines()[0]) == (
        2,
        "error: none.yaml cannot be read: No such file or directory",
    )


def test_nothing_that_can_run_is_a_failure(desk: World) -> None:
    desk.write("c.yaml", "models: {a: {cmd: docker run x}}\n")

    ran = desk.run("import", "llama-swap", "c.yaml", "-o", "p.yaml", ok=False)

    assert ran.code == 1
    assert "c.yaml:1: not carried over: models.a: a container" in ran.err
    assert "error: nothing of it can be run here" in ran.err
    assert not (desk.folder / "p.yaml").exists()


def test_a_program_that_a_file_names_is_never_run(desk: World) -> None:
    program = desk.write("bin/llama-server", "#!/bin/sh\ntouch ran\n")
    program.chmod(0o755)
    desk.write(
        "c.yaml", "models: {a: {cmd: './bin/llama-server -m models/tiny.gguf $(touch ran)'}}\n"
    )

    document = yaml.safe_load(desk.run("import", "llama-swap", "c.yaml").out)

    assert document["instances"]["a"]["binary"] == str(program)
    assert not (desk.folder / "ran").exists()


def test_a_file_may_come_by_stdin(desk: World) -> None:
    done = subprocess.run(
        desk.command("import", "router", "-", "--json"),
        input=b"[a]\nmodel = models/tiny.gguf\n",
        env=desk.env,
        cwd=desk.folder,
        capture_output=True,
        timeout=60,
    )

    given = json.loads(done.stdout)
    assert given["profile"]["instances"]["a"]["model"] == str(desk.folder / "models/tiny.gguf")


# --- Ollama ------------------------------------------------------------------------------------


@pytest.mark.ollama
def test_an_ollama_with_its_environment_its_unit_and_its_store(ollama_world: OllamaWorld) -> None:
    world = ollama_world
    port, store = world.port(), world.folder / ".ollama/models"
    stand_in("llama3.1:8b", home=world.folder, folder=store, tiny=world.model)
    unit = ".config/systemd/user/ollama.service"
    world.write(unit, '[Service]\nEnvironment="OLLAMA_NUM_PARALLEL=2" "OLLAMA_NEW_THING=1"\n')
    world.write(f"{unit}.d/a.conf", f"[Service]\nEnvironmentFile={world.folder}/env\n")
    world.write("env", f"OLLAMA_HOST=127.0.0.1:{port}\nOLLAMA_MODELS={store}\n")
    for name in ("OLLAMA_HOST", "OLLAMA_MODELS", "XDG_CONFIG_HOME"):
        world.env.pop(name, None)
    world.env["OLLAMA_FLASH_ATTENTION"] = "1"

    ran = world.run("import", "ollama", "-o", "profiles/o.yaml")

    assert ran.err == ""
    document = yaml.safe_load((world.folder / "profiles/o.yaml").read_text())
    assert document == {
        "instances": {
            "ollama": {
                "engine": "ollama",
                "port": port,
                "attach": "auto",
                "settings": {"flash_attention": True, "models": str(store), "num_parallel": 2},
                "env": {"OLLAMA_NEW_THING": "1"},
                "models": ["llama3.1:8b"],
            }
        }
    }
    assert world.run("validate", "o").err == ""
    world.run("apply", "o")
    assert world.instance("ollama")["models"][0]["state"] == "present"
    world.run("down")


@pytest.mark.ollama
def test_a_server_that_runs_is_asked_for_its_models(ollama_world: OllamaWorld, ollama: str) -> None:
    world, port = ollama_world, ollama_world.port()
    world.env["OLLAMA_HOST"] = f"127.0.0.1:{port}"
    recipe = world.write("Modelfile", f"FROM {world.model}\n")
    with running_ollama(world.folder / "theirs", port, binary=ollama):
        cli(ollama, port, "create", "mine", "-f", recipe, home=world.folder)
        document = yaml.safe_load(world.run("import", "ollama").out)

    assert document["instances"]["ollama"]["models"] == ["mine:latest"]


def test_without_an_ollama_it_says_so(tmp_path: Path, model: Path) -> None:
    world = World(tmp_path, model, {**os.environ, "PATH": "/usr/bin:/bin"})
    world.env["OLLAMA_HOST"] = f"127.0.0.1:{world.port()}"

    ran = world.run("import", "ollama", ok=False)

    assert (ran.code, ran.out) == (1, "")
    assert "error: there is no Ollama here" in ran.err
