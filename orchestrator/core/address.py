"""Addresses to listen on: when two are in each other's way, and who reaches one."""

from __future__ import annotations

from ipaddress import ip_address


def is_loopback(host: str) -> bool:
    """Whether only programs of this machine reach who listens there. Names are not looked up."""
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[] ")).is_loopback
    except ValueError:
        return False


def hosts_overlap(one: str | None, other: str | None) -> bool:
    """Whether two listeners on one port of these addresses would collide.

    None is the default address, taken for loopback here. Several addresses are separated by
    commas; a Unix socket (`.sock`) has no port to collide on.
    """
    return any(_same_address(a, b) for a in _addresses(one) for b in _addresses(other))


def _addresses(host: str | None) -> list[str]:
    hosts = [part.strip("[] ") for part in (host or "127.0.0.1").lower().split(",")]
    return [part for part in hosts if not part.endswith(".sock")]


def _same_address(one: str, other: str) -> bool:
    if one == other or "::" in (one, other):
        return True
    if "0.0.0.0" in (one, other):
        return ":" not in one + other
    return {one, other} in ({"localhost", "127.0.0.1"}, {"localhost", "::1"})
