"""An agent's way in: from its start to its first answer, and what `generate` costs on top.

    python benchmarks/mcp.py [--rounds N] [--requests N]

Side by side in one run: a Python that imports the protocol's library and answers `initialize`
with nothing behind it (the floor of the start), and the same completion asked of the llama-server
directly (the floor of `generate`).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import PROGRAM, User, load, median, profile
from models.make_tiny import write_tiny
from tests.engines import llama_server_path

TOKENS = 16

BARE = """\
from mcp.server.mcpserver import MCPServer
server = MCPServer("bare", log_level="ERROR")
@server.tool()
async def status() -> dict[str, str]:
    "Nothing."
    return {}
server.run()
"""

HELLO = {
    "protocolVersion": "2025-06-18",
    "capabilities": {},
    "clientInfo": {"name": "benchmark", "version": "1"},
}


class Wire:
    """The protocol by hand, for a client's own imports are none of our time."""

    def __init__(self, command: Sequence[str], user: User) -> None:
        self._process = subprocess.Popen(
            command,
            cwd=user.folder,
            env=user.env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._last = 0

    def write(self, **message: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
        self._process.stdin.flush()

    def ask(self, method: str, params: dict[str, Any]) -> Any:
        self._last += 1
        self.write(id=self._last, method=method, params=params)
        assert self._process.stdout is not None
        while line := self._process.stdout.readline():
            message = json.loads(line)
            if message.get("id") == self._last:
                return message["result"]
        raise SystemExit("the server has ended")

    def begin(self) -> None:
        self.ask("initialize", HELLO)
        self.write(method="notifications/initialized")

    def call(self, tool: str, **arguments: Any) -> Any:
        result = self.ask("tools/call", {"name": tool, "arguments": arguments})
        if result.get("isError"):
            raise SystemExit(f"{tool}: {result['content'][0]['text']}")
        return result["structuredContent"]

    def end(self) -> float:
        """Seconds from the closed input to the end."""
        began = time.perf_counter()
        self._process.communicate()
        return time.perf_counter() - began


def start(command: Sequence[str], user: User) -> tuple[float, float, float]:
    """Seconds to the answer to `initialize`, to that of the first tool, and for the end."""
    began = time.perf_counter()
    wire = Wire(command, user)
    wire.begin()
    hello = time.perf_counter() - began
    wire.call("status")
    return hello, time.perf_counter() - began, wire.end()


def direct(url: str, prompt: str) -> float:
    """Seconds for the same completion, asked of the engine."""
    body = {
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": TOKENS,
        "stop": [],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    request = urllib.request.Request(
        f"{url}/v1/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    began = time.perf_counter()
    with urllib.request.urlopen(request) as answer:
        answer.read()
    return time.perf_counter() - began


def generated(wire: Wire, prompt: str) -> float:
    began = time.perf_counter()
    wire.call("generate", name="a", prompt=prompt, max_tokens=TOKENS)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--requests", type=int, default=100)
    arguments = parser.parse_args()
    binary = llama_server_path()
    if binary is None:
        raise SystemExit("llama-server is not built: make engines")
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        user = User(home, ORCHESTRATE_LLAMA_SERVER=binary)
        model = write_tiny(home / "tiny.gguf")
        (home / "p.yaml").write_text(profile({"a": {"model": str(model)}}))
        user.run("apply", "p.yaml")
        try:
            measure(user, arguments.rounds, arguments.requests)
        finally:
            user.run("down")


def measure(user: User, rounds: int, requests: int) -> None:
    ours = [str(PROGRAM), "mcp"]
    bare = [sys.executable, "-c", BARE]
    # Once for the caches of both.
    start(ours, user)
    start(bare, user)
    found: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, command in (("bare server", bare), ("orchestrate mcp", ours)):
            hello, first, end = start(command, user)
            found.setdefault(f"{name}: start to initialize", []).append(hello)
            found.setdefault(f"{name}: start to first answer", []).append(first)
            found.setdefault(f"{name}: end after EOF", []).append(end)
    wire = Wire(ours, user)
    wire.begin()
    [row] = wire.call("status")["instances"]
    generated(wire, "once")
    direct(row["url"], "once")
    for number in range(requests):
        # Prompts differ, for the engine remembers; and so does who is asked first.
        for name, ask in (("direct", None), ("generate", wire))[:: 1 if number % 2 else -1]:
            prompt = f"{number} {name} what"
            took = generated(ask, prompt) if ask is not None else direct(row["url"], prompt)
            found.setdefault(f"{name}: {TOKENS} tokens", []).append(took)
    wire.end()
    show(found)


def show(found: dict[str, list[float]]) -> None:
    print(load())
    for name, times in found.items():
        middle, worst = median(times) * 1000, max(times) * 1000
        print(f"{name:<42} {middle:8.1f} ms   worst {worst:8.1f} ms")


if __name__ == "__main__":
    main()
