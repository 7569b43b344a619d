"""`orchestrate export`: what another world would run, as that world reads it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.machine_has import needs_program
from tests.world import World

RICH = """\
name: coding
vars: {key: "${env:API_KEY}"}
defaults:
  llama-server: {flags: {api-key: "${key}"}}
instances:
  coder:
    model: ../models/tiny.gguf
    port: 8081
    resources: {memory: 1GiB, gpus: [0, 2]}
    limits: {memory: {max: 2GiB}}
    stop: {grace: 40s}
  embed:
    model: ../models/tiny.gguf
    port: 8082
    flags: {alias: "${env:ALIAS:-cost $5}"}
    resources: {memory: 512MiB}
    limits: {memory: {max: 1GiB}}
"""

DAEMON = 160 << 20
GIB = 1 << 30


@pytest.fixture
def rich(world: World) -> Path:
    """A profile with something of everything, and its model."""
    models = world.folder / "models"
    models.mkdir()
    (models / "tiny.gguf").write_bytes(world.model.read_bytes())
    return world.write("profiles/coding.yaml", RICH)


def exported(world: World, kind: str, *words: object) -> str:
    """What is printed; the same whenever it is asked for."""
    first = world.run("export", kind, *words, API_KEY="sesame")
    assert world.run("export", kind, *words, API_KEY="another").out == first.out
    assert "sesame" not in first.out + first.err
    return first.out


def composed(world: World, text: str) -> dict[str, Any]:
    """As compose reads it."""
    file = world.write("out/compose.yaml", text)
    done = subprocess.run(
        ["docker-compose", "-f", str(file), "config"],
        env={**os.environ, "API_KEY": "sesame"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return yaml.safe_load(done.stdout)


@needs_program("docker-compose")
def test_compose(world: World, rich: Path) -> None:
    document = composed(world, exported(world, "compose", "coding", "--image", "here/it:1"))
    (service,) = document["services"].values()
    assert list(document["services"]) == ["coding"]
    assert service["image"] == "here/it:1"
    assert service["command"] == [str(rich)]
    assert service["environment"]["API_KEY"] == "sesame"
    assert service["environment"]["ALIAS"] is None
    assert service["stop_grace_period"] == "45s"
    assert [port.removesuffix("/tcp") for port in service["ports"]] == [
        "127.0.0.1:8081:8081",
        "127.0.0.1:8082:8082",
    ]
    assert service["mem_limit"] == DAEMON + 3 * GIB
    assert service["mem_reservation"] == DAEMON + GIB + GIB // 2
    (device,) = service["deploy"]["resources"]["reservations"]["devices"]
    assert device["count"] == 3
    folders = {one["target"]: one for one in service["volumes"]}
    assert folders["/state"]["type"] == "volume"
    for folder in (world.folder / "profiles", world.folder / "models"):
        assert folders[str(folder)]["source"] == str(folder)
        assert folders[str(folder)]["read_only"]


@needs_program("docker-compose")
def test_models_that_are_found_by_name_are_found_there(world: World) -> None:
    shelf, hub = world.folder / "shelf", world.folder / ".cache/huggingface/hub"
    blob = hub / "models--org--it/blobs/abc"
    snapshot = hub / "models--org--it/snapshots/1/it-Q4_K_M.gguf"
    for path in (shelf, blob.parent, snapshot.parent):
        path.mkdir(parents=True)
    blob.write_bytes(world.model.read_bytes())
    snapshot.symlink_to("../../blobs/abc")
    (shelf / "big one.gguf").write_bytes(world.model.read_bytes())
    profile = world.write(
        "$odd/p.yaml",
        "instances:\n  a: {model: 'big one', port: 8081}\n  b: {model: 'hf:org/it', port: 8082}\n",
    )
    ran = world.run("export", "compose", profile, ORCHESTRATE_MODELS=str(shelf))
    (service,) = composed(world, ran.out)["services"].values()
    environment = service["environment"]
    assert environment["ORCHESTRATE_MODELS"] == str(shelf)
    assert environment["HF_HUB_CACHE"] == str(hub)
    # `docker-compose config` prints what it read so that it can be read again.
    folders = {one["target"].replace("$$", "$"): one["source"] for one in service["volumes"]}
    assert {str(shelf), str(hub), f"{world.folder}/$odd"} <= set(folders)


def manifests(text: str) -> dict[str, Any]:
    return {one["kind"]: one for one in yaml.safe_load_all(text)}


def validated(world: World, text: str) -> None:
    """Against the schemas of Kubernetes, nothing unknown allowed."""
    file = world.write("out/k8s.yaml", text)
    command = [str(Path(sys.executable).parent / "kubernetes-validate"), "--strict", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr + done.stdout


def test_kubernetes(world: World, rich: Path) -> None:
    text = exported(world, "kubernetes", rich, "--models", "shelf")
    validated(world, text)
    made = manifests(text)
    assert made["ConfigMap"]["data"] == {"coding.yaml": RICH}
    deployment = made["Deployment"]["spec"]
    assert deployment["strategy"] == {"type": "Recreate"}
    pod = deployment["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] == 45
    (container,) = pod["containers"]
    variables = {one["name"]: one for one in container["env"]}
    assert variables["API_KEY"]["valueFrom"]["secretKeyRef"] == {
        "name": "coding-env",
        "key": "API_KEY",
        "optional": False,
    }
    assert variables["ALIAS"]["valueFrom"]["secretKeyRef"]["optional"]
    assert container["resources"]["limits"] == {
        "memory": str(DAEMON + 3 * GIB),
        "nvidia.com/gpu": 3,
    }
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    claims = [one for one in pod["volumes"] if "persistentVolumeClaim" in one]
    assert claims[0]["persistentVolumeClaim"]["claimName"] == "shelf"
    assert {one["port"] for one in made["Service"]["spec"]["ports"]} == {8081, 8082}


def test_what_will_not_be_so_there_is_said(world: World) -> None:
    profile = world.write(
        "p.yaml",
        "instances:\n"
        "  auto: {model: /far/away.gguf}\n"
        "  near: {model: tiny, port: 8080, host: 127.0.0.1, binary: /opt/llama-server}\n",
    )
    ran = world.run("export", "kubernetes", profile)
    validated(world, ran.out)
    assert "Service" not in manifests(ran.out)
    for said in (
        "p.yaml:2:3: auto has no port that is known beforehand",
        "p.yaml:2:10: auto names a model by its path, /far/away.gguf",
        "p.yaml:3:35: near listens on 127.0.0.1",
        "near runs /opt/llama-server, which has to be in the image",
    ):
        assert said in ran.err


@pytest.mark.parametrize(
    ("where", "line"),
    [
        ("flags: {api-key: sesame}", 4),
        ("args: [--api-key, sesame]", 4),
        ("args: ['--api-key=sesame']", 4),
        ("env: {HF_TOKEN: sesame}", 4),
        ("flags: {api-key: '${word}'}", 4),
    ],
)
def test_secrets_in_a_profile_are_not_carried_into_a_config_map(
    world: World, where: str, line: int
) -> None:
    text = f"vars: {{word: sesame}}\ninstances:\n  a:\n    {where}\n    model: tiny\n"
    profile = world.write("p.yaml", text)
    ran = world.run("export", "kubernetes", profile, ok=False)
    assert ran.code == 2
    assert ran.out == ""
    assert f"p.yaml:{line}:" in ran.err
    assert "write ${env:NAME}" in ran.err


@pytest.mark.parametrize("kind", ["compose", "kubernetes", "systemd"])
def test_what_is_wrong_is_not_exported(world: World, kind: str) -> None:
    profile = world.write("p.yaml", "instances: {a: {model: tiny, prot: 1}}")
    ran = world.run("export", kind, profile, ok=False)
    assert (ran.code, ran.out) == (2, "")
    assert "did you mean 'port'?" in ran.err
    missing = world.run("export", kind, "nowhere.yaml", ok=False)
    assert (missing.code, missing.out) == (2, "")


def test_several_profiles_are_one_service(world: World, rich: Path) -> None:
    world.write("profiles/more.yaml", f"instances: {{x: {{model: {world.model}, port: 8090}}}}")
    text = exported(world, "kubernetes", world.folder / "profiles", "--name", "all")
    validated(world, text)
    made = manifests(text)
    assert set(made["ConfigMap"]["data"]) == {"coding.yaml", "more.yaml"}
    assert made["Deployment"]["metadata"]["name"] == "all"
    bad = world.run("export", "kubernetes", rich, "--name", "Not_This", ok=False, API_KEY="x")
    assert bad.code == 2
    assert "cannot be a name there" in bad.err


GATEWAY = """\
gateway: {port: 8080, token: "${env:API_KEY}"}
defaults: {llama-server: {start: on-demand}}
instances:
  a: {model: ../models/tiny.gguf, port: auto}
  b: {model: ../models/tiny.gguf, port: auto, idle: 10m}
"""


@needs_program("docker-compose")
def test_a_gateway_is_what_a_compose_file_publishes(world: World, rich: Path) -> None:
    profile = world.write("profiles/gate.yaml", GATEWAY)

    text = exported(world, "compose", profile)

    (service,) = composed(world, text)["services"].values()
    assert [port.removesuffix("/tcp") for port in service["ports"]] == ["127.0.0.1:8080:8080"]
    assert service["environment"]["API_KEY"] == "sesame"
    assert service["stop_grace_period"] == "45s"
    assert world.run("export", "compose", profile, API_KEY="x").err == ""


def test_a_gateway_is_what_a_service_leads_to(world: World, rich: Path) -> None:
    profile = world.write("profiles/gate.yaml", GATEWAY.replace("../models/", ""))

    text = exported(world, "kubernetes", profile)

    validated(world, text)
    made = manifests(text)
    port = {"name": "gateway-8080", "port": 8080, "targetPort": "gateway-8080"}
    assert made["Service"]["spec"]["ports"] == [port]
    (container,) = made["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert {"name": "gateway-8080", "containerPort": 8080} in container["ports"]
