"""The main job in a few seconds, on the embedded engine: what `make demo` runs.

Applies `profiles/demo.yaml` (a copy, for it is edited), asks for a real completion, edits one flag,
kills one process, and stops everything. Each step is checked: the demo fails when a promise does.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

from orchestrator.runtime.identity import find_owned, state_id

ROOT = Path(__file__).resolve().parent.parent
PLACE = ROOT / ".demo"
PROFILE = PLACE / "demo.yaml"
ORCHESTRATE = Path(sys.executable).with_name("orchestrate")
PATIENCE = 20.0

COLOUR = sys.stdout.isatty() and "NO_COLOR" not in os.environ


def main() -> None:
    """Every step in order; what runs is stopped whatever happens."""
    began = time.monotonic()
    prepare()
    try:
        show()
    finally:
        orchestrate("down", quiet=True)
    expect(not find_owned(state_id(os.environ["ORCHESTRATE_STATE_DIR"])), "nothing is left behind")
    say(f"That was all of it, in {time.monotonic() - began:.1f} s. Now with models of yours:")
    print("  orchestrate init && orchestrate apply profiles/first.yaml")


def prepare() -> None:
    """A folder of its own, a tiny model, and the environment that keeps both apart from yours."""
    shutil.rmtree(PLACE, ignore_errors=True)
    PLACE.mkdir()
    say("A tiny random model is written: it speaks nonsense, but real engines run it.")
    run(sys.executable, str(ROOT / "models" / "make_tiny.py"), str(ROOT / "models" / "tiny.gguf"))
    shutil.copy(ROOT / "profiles" / "demo.yaml", PROFILE)
    os.environ.update(
        ORCHESTRATE_STATE_DIR=str(PLACE / "state"),
        ORCHESTRATE_CACHE_DIR=str(PLACE / "cache"),
        ORCHESTRATE_LLAMA_SERVER="embedded",
    )


def show() -> None:
    """The story itself."""
    say("Three servers, declared in one file, started side by side:")
    orchestrate("apply", str(PROFILE))
    orchestrate("status")
    before = instances()

    say("A real completion, from the one called chat:")
    print(f"  {completion(before['chat']['port'])!r}")

    say("One flag is edited and the file saved. Nobody calls anything: saving is applying.")
    text = PROFILE.read_text()
    edited = text.replace("ctx-size: 512", "ctx-size: 1024", 1)
    expect(edited != text, "the demo profile has `ctx-size: 512` to edit")
    PROFILE.write_text(edited)
    replaced = until(lambda: changed(before))
    expect(len(replaced) == 1, f"only {replaced[0]} got a new process, the others kept theirs")
    orchestrate("events", replaced[0], "-n", "5")

    say("One is killed from behind. It is back before you can look:")
    victim = instances()["draft"]
    os.kill(victim["pid"], signal.SIGKILL)
    began = time.monotonic()
    until(lambda: instances()["draft"]["pid"] not in (victim["pid"], None) and converged())
    print(f"  draft is ready again after {time.monotonic() - began:.2f} s")
    orchestrate("status")

    say("And down:")
    orchestrate("down")


def changed(before: dict[str, Any]) -> list[str]:
    """Instances with another process than before, once all are ready again."""
    now = instances()
    names = [name for name in before if now[name]["pid"] != before[name]["pid"]]
    return names if names and converged() else []


def status() -> dict[str, Any]:
    """`orchestrate status --json`."""
    done = subprocess.run([ORCHESTRATE, "status", "--json"], capture_output=True, check=True)
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def instances() -> dict[str, Any]:
    """Rows of the status by name."""
    return {row["name"]: row for row in status()["instances"]}


def converged() -> bool:
    """Whether everything is ready as declared."""
    return bool(status()["converged"])


def completion(port: int) -> str:
    """A few tokens from a chat endpoint."""
    body = {"messages": [{"role": "user", "content": "Say something."}], "max_tokens": 12}
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        text: str = json.load(answer)["choices"][0]["message"]["content"]
    return text


def until(what: Any) -> Any:
    """Look until it is so, at most for a while."""
    end = time.monotonic() + PATIENCE
    while not (seen := what()):
        expect(time.monotonic() < end, "what the demo waits for comes")
        time.sleep(0.05)
    return seen


def orchestrate(*words: str, quiet: bool = False) -> None:
    """Show a command as a person would type it, and run it."""
    if not quiet:
        print(styled(f"$ orchestrate {' '.join(words)}".replace(str(PLACE), ".demo"), "1"))
    run(str(ORCHESTRATE), *words, quiet=quiet)


def run(*command: str, quiet: bool = False) -> None:
    """Run to its end; what it prints is ours, unless `quiet`."""
    sys.stdout.flush()
    output = subprocess.DEVNULL if quiet else None
    subprocess.run(command, check=True, stdout=output, stderr=output, cwd=ROOT)


def expect(so: object, promise: str) -> None:
    """Stop with a clear word when a promise does not hold."""
    if not so:
        sys.exit(f"the demo failed: this should hold: {promise}")
    if not promise.startswith(("the demo", "what the demo")):
        print(f"  {styled('✓', '32')} {promise}")


def say(text: str) -> None:
    """A line between the steps."""
    print(f"\n{styled(text, '36')}")


def styled(text: str, code: str) -> str:
    """Colour, where a terminal shows it."""
    return f"\x1b[{code}m{text}\x1b[0m" if COLOUR else text


if __name__ == "__main__":
    main()
