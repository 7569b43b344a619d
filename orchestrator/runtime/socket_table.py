"""The listening TCP sockets of this network namespace, as the kernel tells them.

Asked by netlink (`sock_diag`), which walks the listeners alone and takes 0.05 ms. `/proc/net/tcp`
walks every place that a connection may have, for 2 ms and more, at each start and each readiness
of dozens of instances; it stands in where netlink is not let through.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
from collections.abc import Iterator

from msgspec import Struct

_NETLINK_SOCK_DIAG = 4
_BY_FAMILY = 20
_REQUEST_DUMP = 0x301
_ERROR, _DONE = 2, 3
_LISTEN = 10

_HEADER = struct.Struct("=IHHII")
"""Length, type, flags, sequence number, port id."""
_QUESTION = struct.Struct("=BBBBI48x")
"""`inet_diag_req_v2`: family, protocol, extensions, padding, states; any address."""
_ANSWER = struct.Struct("=4x2s2x16s40xII")
"""`inet_diag_msg`: port and address as they travel, at the end uid and inode."""


class Listener(Struct, frozen=True):
    """One listening socket. `inode` names it in `/proc/PID/fd`; 0 when its owner is gone."""

    host: str
    port: int
    uid: int
    inode: int


def listeners() -> list[Listener]:
    """All of them, IPv4 and IPv6."""
    try:
        return [one for family in (socket.AF_INET, socket.AF_INET6) for one in _told(family)]
    except OSError:
        return [one for name in ("tcp", "tcp6") for one in _listed(f"/proc/net/{name}")]


def _told(family: socket.AddressFamily) -> Iterator[Listener]:
    """By netlink. Raises OSError where that is refused."""
    size = 4 if family == socket.AF_INET else 16
    question = _QUESTION.pack(family, socket.IPPROTO_TCP, 0, 0, 1 << _LISTEN)
    header = _HEADER.pack(_HEADER.size + len(question), _BY_FAMILY, _REQUEST_DUMP, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as kernel:
        kernel.send(header + question)
        while True:
            for kind, body in _messages(kernel.recv(1 << 16)):
                if kind == _DONE:
                    return
                if kind == _ERROR:
                    (code,) = struct.unpack_from("=i", body)
                    raise OSError(-code, os.strerror(-code))
                port, address, uid, inode = _ANSWER.unpack_from(body)
                host = _host(address[:size])
                yield Listener(host, int.from_bytes(port, "big"), uid, inode)


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, *_ = _HEADER.unpack_from(data, at)
        yield kind, data[at + _HEADER.size : at + length]
        at += (length + 3) & ~3


def _listed(path: str) -> Iterator[Listener]:
    """By `/proc/net/tcp`, which lists the listeners before all connections."""
    try:
        with open(path, "rb") as file:
            next(file, None)
            for row in file:
                fields = row.split()
                if int(fields[3], 16) != _LISTEN:
                    break
                address, _, port = fields[1].partition(b":")
                # Printed as native-endian words of 32 bits.
                words = [int(address[i : i + 8], 16) for i in range(0, len(address), 8)]
                host = _host(b"".join(struct.pack("=I", word) for word in words))
                yield Listener(host, int(port, 16), int(fields[7]), int(fields[9]))
    except OSError:
        return


def _host(packed: bytes) -> str:
    if len(packed) == 4:
        return socket.inet_ntop(socket.AF_INET, packed)
    address = ipaddress.IPv6Address(packed)
    return str(address.ipv4_mapped or address)
