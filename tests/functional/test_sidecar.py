"""The sidecar in a real Docker: built, brought up by compose, edited, killed, stopped.

No image is pulled and nothing downloaded: see tests/docker_daemon.py. What docs/docker.md tells to
type is what is typed here.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import docker_daemon
from tests.docker_daemon import BASE, ROOT, Docker, NoDockerError, said
from tests.machine_has import needs_program

pytestmark = [
    needs_program("dockerd", "docker-compose", "debootstrap", "curl"),
    pytest.mark.timeout(900),
]

IMAGE = "orchestrate-sidecar"
LARGEST = 350_000_000
PATIENCE = 90.0
PAGE = ROOT / "docs" / "docker.md"


@pytest.fixture(scope="module")
def docker() -> Iterator[Docker]:
    try:
        with docker_daemon.running_docker() as running:
            running.run("import", docker_daemon.base_tarball(), BASE)
            yield running
    except NoDockerError as error:
        pytest.skip(f"DOCKERD CANNOT RUN HERE ({error}): the sidecar was not tested")


class Project:
    """A checkout with a compose file, and what is brought up of it."""

    def __init__(self, docker: Docker, folder: Path) -> None:
        self.docker = docker
        self.folder = docker_daemon.context(folder)
        for name in ("compose.yaml", "models", "profiles", "docs"):
            source = ROOT / name
            if source.is_dir():
                ignore = shutil.ignore_patterns("__pycache__", "*.gguf")
                shutil.copytree(source, folder / name, ignore=ignore)
            else:
                shutil.copy(source, folder)
        self.env = {**docker.env, "BASE": BASE, "COMPOSE_PROJECT_NAME": "story"}

    def shell(self, line: str, *, timeout: float = 300) -> str:
        """A line as it is typed, on the machine of the daemon."""
        line = re.sub(r"\bdocker compose\b", "docker-compose", line)
        # What is typed has a terminal, which a test has not.
        line = re.sub(r"\b(docker-compose (?:exec|run))\b", r"\1 -T", line)
        line = re.sub(r"^python ", f"PYTHONPATH={ROOT} {sys.executable} ", line)
        enter = ["nsenter", "--target", str(self.docker.pid), "--net", "sh", "-euc"]
        return said([*enter, f"cd {shlex.quote(str(self.folder))}; {line}"], self.env)

    def compose(self, *words: object) -> str:
        return self.shell(shlex.join(["docker-compose", *map(str, words)]))

    def container(self, service: str = "llm") -> str:
        return self.compose("ps", "--all", "--quiet", service)

    def orchestrate(self, *words: object) -> str:
        return self.docker.run("exec", self.container(), "orchestrate", *words)

    def rows(self) -> dict[str, dict[str, Any]]:
        document = json.loads(self.orchestrate("status", "--json"))
        return {row["name"]: row for row in document["instances"]}

    def context_length(self, port: int = 8080) -> int:
        """What the server says that it runs with, through the published port."""
        asked = f"http://127.0.0.1:{port}/props"
        props = self.docker.inside("curl", "--silent", "--fail", "--max-time", 10, asked)
        return json.loads(props)["default_generation_settings"]["n_ctx"]


@pytest.fixture(scope="module")
def project(docker: Docker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """Brought up as the page says, and taken down as it says."""
    folder = tmp_path_factory.mktemp("sidecar")
    folder.parent.chmod(0o755)
    made = Project(docker, folder / "checkout")
    try:
        began = time.monotonic()
        made.compose("build", "llm")
        print(f"\nbuilt in {time.monotonic() - began:.0f} s")
        for line in steps("From a folder to an answer"):
            made.shell(line)
        yield made
    finally:
        made.compose("down", "--volumes", "--timeout", 5)


def steps(head: str) -> list[str]:
    """The commands of the first block under a heading of the page."""
    section = PAGE.read_text().split(f"## {head}\n", 1)[1].split("\n## ", 1)[0]
    block = re.search(r"^```console\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    assert block is not None
    return [line[2:] for line in block[1].splitlines() if line.startswith("$ ")]


def until(what: Callable[[], Any], why: str, patience: float = PATIENCE) -> Any:
    end = time.monotonic() + patience
    while not (seen := what()):
        assert time.monotonic() < end, f"never came: {why}"
        time.sleep(0.25)
    return seen


def moment(text: str) -> datetime:
    """Docker has nanoseconds, Python has not."""
    return datetime.fromisoformat(re.sub(r"(\.\d{6})\d*Z", r"\1+00:00", text))


def test_the_image_is_small_and_nobodys(project: Project) -> None:
    image = project.docker.inspect(IMAGE)

    print(
        f"\nimage: {image['Size'] / 1e6:.0f} MB, of which base "
        f"{project.docker.inspect(BASE)['Size'] / 1e6:.0f} MB"
    )
    assert image["Size"] < LARGEST
    assert image["Config"]["User"] == "10001:10001"
    assert "orchestrate wait --for ready --timeout 1s" in image["Config"]["Healthcheck"]["Test"][1]
    assert image["Config"]["Entrypoint"][-2:] == ["orchestrate", "serve"]
    assert "ORCHESTRATE_HOST=0.0.0.0" in image["Config"]["Env"]


def test_it_is_healthy_soon_and_the_app_has_its_answer(project: Project) -> None:
    state = project.docker.inspect(project.container())["State"]

    assert state["Health"]["Status"] == "healthy"
    first = next(one for one in state["Health"]["Log"] if one["ExitCode"] == 0)
    took = (moment(first["End"]) - moment(state["StartedAt"])).total_seconds()
    print(f"\nfrom the start of the container to healthy: {took:.2f} s")
    app = project.container("app")
    until(lambda: not project.docker.inspect(app)["State"]["Running"], "the app's end")
    logs = project.docker.run("logs", app)
    assert project.docker.inspect(app)["State"]["ExitCode"] == 0, logs
    assert re.fullmatch(r"Say hello in one sentence\. -> \S.*", logs, re.DOTALL)


def test_an_edit_on_the_host_swaps_what_it_changed(project: Project) -> None:
    profile = project.folder / "profiles" / "sidecar" / "chat.yaml"
    document = yaml.safe_load(profile.read_text())
    document["instances"]["other"] = {"model": "tiny", "port": 8081, "flags": {"ctx-size": 512}}
    replaced(profile, yaml.safe_dump(document))
    until(lambda: len(rows := project.rows()) == 2 and ready(rows), "two instances")
    before = project.rows()
    was = project.context_length()

    for line in steps("Hot-swap"):
        project.shell(line)

    assert project.context_length() == 2 * was
    after = project.rows()
    assert after["chat"]["pid"] != before["chat"]["pid"]
    assert after["other"]["pid"] == before["other"]["pid"]


def replaced(path: Path, text: str) -> None:
    """As editors do it: written beside, and renamed."""
    aside = path.with_suffix(".new")
    aside.write_text(text)
    aside.replace(path)


def ready(rows: dict[str, dict[str, Any]]) -> bool:
    return all(row["phase"] == "ready" for row in rows.values())


def test_an_engine_that_is_killed_comes_back(project: Project) -> None:
    before = project.rows()["chat"]

    project.docker.run("exec", project.container(), "sh", "-c", f"kill -9 {before['pid']}")

    def back() -> Any:
        row = project.rows()["chat"]
        return row["phase"] == "ready" and row["pid"] != before["pid"] and row

    row = until(back, "chat, by another process")
    assert row["restarts"] == before["restarts"] + 1


LOOK = """
import os
for pid in filter(str.isdecimal, os.listdir("/proc")):
    try: text = open(f"/proc/{pid}/stat").read()
    except OSError: continue
    fields = text.rpartition(")")[2].split()
    print(pid, fields[0], fields[1], text.split("(")[1].split(")")[0])
"""


def test_the_first_process_reaps_the_orphans(project: Project) -> None:
    """Of a shell that has ended, and of an engine that was killed (the test before this one)."""
    orphan = "(sleep 0.2; exit 3) & (setsid sleep 0.2) & exit 0"
    project.docker.run("exec", project.container(), "sh", "-c", orphan)

    def processes() -> list[list[str]]:
        text = project.docker.run("exec", project.container(), "python3", "-c", LOOK)
        return [line.split() for line in text.splitlines()]

    def none_is_left() -> bool:
        rows = processes()
        return not any(row[1] == "Z" or (row[3] == "sleep" and row[2] == "1") for row in rows)

    until(none_is_left, "no zombie")
    # And those of ours are as they were.
    assert ready(project.rows())


def test_what_docker_asks_says_no_at_once(project: Project) -> None:
    asked = project.docker.inspect(IMAGE)["Config"]["Healthcheck"]["Test"][1]
    container = project.container()
    project.orchestrate("stop", "chat")
    try:
        began = time.monotonic()
        code = said(
            ["docker", "exec", container, "sh", "-c", f"({asked}); echo $?"], project.docker.env
        )
        assert code.endswith("1")
        assert time.monotonic() - began < 15
    finally:
        project.orchestrate("start", "chat")


def test_it_stops_in_grace_and_starts_again(project: Project) -> None:
    container = project.container()

    began = time.monotonic()
    project.docker.run("stop", "--time", 30, container)
    took = time.monotonic() - began

    state = project.docker.inspect(container)["State"]
    assert state["ExitCode"] == 0
    assert not state["OOMKilled"]
    print(f"\nstopped in {took:.2f} s")
    assert took < 25
    said_last = project.docker.run("logs", "--tail", 20, container)
    project.docker.run("start", container)
    until(
        lambda: project.docker.inspect(container)["State"]["Health"]["Status"] == "healthy",
        f"healthy again, after {said_last}",
    )
    # The volume has kept what was before: stopped as asked, no crash among it.
    events = project.orchestrate("events", "--json", "-n", 200)
    kinds = [json.loads(line)["type"] for line in events.splitlines()]
    assert kinds.count("daemon-started") == 2
    assert all(row["restarts"] == 0 for row in project.rows().values())


@pytest.fixture
def alone(project: Project, tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Runs a container of the image as told, beside the project; all are removed."""
    made: list[str] = []
    tmp_path.chmod(0o755)

    def run(*words: object, profile: str, image: str = IMAGE, many: str = "profiles") -> str:
        folder = tmp_path / many
        folder.mkdir(exist_ok=True)
        (folder / "p.yaml").write_text(profile)
        models = f"{project.folder / 'models'}:/models:ro"
        mounts = ["--volume", models]
        if "/profiles" not in " ".join(map(str, words)):
            mounts += ["--volume", f"{folder}:/profiles:ro"]
        made.append(project.docker.run("run", "--detach", *mounts, *words, image))
        return made[-1]

    yield run
    for container in made:
        project.docker.run("rm", "--force", "--volumes", container)


TINY = "instances: {chat: {model: tiny, port: 8080, flags: {ctx-size: 1024}}}\n"


def healthy(docker: Docker, container: str) -> dict[str, Any]:
    """The only instance, once it is ready."""

    def look() -> Any:
        state = docker.inspect(container)["State"]
        assert state["Running"], docker.run("logs", container)
        return state["Health"]["Status"] == "healthy"

    until(look, f"healthy: {docker.run('logs', container)}")
    return json.loads(docker.run("exec", container, "orchestrate", "status", "--json"))[
        "instances"
    ][0]


def test_limits_of_the_container_are_respected(project: Project, alone: Callable[..., str]) -> None:
    docker = project.docker
    limits = ("--memory", "300m", "--cpus", "1", "--read-only", "--tmpfs", "/state")
    container = alone(*limits, "--user", "12345:0", "--cap-drop", "ALL", profile=TINY)

    row = healthy(docker, container)

    # Whoever the user is, and with nothing to write to but /state.
    assert "300 MiB" in docker.run("exec", container, "orchestrate", "doctor")
    command = " ".join(row["command"])
    assert "--threads 1" in command
    assert "--host 0.0.0.0" in command


def test_what_can_never_fit_is_refused_and_the_container_ends(
    project: Project, alone: Callable[..., str]
) -> None:
    docker = project.docker
    profile = "instances: {big: {model: tiny, resources: {memory: 2GiB}}}\n"
    container = alone("--memory", "300m", profile=profile)

    until(lambda: not docker.inspect(container)["State"]["Running"], "its end")

    assert docker.inspect(container)["State"]["ExitCode"] == 2
    logs = said(["sh", "-c", f"docker logs {container} 2>&1"], docker.env)
    assert "needs 2GiB of memory, more than the 300MiB of this cgroup" in logs


def test_a_single_file_is_seen_when_it_is_written_in_place(
    project: Project, alone: Callable[..., str], tmp_path: Path
) -> None:
    docker = project.docker
    file = tmp_path / "profiles" / "p.yaml"
    container = alone("--volume", f"{file}:/profiles/p.yaml:ro", profile=TINY)
    first = healthy(docker, container)

    file.write_text(TINY.replace("1024", "512"))

    def swapped() -> Any:
        text = docker.run("exec", container, "orchestrate", "status", "--json")
        row = json.loads(text)["instances"][0]
        return row["phase"] == "ready" and row["pid"] != first["pid"] and row

    assert "512" in until(swapped, "the edit")["command"]


def test_sigterm_counts_from_the_first_moment(project: Project, alone: Callable[..., str]) -> None:
    container = alone(profile=TINY)

    began = time.monotonic()
    project.docker.run("stop", "--time", 40, container)

    assert project.docker.inspect(container)["State"]["ExitCode"] in (0, 143)
    assert time.monotonic() - began < 30


POST = """
import sys, urllib.request
url = "http://127.0.0.1:" + sys.argv[1]
print(urllib.request.urlopen(url, sys.argv[2].encode()).read().decode())
"""
OLLAMA = """
instances:
  ollama:
    engine: ollama
    port: 11434
    models: [{name: tiny, gguf: tiny}]
"""


@pytest.mark.real
@pytest.mark.ollama
def test_the_other_engines_by_build_argument(
    project: Project, alone: Callable[..., str], ollama: str, tmp_path: Path
) -> None:
    docker = project.docker
    context = docker_daemon.context(tmp_path / "context", with_engines=True)
    engines = "ENGINE=llama-server,ollama"
    arguments = ["--build-arg", f"BASE={BASE}", "--build-arg", engines]
    docker.run("build", *arguments, "--tag", "other-engines", context)

    first = healthy(docker, alone(profile=TINY, image="other-engines"))
    both = alone(profile=OLLAMA, image="other-engines", many="ollama")
    second = healthy(docker, both)

    assert first["command"][0] == "/opt/engines/bin/llama-server"
    assert second["models"][0]["state"] == "present"
    ask = {"model": "tiny", "prompt": "hot", "stream": False, "options": {"num_predict": 4}}
    answer = docker.run("exec", both, "python3", "-c", POST, "11434/api/generate", json.dumps(ask))
    assert json.loads(answer)["done"]


def test_what_export_prints_comes_up_and_takes_edits(
    project: Project, model: Path, tmp_path: Path
) -> None:
    docker, folder = project.docker, tmp_path / "mine"
    (folder / "shelf").mkdir(parents=True)
    shutil.copy(model, folder / "shelf" / "tiny.gguf")
    profile = folder / "p.yaml"
    text = "instances: {a: {model: shelf/tiny.gguf, port: 8070, flags: {ctx-size: 256}}}\n"
    profile.write_text(text)
    export = [sys.executable, "-m", "orchestrator", "export", "compose", str(profile)]
    env = {**project.env, "COMPOSE_PROJECT_NAME": "exported", "PYTHONPATH": str(ROOT)}
    file = tmp_path / "compose.yaml"
    file.write_text(said(export, env))
    compose = ["docker-compose", "--file", str(file)]
    try:
        said([*compose, "up", "--detach"], env)
        container = said([*compose, "ps", "--quiet", "p"], env)
        healthy(docker, container)
        assert project.context_length(8070) == 256

        aside = folder / "aside"
        aside.write_text(text.replace("256", "512"))
        aside.replace(profile)
        status = ("exec", container, "orchestrate", "status", "--json")
        until(lambda: '"512"' in docker.run(*status), "the edit")
        docker.run("exec", container, "orchestrate", "wait", "--for", "ready")
        assert project.context_length(8070) == 512
    finally:
        said([*compose, "down", "--volumes"], env)
