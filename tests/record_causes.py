"""Records what real engines say when they fail, as the evidence that the table of causes is from.

    python tests/record_causes.py [WORD]       (cases whose name holds WORD)

Each case is a file of `tests/data/causes`: how the engine ended, then its whole output. The name
begins with the cause that is to be found. What needs hardware or a kernel that is not here is
written by hand, with the place in the engine's source that prints it.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests import broken_models, broken_programs, engines  # noqa: E402 - the script may be run from anywhere

FOLDER = ROOT / "tests" / "data" / "causes"
WITHIN = 60.0
"""Seconds after which an engine that does not fail is ended: then the case was no failure."""


@dataclass(frozen=True)
class Case:
    """One way to fail. `name` is `CAUSE.what.engine`; `limit` bounds the address space (bytes)."""

    name: str
    argv: list[str]
    env: dict[str, str]
    limit: int = 0
    signal: int = 0
    facts: str = ""
    group: Path | None = None


def cases(folder: Path) -> Iterator[Case]:
    models = broken_models.write_all(folder)
    embedded = [sys.executable, "-P", "-m", "orchestrator.engines.embedded"]
    found = engines.llama_server_path()
    programs = [("embedded", embedded)] + ([("llama-server", [found])] if found else [])
    for engine, launcher in programs:
        for cause, what, arguments in _failures(models):
            limit = 1_200_000_000 if what == "host-limit" else 0
            number = signal.SIGSEGV if what == "segfault" else 0
            facts = f"taken: {STRANGER}\n" if cause == "port-taken" else ""
            name = f"{cause}.{what}.{engine}"
            yield Case(name, [*launcher, *arguments], {}, limit, number, facts)
    yield from _programs(folder)
    (folder / "python").mkdir()
    (folder / "python" / "xllamacpp.py").write_text("import no_such_module\n")
    without = {"PYTHONPATH": str(folder / "python")}
    argv = [*embedded, *_tiny(models)]
    yield Case("binary-incompatible.module.embedded", argv, without)
    with broken_programs.small_group(60 << 20) as group:
        if group is not None:
            argv = [*embedded, *_tiny(models), "--ctx-size", "2000000", "--parallel", "1"]
            name = "out-of-memory.control-group.embedded"
            yield Case(name, argv, {}, facts="oom: cgroup\n", group=group)
    ollama = engines.ollama_path()
    if ollama:
        home = {"HOME": str(folder)}
        serve = [ollama, "serve"]
        (folder / "file").touch()
        nowhere = {**home, "OLLAMA_MODELS": str(folder / "file" / "models")}
        taken = {**home, "OLLAMA_HOST": f"127.0.0.1:{TAKEN}"}
        yield Case("port-taken.bind.ollama", serve, taken)
        yield Case("permission.models-folder.ollama", serve, nowhere)
        yield Case("bad-flag.unknown.ollama", [*serve, "--no-such-flag"], home)


def _programs(folder: Path) -> Iterator[Case]:
    made = broken_programs.write_all(folder, engines.llama_server_path())
    yield Case("binary-incompatible.glibc.loader", [str(made["glibc"])], {})
    yield Case("binary-missing.env.script", [str(made["env"])], {})
    yield Case("binary-missing.exec.script", [str(made["exec"])], {})
    yield Case("permission.exec.script", [str(made["may-not"])], {})
    yield Case("binary-incompatible.instruction.program", [str(made["instruction"])], {})
    if "library" in made:
        yield Case("binary-incompatible.library.llama-server", [str(made["library"])], {})


def _tiny(models: dict[str, Path]) -> list[str]:
    return ["--model", str(models["tiny"]), "--port", str(TAKEN - 1)]


TAKEN = 23479
STRANGER = f"port {TAKEN} was taken by pid 7 (nginx) of root while it started"


def _failures(models: dict[str, Path]) -> list[tuple[str, str, list[str]]]:
    port = ["--port", str(TAKEN - 1)]
    tiny = ["--model", str(models["tiny"])]

    def load(name: str) -> list[str]:
        return ["--model", str(models[name]), *port]

    return [
        ("bad-flag", "unknown", [*tiny, *port, "--no-such-flag"]),
        ("bad-flag", "value", [*tiny, "--port", "many"]),
        ("bad-flag", "no-value", [*tiny, *port, "--ctx-size"]),
        ("bad-flag", "word", [*tiny, *port, "--cache-type-k", "q9_9"]),
        ("bad-flag", "template", [*tiny, *port, "--chat-template", "{% if x %}"]),
        ("model-missing", "gone", load("gone")),
        ("model-unreadable", "truncated", load("truncated")),
        ("model-unreadable", "header", load("header")),
        ("model-unreadable", "empty", load("empty")),
        ("model-unreadable", "text", load("text")),
        ("model-unreadable", "folder", load("folder")),
        ("unsupported-model", "architecture", load("alien")),
        ("unsupported-model", "version", load("version")),
        ("unsupported-model", "tokenizer", load("tokenizer")),
        ("unsupported-model", "tensors", load("tensors")),
        ("port-taken", "bind", [*tiny, "--port", str(TAKEN)]),
        ("address-unavailable", "bind", [*tiny, *port, "--host", "203.0.113.7"]),
        ("out-of-memory", "host-limit", [*tiny, *port, "--ctx-size", "2000000"]),
        ("crashed", "segfault", [*tiny, *port]),
    ]


def record(case: Case, folder: Path) -> str | None:
    """The text of the recording; None when it did not fail."""
    limits = f"ulimit -v {case.limit // 1024}; " if case.limit else ""
    if case.group:
        limits += f"echo $$ > {case.group}/cgroup.procs; "
    argv = ["sh", "-c", f'{limits}exec "$@"', "sh", *case.argv]
    log = folder / "log"
    with log.open("wb") as output:
        env = {"PATH": os.environ["PATH"], **case.env}
        process = subprocess.Popen(argv, stdout=output, stderr=output, env=env, cwd=ROOT)
        try:
            if case.signal:
                _until(lambda: b"loading model" in log.read_bytes())
                process.send_signal(case.signal)
            code = process.wait(WITHIN)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return None
    ended = f"exit: {code}" if code >= 0 else f"signal: {signal.Signals(-code).name}"
    said = log.read_text(errors="replace").replace(str(folder), "/models")
    said = re.sub(r"(ssh-ed25519) \S+", r"\1 ...", said)
    return f"{ended}\n{case.facts}---\n{said}"


def _until(there: Callable[[], bool]) -> None:
    while not there():
        pass


def main(words: list[str]) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name, socket.socket() as stranger:
        folder = Path(name)
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        stranger.bind(("127.0.0.1", TAKEN))
        stranger.listen()
        for case in cases(folder):
            if words and not any(word in case.name for word in words):
                continue
            text = record(case, folder)
            if text is None:
                print(f"{case.name}: DID NOT FAIL")
                continue
            (FOLDER / f"{case.name}.txt").write_text(text)
            print(f"{case.name}: {text.splitlines()[0]}, {text.splitlines()[-1][:120]}")


if __name__ == "__main__":
    main(sys.argv[1:])
