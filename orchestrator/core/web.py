"""Addresses of servers elsewhere, as people write them. Pure."""

from __future__ import annotations

from ipaddress import ip_address
from urllib.parse import urlsplit

from msgspec import Struct

_PORTS = {"http": 80, "https": 443}


class Url(Struct, frozen=True):
    """Where a server is, and what its paths begin with, without a trailing slash."""

    scheme: str
    host: str
    port: int
    prefix: str

    @property
    def is_here(self) -> bool:
        """Whether what is sent stays on this machine."""
        if self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False


def read_url(text: str) -> Url:
    """Raises ValueError, with what was expected."""
    try:
        parts = urlsplit(text)
        port, host = parts.port, parts.hostname
    except ValueError as error:
        raise ValueError("expected a URL") from error
    if parts.scheme not in _PORTS or not host:
        raise ValueError("expected a URL that begins with https:// or http://")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("expected a URL without user, query or fragment")
    if not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError("expected a URL of plain characters")
    if port == 0:
        raise ValueError("expected a port from 1 to 65535 in the URL")
    return Url(parts.scheme, host, port or _PORTS[parts.scheme], parts.path.rstrip("/"))
