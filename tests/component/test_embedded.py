"""The embedded engine as a real process: what it serves, how it ends, how it fails."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from orchestrator.engines.embedded_flags import ROWS

PROGRAM = (sys.executable, "-P", "-m", "orchestrator.engines.embedded")
DEADLINE = 30.0


def free_port(host: str = "127.0.0.1") -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return probe.getsockname()[1]


class Server:
    """A running embedded engine, and requests to it."""

    def __init__(
        self, process: subprocess.Popen[str], port: int, key: str = "", host: str = "127.0.0.1"
    ) -> None:
        self.process = process
        self.host = host
        self.port = port
        self._headers = {"Content-Type": "application/json"}
        if key:
            self._headers["Authorization"] = f"Bearer {key}"

    def ask(self, path: str, body: object = None) -> tuple[int, Any]:
        data = None if body is None else json.dumps(body).encode()
        url = f"http://{self.host}:{self.port}{path}"
        request = urllib.request.Request(url, data, self._headers)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, _content(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, _content(error.read())

    def wait_ready(self, path: str = "/health") -> set[int]:
        """Poll until it serves; the statuses seen on the way."""
        deadline = time.monotonic() + DEADLINE
        seen: set[int] = set()
        while 200 not in seen:
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < deadline
            try:
                seen.add(self.ask(path)[0])
            except (urllib.error.URLError, ConnectionError):
                seen.add(0)
            time.sleep(0.005)
        while not self._handles(signal.SIGTERM):
            assert time.monotonic() < deadline
            time.sleep(0.005)
        return seen

    def _handles(self, number: int) -> bool:
        """Whether a signal has a handler: it is set a moment after the first 200."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        caught = int(status.partition("SigCgt:")[2].split()[0], 16)
        return bool(caught >> (number - 1) & 1)


def _content(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return data.decode("utf-8", "replace")


def spawn(*args: str, cwd: Path, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        (*PROGRAM, *args),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env={**os.environ, **(env or {})},
    )


@contextmanager
def serving(model: Path, *args: str, key: str = "", host: str = "127.0.0.1") -> Generator[Server]:
    """A ready server, ended by SIGTERM; it must end at once and with 0."""
    port = free_port()
    env = {"LLAMA_API_KEY": key} if key else {}
    fixed = ("--model", str(model), "--host", host, "--port", str(port))
    process = spawn(*fixed, *args, cwd=model.parent, env=env)
    try:
        yield Server(process, port, key.partition(",")[0], host)
        process.terminate()
        process.communicate(timeout=5)
        assert process.returncode == 0
    finally:
        process.kill()
        process.communicate()


def failure(*args: str, cwd: Path) -> str:
    """The standard error of a program that must end by itself with 1."""
    process = spawn(*args, cwd=cwd)
    try:
        _, said = process.communicate(timeout=DEADLINE)
    finally:
        process.kill()
    assert process.returncode == 1
    return said


def test_serves_what_llama_server_serves(model: Path) -> None:
    with serving(model, "--ctx-size", "512", "--parallel", "2", "--alias", "coder") as server:
        assert server.wait_ready() <= {0, 503, 200}
        assert server.ask("/health") == (200, {"status": "ok"})
        props = server.ask("/props")[1]
        assert props["total_slots"] == 2
        assert props["default_generation_settings"]["n_ctx"] == 256
        assert server.ask("/v1/models")[1]["data"][0]["id"] == "coder"
        messages = [{"role": "user", "content": "hi"}]
        status, chat = server.ask("/v1/chat/completions", {"messages": messages, "max_tokens": 4})
        assert status == 200
        assert chat["choices"][0]["message"]["role"] == "assistant"
        status, said = server.ask("/completion", {"prompt": "hi", "n_predict": 4})
        assert status == 200
        assert said["tokens_predicted"] > 0
        assert server.ask("/metrics")[0] == 501


def test_embeddings(model: Path) -> None:
    with serving(model, "--embeddings", "--pooling", "mean") as server:
        server.wait_ready()
        status, answer = server.ask("/v1/embeddings", {"input": "hello"})
        assert status == 200
        assert len(answer["data"][0]["embedding"]) > 0


def test_settings_take_effect(model: Path) -> None:
    """What llama-server reports of itself, for every flag that it reports."""
    given = {
        "temp": (0.25, "temperature"),
        "top-k": (7, "top_k"),
        "top-p": (0.5, "top_p"),
        "min-p": (0.25, "min_p"),
        "seed": (77, "seed"),
        "repeat-last-n": (5, "repeat_last_n"),
        "repeat-penalty": (1.5, "repeat_penalty"),
        "presence-penalty": (0.5, "presence_penalty"),
        "frequency-penalty": (0.75, "frequency_penalty"),
        "typical": (0.75, "typical_p"),
        "dynatemp-range": (0.125, "dynatemp_range"),
        "dynatemp-exp": (1.5, "dynatemp_exponent"),
        "xtc-probability": (0.25, "xtc_probability"),
        "xtc-threshold": (0.5, "xtc_threshold"),
        "mirostat": (1, "mirostat"),
        "mirostat-lr": (0.25, "mirostat_eta"),
        "mirostat-ent": (4, "mirostat_tau"),
        "dry-multiplier": (0.5, "dry_multiplier"),
        "dry-base": (2, "dry_base"),
        "dry-allowed-length": (3, "dry_allowed_length"),
        "dry-penalty-last-n": (4, "dry_penalty_last_n"),
    }
    args = [word for key, (value, _) in given.items() for word in (f"--{key}", str(value))]
    with serving(model, *args, "--metrics", "--no-slots", "--n-predict", "9") as server:
        server.wait_ready()
        params = server.ask("/props")[1]["default_generation_settings"]["params"]
        wanted = {name: value for value, name in given.values()}
        assert {name: params[name] for name in wanted} == wanted
        assert server.ask("/completion", {"prompt": "hi"})[1]["tokens_predicted"] <= 9
        assert server.ask("/metrics")[0] == 200
        assert server.ask("/slots")[0] == 501


def test_switches_of_loading_are_accepted_together(model: Path) -> None:
    args = "--no-kv-offload --no-repack --no-host --no-warmup --no-op-offload --check-tensors"
    args += " --swa-full --no-cont-batching --kv-unified --no-context-shift --no-cache-prompt"
    args += " --threads 1 --threads-batch 2 --batch-size 64 --ubatch-size 32 --flash-attn on"
    args += " --cache-type-k q8_0 --cache-type-v q8_0 --load-mode none --lazy-mode off --fit off"
    args += " --n-gpu-layers 0 --split-mode none --main-gpu 0 --tensor-split 1,2 --cache-ram 0"
    args += " --rope-scaling yarn --rope-scale 2 --yarn-orig-ctx 512 --reasoning-format none"
    args += " --numa distribute --chat-template chatml --no-jinja --verbosity 4"
    with serving(model, *args.split()) as server:
        server.wait_ready()
        assert server.ask("/completion", {"prompt": "hi", "n_predict": 2})[0] == 200


def test_key_prefix_and_template_file(model: Path, tmp_path: Path) -> None:
    template = tmp_path / "template.jinja"
    template.write_text("{{ messages[0].content }} MARK")
    keys = tmp_path / "keys"
    keys.write_text("# comment\nfrom-file\n")
    args = ("--api-prefix", "/llm", "--chat-template-file", str(template))
    with serving(model, *args, "--api-key-file", str(keys), key="s3cret,other") as server:
        server.wait_ready("/llm/health")
        for key, status in (("", 401), ("wrong", 401), ("other", 200), ("from-file", 200)):
            assert Server(server.process, server.port, key).ask("/llm/props")[0] == status
        asked = {"messages": [{"role": "user", "content": "hi"}]}
        assert server.ask("/llm/apply-template", asked)[1]["prompt"] == "hi MARK"
        assert server.ask("/health")[0] == 404


def test_listens_only_where_asked(model: Path) -> None:
    with serving(model, host="127.0.0.2") as server:
        server.wait_ready()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", server.port), timeout=5)


def test_ends_at_once_while_it_streams(model: Path) -> None:
    with serving(model) as server:
        server.wait_ready()
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
            asked = {"prompt": "hi", "n_predict": 3000, "stream": True, "ignore_eos": True}
            body = json.dumps(asked).encode()
            client.sendall(
                b"POST /completion HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                b"Content-Length: %d\r\n\r\n" % len(body) + body
            )
            assert client.recv(64).startswith(b"HTTP/1.1 200")
            server.process.terminate()
            assert server.process.wait(5) == 0


def test_ends_on_interrupt(model: Path) -> None:
    with serving(model) as server:
        server.wait_ready()
        server.process.send_signal(2)
        assert server.process.wait(5) == 0


def test_a_taken_port_is_named(model: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        said = failure("--model", str(model), "--port", str(port), cwd=model.parent)
    assert f"error: cannot listen on 127.0.0.1 port {port}" in said.splitlines()[-1]


def test_a_port_served_by_another_is_named(model: Path) -> None:
    with serving(model) as server:
        server.wait_ready()
        said = failure("--model", str(model), "--port", str(server.port), cwd=model.parent)
        assert f"error: cannot listen on 127.0.0.1 port {server.port}" in said.splitlines()[-1]
        assert server.ask("/health")[0] == 200


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["--override-tensor", "x"], "error: invalid argument: --override-tensor"),
        (["--ctx-size=4"], "error: invalid argument: --ctx-size=4"),
        (["--ctx-size"], "error: expected value for argument: --ctx-size"),
        (["--ctx-size", "8k"], 'error: while handling argument "--ctx-size"'),
        (["--ctx-size", "99999999999"], 'error: while handling argument "--ctx-size"'),
        (["--flash-attn", "maybe"], 'error: while handling argument "--flash-attn"'),
        (["--chat-template-file", "/nowhere"], 'error: while handling argument "--chat-template'),
        ([], "error: no model given"),
        (["--model", "/nowhere.gguf"], "error: cannot read the model '/nowhere.gguf'"),
    ],
)
def test_refusals_are_one_line(tmp_path: Path, args: list[str], expected: str) -> None:
    said = failure(*args, cwd=tmp_path)
    assert said.startswith(expected)
    assert said.count("\n") == 1


def test_what_to_install_for_other_flags(tmp_path: Path) -> None:
    assert "install llama-server" in failure("--rpc", "host:1", cwd=tmp_path)


def test_a_broken_model(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(100))
    said = failure("--model", str(broken), "--port", str(free_port()), cwd=tmp_path)
    # The engine writes its log in pieces: one of its clocks may stand before what we say.
    assert f"error: failed to load the model '{broken}'" in said.splitlines()[-1]


def test_help_and_version(tmp_path: Path) -> None:
    for option, expected in (("--help", "--ctx-size N"), ("--version", "version: xllamacpp")):
        process = spawn(option, cwd=tmp_path)
        said, problems = process.communicate(timeout=DEADLINE)
        assert process.returncode == 0
        assert expected in said
        assert problems == ""


def test_every_row_sets_a_field_that_exists() -> None:
    """A misspelt field of `CommonParams` would raise, not be ignored."""
    xllamacpp = pytest.importorskip("xllamacpp", reason="xllamacpp IS NOT INSTALLED")
    special = {"chat-template-kwargs": "{}", "rope-scale": "2", "fit": "on", "tensor-split": "1,2"}
    special |= {"slot-save-path": "/tmp", "flash-attn": "on", "cache-type-k": "f16"}
    special |= {"cache-type-v": "f16", "load-mode": "mmap+mlock", "lazy-mode": "on"}
    special |= {"numa": "isolate", "reasoning-format": "deepseek-legacy", "pooling": "cls"}
    special |= {"split-mode": "row", "rope-scaling": "linear"}
    special |= {"api-key-file": "/dev/null", "chat-template-file": "/dev/null"}
    for row in ROWS:
        name = row.names[-1].lstrip("-")
        row.apply(xllamacpp.CommonParams(), special.get(name, "1"))
