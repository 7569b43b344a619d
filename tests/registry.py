"""A registry of models on this machine: Debian's docker-registry, with models pushed into it.

Ollama downloads a blob only where the registry sends it elsewhere, to a host of another name. So
the registry answers with a redirect (`127.0.0.1` to `localhost`), and a small server in a thread
gives out the files: as slowly as a test wants, and it can be cut off in the middle.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.world import PATIENCE, share_of_ports

PROGRAM = shutil.which("docker-registry") or shutil.which("/usr/bin/docker-registry")
"""Looked up once. None where it is not installed."""

_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_CONFIG = "application/vnd.docker.container.image.v1+json"
_MODEL = "application/vnd.ollama.image.model"
_STEPS_PER_S = 50
"""Pieces in which a throttled file goes out: Ollama reports its progress 16 times a second."""


class Registry:
    """One registry on loopback. `rate` is in bytes per second over each download, None: no limit.

    `served` has the bytes of each blob that were given out, by digest; `downloads` how often one
    was asked for.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port, self.files_port = _free_ports(2)
        self.rate: float | None = None
        self.served: dict[str, int] = {}
        self.downloads: dict[str, int] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._files: _Files | None = None
        (folder / "root").mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(self._config()))

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Both servers, on the ports that they have had from the beginning."""
        self._files = _Files(self, self.files_port)
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [PROGRAM or "docker-registry", "serve", self.folder / "config.json"],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        end = time.monotonic() + PATIENCE
        while not self._answers():
            assert time.monotonic() < end, (self.folder / "log").read_text()
            time.sleep(0.01)

    def stop(self) -> None:
        """Both die at once, downloads are cut off in the middle."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None
        if self._files is not None:
            self._files.end()
            self._files = None

    def push(self, name: str, gguf: Path, *, tag: str = "latest", template: str = "") -> str:
        """Put a model there, as `ollama push` does; what a profile has to name to pull it."""
        config = {"model_format": "gguf", "model_family": "llama", "model_families": ["llama"]}
        layers = [self._blob(name, gguf.read_bytes(), _MODEL)]
        if template:
            kind = "application/vnd.ollama.image.template"
            layers.append(self._blob(name, template.encode(), kind))
        manifest = {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": self._blob(name, json.dumps(config).encode(), _CONFIG),
            "layers": layers,
        }
        content = json.dumps(manifest).encode()
        self._ask("PUT", f"/v2/{name}/manifests/{tag}", content, {"Content-Type": _MANIFEST})
        return f"{self.host}/{name}:{tag}"

    def _blob(self, name: str, content: bytes, kind: str) -> dict[str, Any]:
        """Upload it; the manifest's line for it."""
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        location = self._ask("POST", f"/v2/{name}/blobs/uploads/", b"")
        headers = {"Content-Type": "application/octet-stream"}
        self._ask("PUT", f"{location}&digest={digest}", content, headers)
        return {"mediaType": kind, "digest": digest, "size": len(content)}

    def _ask(self, verb: str, path: str, body: bytes, headers: dict[str, str] | None = None) -> str:
        """One request; where the answer points to."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        with contextlib.closing(connection):
            connection.request(verb, path, body, headers or {})
            answer = connection.getresponse()
            assert answer.status < 300, (verb, path, answer.status, answer.read())
            return answer.headers.get("Location", "")

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1):
                return True
        except OSError:
            return False

    def _config(self) -> dict[str, Any]:
        elsewhere = f"http://localhost:{self.files_port}/"
        return {
            "version": "0.1",
            "log": {"level": "warn"},
            "storage": {
                "filesystem": {"rootdirectory": str(self.folder / "root")},
                "delete": {"enabled": True},
            },
            "middleware": {"storage": [{"name": "redirect", "options": {"baseurl": elsewhere}}]},
            "http": {"addr": self.host, "relativeurls": True, "secret": "loopback"},
        }


@contextmanager
def running_registry(folder: Path) -> Generator[Registry]:
    """A registry for the time of a test, in a folder that is made."""
    registry = Registry(folder)
    registry.start()
    try:
        yield registry
    finally:
        registry.stop()


def padded(path: Path, gguf: Path, size: int) -> Path:
    """A copy of a model with bytes after its end, which engines ignore: `size` bytes in all."""
    shutil.copyfile(gguf, path)
    os.truncate(path, size)
    return path


class _Files:
    """Gives out the registry's files, until its end."""

    def __init__(self, registry: Registry, port: int) -> None:
        self.registry = registry
        self.ending = threading.Event()
        self._server = _Server(("127.0.0.1", port), self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def end(self) -> None:
        """Cut off whoever is being served, and wait until all is closed."""
        self.ending.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = False
    """So that `server_close` waits for them; they see `ending`."""

    def __init__(self, address: tuple[str, int], files: _Files) -> None:
        super().__init__(address, _Answer)
        self.files = files


class _Answer(BaseHTTPRequestHandler):
    """One download, or a part of one."""

    timeout = 0.2
    """Seconds for the request to come; an idle connection must not hold up the end."""
    server: _Server  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_GET(self) -> None:
        registry = self.server.files.registry
        path = registry.folder / "root" / self.path.partition("?")[0].lstrip("/")
        try:
            content = path.read_bytes()
        except OSError:
            self.send_error(404)
            return
        begin, end, status = 0, len(content), 200
        if asked := self.headers.get("Range", "").removeprefix("bytes="):
            first, _, last = asked.partition("-")
            begin, end, status = int(first), min(int(last) + 1, end) if last else end, 206
        self.send_response(status)
        self.send_header("Content-Length", str(end - begin))
        if status == 206:
            self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{len(content)}")
        self.end_headers()
        if self.command == "HEAD":
            return
        digest = path.parent.name
        registry.downloads[digest] = registry.downloads.get(digest, 0) + 1
        self._send(content[begin:end], digest)

    do_HEAD = do_GET
    """Ollama asks for the size first."""

    def _send(self, content: bytes, digest: str) -> None:
        """In pieces, each in its time. Cut off, it ends cleanly: Ollama then keeps what it has."""
        files, registry = self.server.files, self.server.files.registry
        sent = 0
        while sent < len(content) and not files.ending.is_set():
            rate = registry.rate
            size = 1 << 20 if rate is None else max(1, int(rate / _STEPS_PER_S))
            piece = content[sent : sent + size]
            try:
                self.wfile.write(piece)
            except OSError:
                return
            sent += len(piece)
            registry.served[digest] = registry.served.get(digest, 0) + len(piece)
            if rate is not None and sent < len(content):
                files.ending.wait(1 / _STEPS_PER_S)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a test's output is its own."""


def _free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, beyond those that `World.port` gives."""
    found: list[int] = []
    for port in range(18000 + share_of_ports() % 4000, 24000):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            return found
    raise AssertionError("no port is free")
