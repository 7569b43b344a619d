"""Real Ollama servers: those of somebody else, and a user's machine that has Ollama on it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.look import owned, rows, until_row
from tests.world import PATIENCE, World


@dataclass(frozen=True)
class Server:
    """An Ollama that a test started itself: not ours to signal, as far as `orchestrate` goes."""

    process: subprocess.Popen[bytes]
    port: int
    store: Path
    log: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    def end(self, number: int = signal.SIGTERM) -> None:
        """It and its runners; waits for their end."""
        os.killpg(self.process.pid, number)
        self.process.wait(PATIENCE)
        _sweep(self.process.pid)


@contextmanager
def running_ollama(
    folder: Path, port: int, *, binary: str, store: Path | None = None, **env: str
) -> Generator[Server]:
    """Somebody else's `ollama serve`, with a home and a store of its own below `folder`.

    In a process group of its own, as a user's shell would start it. It answers when this yields.
    """
    folder.mkdir(parents=True, exist_ok=True)
    models = store or folder / "models"
    passed = {name: value for name, value in os.environ.items() if not name.startswith("OLLAMA_")}
    given = {"HOME": str(folder), "OLLAMA_MODELS": str(models), "OLLAMA_HOST": f"127.0.0.1:{port}"}
    log = folder / "ollama.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [binary, "serve"],
            env={**passed, **given, **env},
            cwd=folder,
            stdout=output,
            stderr=output,
            stdin=subprocess.DEVNULL,
            process_group=0,
        )
    server = Server(process, port, models, log)
    try:
        until_up(port, log)
        yield server
    finally:
        if process.poll() is None:
            server.end()
        else:
            _sweep(process.pid)


def _sweep(group: int) -> None:
    """Runners that outlived their server: they are in its group still."""
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def until_up(port: int, log: Path | None = None) -> None:
    """Wait until somebody answers as Ollama there."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            ask(port, "/api/version")
            return
        except OSError:
            said = log.read_text(errors="replace") if log and log.exists() else ""
            assert time.monotonic() < end, f"nobody answers on port {port}\n{said}"
            time.sleep(0.01)


# --- a small client ----------------------------------------------------------------------------


def ask(port: int, path: str, body: Any = None, *, verb: str = "") -> Any:
    """One request, one JSON document; for a stream the last one. OSError when it is refused."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}",
        None if body is None else json.dumps(body).encode(),
        {"Content-Type": "application/json"},
        method=verb or None,
    )
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            lines = answer.read().decode().splitlines()
    except urllib.error.HTTPError as error:
        with error:
            error.add_note(f"{path} {body}: {error.read().decode(errors='replace')}")
        raise
    return json.loads(lines[-1]) if lines else None


def tags(port: int) -> dict[str, dict[str, Any]]:
    """The models that a server has, by name."""
    return {model["name"]: model for model in ask(port, "/api/tags")["models"]}


def ps(port: int) -> dict[str, dict[str, Any]]:
    """The models that a server has in memory, by the name they were loaded by."""
    return {model["name"]: model for model in ask(port, "/api/ps")["models"]}


def generate(port: int, model: str, *, tokens: int = 2, **more: Any) -> str:
    """A real completion; loads the model."""
    body = {"model": model, "prompt": "hot", "stream": False, **more}
    body["options"] = {"num_predict": tokens, **more.get("options", {})}
    return ask(port, "/api/generate", body)["response"]


def unload(port: int, model: str) -> None:
    """What `ollama stop` does."""
    ask(port, "/api/generate", {"model": model, "keep_alive": 0, "stream": False})


def remove(port: int, model: str) -> None:
    """What `ollama rm` does."""
    ask(port, "/api/delete", {"model": model}, verb="DELETE")


def cli(binary: str, port: int, *words: object, home: Path) -> str:
    """Run `ollama ...` against that server."""
    env = {**os.environ, "OLLAMA_HOST": f"127.0.0.1:{port}", "HOME": str(home)}
    done = subprocess.run(
        [binary, *map(str, words)],
        env=env,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, f"ollama {words}: {done.stdout}{done.stderr}"
    return done.stdout


def expires_in(port: int, model: str) -> float:
    """Seconds that a loaded model stays in memory."""
    from datetime import UTC, datetime

    until = datetime.fromisoformat(ps(port)[model]["expires_at"])
    return (until - datetime.now(UTC)).total_seconds()


# --- a machine with Ollama on it ---------------------------------------------------------------


class OllamaWorld(World):
    """A user's machine with the real Ollama, the real llama-server, and a store in its folder."""

    def __init__(self, folder: Path, model: Path, env: Mapping[str, str]) -> None:
        self.store = folder / "store"
        super().__init__(folder, model, {**env, "OLLAMA_MODELS": str(self.store)})
        self.ollama = env["ORCHESTRATE_OLLAMA"]

    def ollamas(
        self,
        instances: Mapping[str, Sequence[Any] | Mapping[str, Any]],
        file: str = "p.yaml",
        **more: Any,
    ) -> Path:
        """A profile of Ollama instances: their models, or all their keys; others as they are."""
        whole: dict[str, Any] = {}
        for name, given in instances.items():
            config = dict(given) if isinstance(given, Mapping) else {"models": list(given)}
            if "model" not in config:
                config = {"engine": "ollama", **config}
            whole[name] = config
        text = yaml.safe_dump({**more, "instances": whole}, sort_keys=False)
        return self.write(file, text)

    def models(self, name: str) -> dict[str, dict[str, Any]]:
        """What the status says of an instance's models."""
        return {model["name"]: model for model in rows(self)[name]["models"]}

    def until_model(self, instance: str, model: str, **wanted: Any) -> dict[str, Any]:
        """Wait until the status says this of a model; its row."""

        def so(row: Mapping[str, Any]) -> bool:
            found = next((m for m in row["models"] if m["name"] == model), None)
            return found is not None and all(found[key] == wanted[key] for key in wanted)

        row = until_row(self, instance, so, f"{model}: {wanted}")
        return next(m for m in row["models"] if m["name"] == model)

    def port_of(self, name: str) -> int:
        return rows(self)[name]["port"]

    def runners(self, name: str) -> list[int]:
        """The processes of an instance but for its server."""
        return [pid for pid in owned(self).get(name, []) if pid != rows(self)[name]["pid"]]

    def blobs(self) -> set[str]:
        """The files in the store that are whole."""
        folder = self.store / "blobs"
        return {p.name for p in folder.iterdir() if "partial" not in p.name}
