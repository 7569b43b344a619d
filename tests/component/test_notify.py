"""What the init system is told, on real sockets."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from orchestrator.daemon.announcing import Announcing
from orchestrator.runtime.notify import Notifier


@contextmanager
def listening(address: str) -> Generator[socket.socket]:
    """Who listens there; what has not come yet is no reason to wait."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(f"\0{address[1:]}" if address[0] == "@" else address)
        sock.setblocking(False)
        yield sock


@pytest.mark.parametrize("abstract", [False, True])
def test_each_message_is_one_datagram(tmp_path: Path, abstract: bool) -> None:
    address = f"@{tmp_path}" if abstract else str(tmp_path / "socket")
    with listening(address) as sock:
        notifier = Notifier.from_env({"NOTIFY_SOCKET": address})
        assert notifier
        assert notifier.watchdog is None
        assert notifier.ready("1 of 2 ready")
        assert sock.recv(999) == b"READY=1\nSTATUS=1 of 2 ready"
        assert notifier.status("grün\nREADY=0\tx" + "y" * 999)
        said = sock.recv(9999).decode()
        assert said.startswith("STATUS=grün READY=0 xyyy")
        assert said.endswith("…")
        assert notifier.stopping()
        assert sock.recv(999) == b"STOPPING=1"
        assert notifier.reloading()
        name, _, when = sock.recv(999).decode().partition("\nMONOTONIC_USEC=")
        assert name == "RELOADING=1"
        assert abs(time.monotonic_ns() // 1000 - int(when)) < 60_000_000
        assert notifier.alive()
        assert sock.recv(999) == b"WATCHDOG=1"


@pytest.mark.parametrize("address", ["", "/", "@", "vsock:2:1234", "relative"])
def test_where_there_is_nobody_there_is_nothing_to_do(address: str) -> None:
    notifier = Notifier.from_env({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000"})
    assert not notifier
    assert notifier.watchdog is None
    assert notifier.ready()


def test_nobody_is_waited_for(tmp_path: Path) -> None:
    address = str(tmp_path / "socket")
    assert not Notifier(address).ready()
    with listening(address) as sock:
        # One that reads nothing: at some point nothing more fits.
        while Notifier(address).alive():
            pass
        sock.recv(999)
        assert Notifier(address).alive()


@pytest.mark.parametrize(
    ("usec", "pid", "seconds"),
    [
        ("30000000", "", 30.0),
        pytest.param("500000", str(os.getpid()), 0.5, id="ours"),
        ("500000", "1", None),
        ("0", "", None),
        ("-1", "", None),
        ("soon", "", None),
        ("", "", None),
    ],
)
def test_the_watchdog_that_is_meant_for_this_process(
    usec: str, pid: str, seconds: float | None
) -> None:
    env = {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": usec, "WATCHDOG_PID": pid}
    assert Notifier.from_env(env).watchdog == seconds


def test_a_loop_that_does_not_turn_shows_no_sign_of_life(tmp_path: Path) -> None:
    address = str(tmp_path / "socket")
    nobody: Any = None

    async def life(sock: socket.socket) -> None:
        announcing = Announcing(nobody, nobody, Notifier(address, watchdog=0.1))
        signs = asyncio.create_task(announcing._show_life(0.05))  # pyright: ignore[reportPrivateUsage]
        await _said(sock, 3)
        while _drained(sock):
            pass
        time.sleep(0.3)  # noqa: ASYNC251 - the loop is to hang
        assert _drained(sock) == 0
        await _said(sock, 1)
        signs.cancel()

    with listening(address) as sock:
        asyncio.run(life(sock))


async def _said(sock: socket.socket, count: int) -> None:
    while count > 0:
        await asyncio.sleep(0.01)
        count -= _drained(sock)


def _drained(sock: socket.socket) -> int:
    count = 0
    try:
        while sock.recv(999):
            count += 1
    except BlockingIOError:
        pass
    return count
