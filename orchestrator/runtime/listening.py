"""Listening on TCP for the API: the address that was asked for, or nothing."""

from __future__ import annotations

import os
import socket

from msgspec import Struct

from orchestrator.errors import InputError

NEAR = "127.0.0.1"
USUAL = 7717
"""The port on loopback, where none was said and nobody has it: a page that was open finds back."""


class TcpListener(Struct, frozen=True):
    """A socket that listens, and how it is reached from this machine."""

    sock: socket.socket
    url: str


def bind_tcp(host: str, port: int) -> TcpListener:
    """Listen there; port 0 takes any. Raises `InputError`, naming who has the port if it can."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        raise InputError(
            f"the control API cannot listen on {host!r}: no such address",
            hint="name an address of this machine, as in 127.0.0.1:7717",
        ) from error
    # With its protocol: only then asyncio sends answers at once, acknowledged or not.
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(host != "::"))
        sock.bind(address)
        sock.listen(256)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        where = f"{_shown(host)}:{port}"
        why = os.strerror(error.errno or 0).lower()
        raise InputError(
            f"the control API cannot listen on {where}: {why}",
            hint="name another address with --listen or ORCHESTRATE_LISTEN",
        ) from error
    return TcpListener(sock, f"http://{_near(host)}:{sock.getsockname()[1]}")


def bind_near() -> TcpListener:
    """On loopback: the usual port, or any where that one is taken."""
    try:
        return bind_tcp(NEAR, USUAL)
    except InputError:
        return bind_tcp(NEAR, 0)


def _near(host: str) -> str:
    """By which address this machine reaches what listens on `host`."""
    if host in ("0.0.0.0", ""):
        return NEAR
    return _shown("::1" if host == "::" else host)


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host
