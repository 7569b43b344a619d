"""Who listens where, and who that is.

Never by binding: TIME_WAIT after our own stop would give false alarms, `--reuse-port` false calm.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterable

from msgspec import Struct

from orchestrator.core.secret import masked_argv
from orchestrator.core.status import ProcessRef
from orchestrator.runtime.identity import all_pids, command_of, group_members, read_stat
from orchestrator.runtime.logs import printable
from orchestrator.runtime.socket_table import Listener
from orchestrator.runtime.socket_table import listeners as listeners


class Holder(Struct, frozen=True):
    """The process behind a listener, as far as it may be seen."""

    pid: int | None
    command: str
    owner: str

    def __str__(self) -> str:
        if self.pid is None:
            return f"a process of {self.owner} that is not visible from here"
        return f"pid {self.pid} ({self.command}) of {self.owner}"


def conflicting(host: str, port: int, all_listeners: Iterable[Listener]) -> list[Listener]:
    """The listeners that keep `host:port` from being bound."""
    wildcard = {"0.0.0.0", "::", ""}
    return [
        one
        for one in all_listeners
        if one.port == port
        and (host in wildcard or one.host in wildcard or one.host == _canonical(host))
    ]


def _canonical(host: str) -> str:
    if host == "localhost":
        return "127.0.0.1"
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def all_owned_by(leader: ProcessRef, sockets: Iterable[Listener]) -> bool:
    """True when each of these sockets is open in the group that `leader` began."""
    wanted = {one.inode for one in sockets}
    if not wanted:
        return False
    wanted -= socket_inodes(leader.pid)
    if wanted:
        for member in group_members(leader):
            wanted -= socket_inodes(member.pid)
    return not wanted


def socket_inodes(pid: int) -> set[int]:
    """The sockets that a process has open; empty when we may not look."""
    found: set[int] = set()
    try:
        entries = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return found
    for entry in entries:
        try:
            target = os.readlink(f"/proc/{pid}/fd/{entry}")
        except OSError:
            continue
        if target.startswith("socket:["):
            found.add(int(target[8:-1]))
    return found


def holder(listener: Listener) -> Holder:
    """Who has that socket open. Walks the process table: for error messages only."""
    owner = _user_name(listener.uid)
    if listener.inode:
        for pid in all_pids():
            if listener.inode in socket_inodes(pid):
                stat = read_stat(pid)
                words = " ".join(masked_argv(command_of(pid))).split()
                command = printable(" ".join(words))[:120] or (stat.comm if stat else "?")
                return Holder(pid, command, owner)
    return Holder(None, "", owner)


def _user_name(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def ephemeral_range() -> tuple[int, int]:
    """The ports that the kernel gives to outgoing connections: never ours to choose."""
    try:
        with open("/proc/sys/net/ipv4/ip_local_port_range", encoding="ascii") as file:
            low, high = file.read().split()
    except (OSError, ValueError):
        return 32768, 60999
    return int(low), int(high)
