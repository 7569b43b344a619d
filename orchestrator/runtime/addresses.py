"""The addresses of this machine."""

from __future__ import annotations

import errno
import ipaddress
import socket


def is_foreign(host: str) -> bool:
    """Whether an address is none of this machine's. A name is never asked for: that takes a
    server, which may be slow."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        # The kernel knows best. Nothing listens on a datagram socket that is closed at once.
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))
    except OSError as error:
        return error.errno == errno.EADDRNOTAVAIL
    return False
