"""Listening sockets: netlink and `/proc/net/tcp` tell the same of real ones."""

from __future__ import annotations

import os
import socket

import pytest

from orchestrator.runtime import socket_table
from orchestrator.runtime.socket_table import listeners


@pytest.fixture(params=["netlink", "proc"])
def _source(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(family: object) -> list[object]:
        raise PermissionError

    if request.param == "proc":
        monkeypatch.setattr(socket_table, "_told", refused)


@pytest.mark.usefixtures("_source")
@pytest.mark.parametrize(
    ("family", "bound", "host"),
    [
        (socket.AF_INET, "127.0.0.1", "127.0.0.1"),
        (socket.AF_INET, "", "0.0.0.0"),
        (socket.AF_INET6, "::1", "::1"),
        (socket.AF_INET6, "::", "::"),
        (socket.AF_INET6, "::ffff:127.0.0.1", "127.0.0.1"),
    ],
)
def test_a_listener_is_told_with_its_owner_and_a_connection_is_not(
    family: socket.AddressFamily, bound: str, host: str
) -> None:
    with socket.socket(family) as server:
        server.bind((bound, 0))
        port = server.getsockname()[1]
        assert not [one for one in listeners() if one.port == port]
        server.listen()
        connect_to = "::1" if host in ("::", "::1") else "127.0.0.1"
        with socket.create_connection((connect_to, port)):
            found = [one for one in listeners() if one.port == port]
        assert [(one.host, one.uid) for one in found] == [(host, os.getuid())]
        assert found[0].inode == os.fstat(server.fileno()).st_ino
