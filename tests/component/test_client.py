"""The command line's client against a daemon that is there, but does not do its part."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.cli import client
from orchestrator.errors import NoDaemonError
from orchestrator.settings import Settings

AWAKE = b"HTTP/1.0 200 OK\r\n\r\nok\n"


@pytest.fixture
def falls_silent(tmp_path: Path) -> Iterator[Settings]:
    """Says that it is awake, sends one snapshot, and then nothing more."""
    settings = Settings(str(tmp_path), str(tmp_path), str(tmp_path))
    done = threading.Event()
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(settings.socket_path)
    listening.listen()

    def serve() -> None:
        for answer in (AWAKE, b"HTTP/1.0 200 OK\r\n\r\n{}\n"):
            connection, _ = listening.accept()
            connection.recv(65536)
            connection.sendall(answer)
            if answer is not AWAKE:
                done.wait()
            connection.close()

    thread = threading.Thread(target=serve)
    thread.start()
    yield settings
    done.set()
    thread.join()
    listening.close()


def test_a_daemon_that_falls_silent_is_not_waited_for_for_ever(
    falls_silent: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "SILENT_AFTER", 0.1)
    stream = client.Client(falls_silent).snapshots()
    assert next(stream) == {}
    with pytest.raises(NoDaemonError, match="does not answer any more"):
        next(stream)
