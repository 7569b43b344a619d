"""A Docker of the tests' own: a daemon, an image to begin with, and what a build is handed.

The daemon lives in namespaces of its own (processes, mounts, network), so that nothing of it shows
outside or outlives it: no bridge, no firewall rule, no mount. It needs root, and pulls nothing. The
base image is made by debootstrap once, and kept with the wheels beside the engines.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from tests import engines

ROOT = Path(__file__).parent.parent
KEPT = engines.default_folder() / "docker"
"""Looked up before any test changes HOME."""

PACKAGES = ("python3", "python3-venv", "ca-certificates", "libgomp1")
LEFT_OUT = (
    "var/cache/apt",
    "var/lib/apt/lists",
    "var/log",
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
    "usr/share/info",
    "dev/*",
)
BASE = "orchestrate-test-base"

STARTS_WITHIN = 60.0
SBIN = "/usr/sbin:/sbin"


class NoDockerError(Exception):
    """Why there can be no Docker here."""


class Docker:
    """A running daemon: `env` is what clients need to find it."""

    def __init__(self, folder: Path, pid: int) -> None:
        self.folder = folder
        self.pid = pid
        """The first process of its namespaces."""
        self.env = {
            # Nothing else: what a person has set would be taken for what the files ask for.
            "PATH": f"{os.environ['PATH']}:{SBIN}",
            "LANG": "C.UTF-8",
            "HOME": str(folder),
            "DOCKER_HOST": f"unix://{folder}/docker.sock",
            # Every Docker still has the classic builder; the newer one is not always there.
            "DOCKER_BUILDKIT": "0",
            "COMPOSE_DOCKER_CLI_BUILD": "0",
        }

    def run(self, *words: object, ok: bool = True, timeout: float = 300) -> str:
        """`docker ...`: what it says on stdout, without the last line's end."""
        return said(["docker", *map(str, words)], self.env, ok=ok, timeout=timeout)

    def inspect(self, name: str) -> Any:
        """All that is known of a container or an image."""
        return json.loads(self.run("inspect", name))[0]

    def inside(self, *words: object, timeout: float = 60) -> str:
        """A command in the network of the daemon's machine: where published ports are."""
        enter = ["nsenter", "--target", str(self.pid), "--net"]
        return said([*enter, *map(str, words)], self.env, timeout=timeout)


def said(
    command: Sequence[str], env: Mapping[str, str], *, ok: bool = True, timeout: float = 300
) -> str:
    """What a command says on stdout; with `ok`, a failure fails the test, with all it said."""
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=timeout)
    if ok:
        assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout.strip()


def obstacle() -> str:
    """What keeps a Docker from running on this machine; empty when nothing is known to."""
    if os.geteuid() != 0:
        return "not root"
    done = subprocess.run(
        ["unshare", *NAMESPACES, "sh", "-c", "mount -t tmpfs none /mnt && ip link set lo up"],
        capture_output=True,
        text=True,
    )
    return done.stderr.strip() if done.returncode else ""


PREPARED = """
ip link set lo up
# What it would leave there, whatever it is told.
mkdir -p /etc/docker && mount -t tmpfs none /etc/docker && mount -t tmpfs none /run
[ -z "$IN_MEMORY" ] || mount -t tmpfs none "$IN_MEMORY"
exec dockerd "$@"
"""
ROOMY = 8 << 30
"""Bytes of free memory from which on images are kept there: a build writes several times its size,
and a busy disk takes a minute for what memory takes a second for."""
NAMESPACES = ("--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc")


@contextmanager
def running_docker() -> Generator[Docker]:
    """A daemon, for as long as it is used. Raises `NoDockerError` when it does not start."""
    if why := obstacle():
        raise NoDockerError(why)
    # A short path: that of a socket may not be long.
    folder = Path(tempfile.mkdtemp(prefix="docker-", dir="/tmp"))
    with ExitStack() as stack:
        stack.callback(_remove, folder)
        process = _start(folder)
        stack.callback(_end, process)
        yield _answering(folder, process)


def _start(folder: Path) -> subprocess.Popen[bytes]:
    words = ["--data-root", folder / "data", "--exec-root", folder / "exec"]
    words += ["--pidfile", folder / "pid", "--host", f"unix://{folder}/docker.sock"]
    words += ["--cgroup-parent", f"/{folder.name}", "--config-file", folder / "none.json"]
    (folder / "none.json").write_text("{}")
    (folder / "data").mkdir()
    roomy = psutil.virtual_memory().available > ROOMY
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(
            ["unshare", *NAMESPACES, "sh", "-c", PREPARED, "dockerd", *map(str, words)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={
                **os.environ,
                "PATH": f"{os.environ['PATH']}:{SBIN}",
                "IN_MEMORY": str(folder / "data") if roomy else "",
            },
            start_new_session=True,
        )


def _answering(folder: Path, process: subprocess.Popen[bytes]) -> Docker:
    end = time.monotonic() + STARTS_WITHIN
    docker: Docker | None = None
    while process.poll() is None and time.monotonic() < end:
        if docker is None and (children := _children(process.pid)):
            docker = Docker(folder, children[0])
        if docker is not None and docker.run(
            "version", "--format", "{{.Server.Version}}", ok=False
        ):
            return docker
        time.sleep(0.1)
    lines = (folder / "log").read_text(errors="replace").strip().splitlines()
    raise NoDockerError(lines[-1] if lines else "dockerd said nothing")


def _children(pid: int) -> list[int]:
    with suppress(OSError):
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def _end(process: subprocess.Popen[bytes]) -> None:
    """Its first process, and with it all that are in its namespace."""
    for child in _children(process.pid):
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGTERM)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _remove(folder: Path) -> None:
    """Its files, and the cgroups that it has left empty."""
    shutil.rmtree(folder)
    for group in Path("/sys/fs/cgroup").glob(f"**/{folder.name}"):
        for inner in sorted(group.glob("**/"), reverse=True):
            with suppress(OSError):
                inner.rmdir()


@contextmanager
def kept(name: str) -> Generator[tuple[Path, bool]]:
    """Something that is made once, by one at a time: where it is, and whether it is there.

    Whoever makes it puts it into place at once, so that half of it is never there.
    """
    KEPT.mkdir(parents=True, exist_ok=True)
    with (KEPT / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield KEPT / name, (KEPT / name).exists()


def base_tarball() -> Path:
    """A minimal Debian with Python. Takes a minute the first time."""
    with kept(f"bookworm-{_digest(*PACKAGES, *LEFT_OUT)}.tar") as (tarball, there):
        if there:
            return tarball
        folder = Path(tempfile.mkdtemp(dir=KEPT))
        try:
            words = ["--variant=minbase", f"--include={','.join(PACKAGES)}", "bookworm"]
            env = {**os.environ, "PATH": f"{os.environ['PATH']}:{SBIN}"}
            said(["debootstrap", *words, str(folder / "root"), mirror()], env, timeout=600)
            left_out = [f"--exclude=./{name}" for name in LEFT_OUT]
            target = folder / "root.tar"
            said(["tar", "-C", str(folder / "root"), *left_out, "-cf", str(target), "."], env)
            target.rename(tarball)
        finally:
            shutil.rmtree(folder)
        return tarball


def mirror() -> str:
    """Where this machine has its Debian from."""
    places = sorted(Path("/etc/apt").glob("sources.list*/*"))
    for path in [*places, Path("/etc/apt/sources.list")]:
        for line in path.read_text().splitlines() if path.is_file() else ():
            words = line.split("#")[0].split()
            urls = [
                word for word in words if "://" in word and word.rstrip("/").endswith("/debian")
            ]
            if words[:1] in (["URIs:"], ["deb"]) and urls:
                return urls[0]
    return "http://deb.debian.org/debian"


def wheels() -> Path:
    """A folder with all that the image needs of the package index, for its Python."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    needed = [*project["build-system"]["requires"], *project["project"]["dependencies"]]
    needed += project["project"]["optional-dependencies"]["embedded"]
    with kept(f"wheels-{_digest(*needed)}") as (folder, there):
        if not there:
            part = Path(tempfile.mkdtemp(dir=KEPT))
            pip = [sys.executable, "-m", "pip", "download", "--quiet"]
            which = ["--only-binary=:all:", "--python-version", "3.11", "--dest", str(part)]
            said([*pip, *which, *needed], os.environ, timeout=600)
            part.chmod(0o755)
            part.rename(folder)
        return folder


def context(folder: Path, *, with_engines: bool = False) -> Path:
    """What a build is handed: a fresh checkout, and wheels, so that nothing is downloaded."""
    folder.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "Dockerfile", ".dockerignore"):
        shutil.copy(ROOT / name, folder)
    leave = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "orchestrator", folder / "orchestrator", ignore=leave)
    shutil.copytree(wheels(), folder / "wheels", copy_function=os.link)
    if with_engines:
        server, ollama = engines.llama_server_path(KEPT.parent), engines.ollama_path(KEPT.parent)
        assert server is not None
        assert ollama is not None
        (folder / "engines").mkdir()
        shutil.copytree(Path(server).parent, folder / "engines" / "llama.cpp", symlinks=True)
        shutil.copy(ollama, folder / "engines" / "ollama")
    return folder


def _digest(*words: str) -> str:
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:12]
