"""Having a binary say which flags it takes: its `--help`, bounded in time and size."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping

from orchestrator.errors import InputError
from orchestrator.runtime.binaries import FoundBinary

HELP_LIMIT = 1 << 20
"""Bytes of a help that are read; llama-server's has 60 kB."""

_ENGINES_OWN = ("LLAMA_", "MTMD_", "OLLAMA_")


def read_help(
    found: FoundBinary, env: Mapping[str, str], *words: str, timeout: float = 10.0
) -> str:
    """What `--help` prints, at most `HELP_LIMIT` bytes of it, within `timeout` seconds.

    `words` name the command whose help is meant, where a program has several.
    The environment is this process's with `env` over it, less what would change the engine: as
    when an instance is started. A program that goes on after that is killed with its group, and
    what it said is returned. Raises `InputError` when it cannot be started or says nothing.
    """
    inherited = {**os.environ, **env}
    clean = {key: value for key, value in inherited.items() if not key.startswith(_ENGINES_OWN)}
    try:
        process = subprocess.Popen(
            (*found.launcher, *words, "--help"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=clean,
            cwd="/",
            start_new_session=True,
        )
    except OSError as error:
        raise InputError(
            f"{found.path} ({found.why}) cannot be run: {error.strerror}",
            hint="is it built for this machine?",
        ) from error
    with process:
        said = _read_bounded(process, timeout)
    text = said.decode("utf-8", "replace")
    if process.returncode > 0 and text.count("\n") < 5:
        last = text.strip().rpartition("\n")[2] or f"exit code {process.returncode}"
        raise InputError(
            f"{found.path} ({found.why}) cannot be run: {last}", hint="run it by hand with --help"
        )
    return text


def _read_bounded(process: subprocess.Popen[bytes], timeout: float) -> bytes:
    """Read until the end, the limit or the time; then nothing of its group is left running."""
    assert process.stdout is not None
    deadline = time.monotonic() + timeout
    said = bytearray()
    ended = False
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while not ended and len(said) < HELP_LIMIT and (left := deadline - time.monotonic()) > 0:
            if selector.select(left):
                chunk = os.read(process.stdout.fileno(), 65536)
                said += chunk
                ended = not chunk
    try:
        if not ended:
            # Its leader may have gone and left others: not reaped, the group's number is still its.
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(1.0)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return bytes(said[:HELP_LIMIT])
