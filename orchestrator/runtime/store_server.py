"""An `ollama serve` of our own for a moment: for what only Ollama may do to a store.

It listens on loopback, loads no model, prunes nothing at its start (what an interrupted pull has
left is what the next one resumes), and never outlives the program that began it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Generator, Mapping
from types import FrameType
from typing import IO

from orchestrator.errors import OrchestrateError
from orchestrator.runtime.identity import ref_of
from orchestrator.runtime.ollama_calls import OllamaCalls
from orchestrator.runtime.ports import all_owned_by, listeners

STARTS_WITHIN = 30.0
"""Seconds until it must answer."""
STEP = 0.02
"""Seconds between two questions whether it does."""
GRACE = 5.0
"""Seconds between SIGTERM and SIGKILL."""
SAVES_WITHIN = 2.0
"""Seconds for a pull that was broken off to write down how far it was."""
ATTEMPTS = 3
"""Starts, should a stranger take the port between its choice and its use."""

_PR_SET_PDEATHSIG = 1


@contextlib.contextmanager
def store_server(binary: str, store: str, env: Mapping[str, str]) -> Generator[OllamaCalls]:
    """A server for the models in `store` for as long as the block runs; `env` is the caller's.

    SIGTERM and SIGHUP end the block as Ctrl-C does. Raises `OrchestrateError` when it does not
    come up.
    """
    with _interrupted_by(signal.SIGTERM, signal.SIGHUP), tempfile.TemporaryFile() as output:
        server = _Server.start(binary, store, env, output)
        try:
            yield server.client
        finally:
            server.stop()


class _Server:
    def __init__(self, popen: subprocess.Popen[bytes], port: int) -> None:
        self.client = OllamaCalls(f"http://127.0.0.1:{port}")
        self._popen = popen
        self._port = port
        self._pidfd = os.pidfd_open(popen.pid)

    @classmethod
    def start(cls, binary: str, store: str, env: Mapping[str, str], output: IO[bytes]) -> _Server:
        said = ""
        for _ in range(ATTEMPTS):
            port = _free_port()
            server = cls(_spawn(binary, store, env, port, output), port)
            try:
                if server.until_ready():
                    return server
            except BaseException:
                server.stop()
                raise
            server.stop()
            said = _tail(output)
            if "address already in use" not in said:
                break
        what = f"{binary} serve, started for the models in {store}, did not come up"
        raise OrchestrateError(f"{what}: {said}", hint="`orchestrate doctor` checks the binary")

    def until_ready(self) -> bool:
        """False when it ended, or took too long."""
        give_up = time.monotonic() + STARTS_WITHIN
        while time.monotonic() < give_up:
            if self.client.version() is not None:
                return self._is_ours()
            if self._ended(within=STEP):
                return False
        return False

    def stop(self) -> None:
        """End it, once what was broken off can be gone on with: it would not wait for that."""
        give_up = time.monotonic() + SAVES_WITHIN
        while self._downloads() and time.monotonic() < give_up and not self._ended(within=STEP):
            pass
        for number, patience in ((signal.SIGTERM, GRACE), (signal.SIGKILL, None)):
            # Not yet waited for, so the number is still its own.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._popen.pid, number)
            if self._ended(within=patience):
                break
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._popen.pid, signal.SIGKILL)
        self._popen.wait()
        os.close(self._pidfd)

    def _downloads(self) -> bool:
        """Whether it has the file of an unfinished download open."""
        folder = f"/proc/{self._popen.pid}/fd"
        with contextlib.suppress(OSError):
            for entry in os.listdir(folder):
                with contextlib.suppress(OSError):
                    if os.readlink(f"{folder}/{entry}").endswith("-partial"):
                        return True
        return False

    def _ended(self, *, within: float | None) -> bool:
        return bool(select.select([self._pidfd], [], [], within)[0])

    def _is_ours(self) -> bool:
        """Whoever answers there: it must be the one that was started."""
        ref = ref_of(self._popen.pid)
        there = [one for one in listeners() if one.port == self._port]
        return ref is not None and all_owned_by(ref, there)


def _spawn(
    binary: str, store: str, env: Mapping[str, str], port: int, output: IO[bytes]
) -> subprocess.Popen[bytes]:
    own = {"OLLAMA_HOST": f"127.0.0.1:{port}", "OLLAMA_MODELS": store, "OLLAMA_NOPRUNE": "1"}
    library = ctypes.CDLL(None)
    try:
        return subprocess.Popen(
            [binary, "serve"],
            env={**env, **own},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            # Ctrl-C is for us: what is under way is ended first, then the server.
            start_new_session=True,
            # Should we be killed outright, the kernel ends it.
            preexec_fn=lambda: library.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL),
        )
    except OSError as error:
        raise OrchestrateError(
            f"{binary} cannot be run: {error.strerror}", hint="`orchestrate doctor` checks it"
        ) from error


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _tail(output: IO[bytes]) -> str:
    """The last line that it wrote."""
    size = output.seek(0, os.SEEK_END)
    output.seek(max(size - 2048, 0))
    lines = output.read().decode("utf-8", "replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")


@contextlib.contextmanager
def _interrupted_by(*numbers: int) -> Generator[None]:
    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
