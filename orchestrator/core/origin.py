"""What a `Host` or an `Origin` header says, of which anybody may have written anything. Pure."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

FOREIGN = frozenset({"cross-site", "same-site"})
"""Where a browser says that a request comes from, when it does not come from the server's own page:
another port of the same host is of the same site."""

_NETLOC = re.compile(r"(?:\[(?P<six>[0-9a-f:.]+)\]|(?P<name>[^][:@/\\\s]+))(?::\d{0,5})?")
"""A name or an address, and perhaps a port."""


def host_of(netloc: str) -> str:
    """A name without its port, an address of IPv6 without its brackets; empty where it is none."""
    match = _NETLOC.fullmatch(netloc.strip().lower())
    return (match["six"] or match["name"]).rstrip(".") if match else ""


def is_address(host: str) -> bool:
    """Whether it is an IP address. Nobody can give that away, as a name can be made to mean any."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def netloc_of(origin: str) -> str:
    """The host and port of a web page's origin, in lower case; empty where it is no web page."""
    try:
        split = urlsplit(origin)
    except ValueError:
        return ""
    return split.netloc.lower() if split.scheme in ("http", "https") else ""


def is_loopback(host: str) -> bool:
    """Whether only this very machine is meant."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    return is_address(host) and ipaddress.ip_address(host).is_loopback
