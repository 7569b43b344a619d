"""Tells the init system how this process is, by the protocol of sd_notify(3).

One datagram of `NAME=value` lines to the socket that `NOTIFY_SOCKET` names: a path, or, after `@`,
a name in the abstract namespace. Nobody answers, and nothing here ever waits: what could not be
sent is for the caller to say again.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping

from msgspec import Struct

VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
"""What the init system sets for the process that it started, and for no other."""

MAX_STATUS = 200
"""Characters of a status line: `systemctl status` shows one line of a terminal."""


class Notifier(Struct, frozen=True):
    """Where to tell it, if anywhere. `watchdog` is how many seconds may pass between two signs of
    life before the init system ends this process; None when it does not watch."""

    address: str = ""
    watchdog: float | None = None

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Notifier:
        """As the init system has set it for this very process."""
        address = env.get("NOTIFY_SOCKET", "")
        if address[:1] not in ("/", "@") or len(address) < 2:
            # None, or one (vsock) for a whole virtual machine.
            return cls()
        return cls(address, _watchdog(env))

    def __bool__(self) -> bool:
        return bool(self.address)

    def ready(self, status: str = "") -> bool:
        """It serves; after `reloading`, it does so again."""
        return self._send("READY=1", _status(status))

    def status(self, status: str) -> bool:
        """One line for people."""
        return self._send(_status(status))

    def reloading(self) -> bool:
        """It reads its files again; `ready` says when it is done."""
        # The instant tells the init system which request this answers.
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        return self._send("RELOADING=1", f"MONOTONIC_USEC={now}")

    def stopping(self, status: str = "") -> bool:
        """It is about to end."""
        return self._send("STOPPING=1", _status(status))

    def alive(self) -> bool:
        """A sign of life."""
        return self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> bool:
        """False when it could not be sent now: the queue is full, or nobody listens."""
        if not self.address:
            return True
        name = f"\0{self.address[1:]}" if self.address[0] == "@" else self.address
        message = "\n".join(line for line in lines if line)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.setblocking(False)
                return sock.sendto(message.encode("utf-8", "replace"), name) > 0
        except OSError:
            return False


def _watchdog(env: Mapping[str, str]) -> float | None:
    said, whose = env.get("WATCHDOG_USEC", ""), env.get("WATCHDOG_PID", "")
    if not said.isdecimal() or int(said) == 0:
        return None
    if whose and whose != str(os.getpid()):
        # Meant for the process that started this one.
        return None
    return int(said) / 1e6


def _status(text: str) -> str:
    """A line of its own, whatever is in it: a second one would be read as another message."""
    plain = " ".join(text.split())
    shown = plain if len(plain) <= MAX_STATUS else f"{plain[: MAX_STATUS - 1]}…"
    return f"STATUS={shown}" if shown else ""
