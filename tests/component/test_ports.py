"""Real sockets: who listens where, whose they are, and what keeps an address from being taken."""

from __future__ import annotations

import os
import pwd
import socket
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager

import pytest

from orchestrator.core.status import ProcessRef
from orchestrator.runtime.identity import ref_of
from orchestrator.runtime.ports import (
    Listener,
    all_owned_by,
    conflicting,
    ephemeral_range,
    holder,
    listeners,
    socket_inodes,
)

LISTEN = """
import socket, sys
one = socket.socket()
one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
one.bind(("127.0.0.1", int(sys.argv[1])))
one.listen()
print(one.getsockname()[1], flush=True)
sys.stdin.read()
"""


@contextmanager
def listening(host: str, port: int = 0, *, reuse: bool = False) -> Generator[int]:
    """A socket of this process; its port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as one:
        if family == socket.AF_INET6 and (host == "::" or host.startswith("::ffff:")):
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        if reuse:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        one.bind((host, port))
        one.listen()
        yield one.getsockname()[1]


@contextmanager
def group_listening(*words: str, port: int = 0) -> Generator[tuple[ProcessRef, int]]:
    """A group of its own with a listener in it; `words` stand before the program's."""
    with subprocess.Popen(
        [*words, sys.executable, "-I", "-S", "-c", LISTEN, str(port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
        text=True,
    ) as leader:
        assert leader.stdout is not None
        bound = int(leader.stdout.readline())
        ref = ref_of(leader.pid)
        assert ref is not None
        try:
            yield ref, bound
        finally:
            os.killpg(leader.pid, 9)
            # To its end: then all of the group is gone.
            leader.stdout.read()


def on(port: int) -> list[Listener]:
    return [one for one in listeners() if one.port == port]


@pytest.mark.parametrize(
    ("bound", "shown"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("127.1.2.3", "127.1.2.3"),
        ("0.0.0.0", "0.0.0.0"),
        ("::1", "::1"),
        ("::", "::"),
        ("::ffff:127.0.0.1", "127.0.0.1"),
    ],
)
def test_a_listener_is_seen_as_it_was_bound(bound: str, shown: str) -> None:
    with listening(bound) as port:
        (seen,) = on(port)
        assert (seen.host, seen.port, seen.uid) == (shown, port, os.getuid())
        assert seen.inode in socket_inodes(os.getpid())
    assert on(port) == []


def test_connections_are_no_listeners() -> None:
    with listening("127.0.0.1") as port, socket.create_connection(("127.0.0.1", port)) as client:
        assert len(on(port)) == 1
        assert on(client.getsockname()[1]) == []


@pytest.mark.parametrize(
    ("bound", "wanted", "conflict"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "127.0.0.2", False),
        ("127.0.0.1", "0.0.0.0", True),
        ("127.0.0.1", "localhost", True),
        ("127.0.0.1", "::ffff:127.0.0.1", True),
        ("127.0.0.1", "::", True),
        ("127.0.0.1", "::1", False),
        ("0.0.0.0", "127.0.0.1", True),
        ("::", "127.0.0.1", True),
        ("::", "::1", True),
        ("::1", "::1", True),
        ("::1", "0:0:0:0:0:0:0:1", True),
        ("::1", "127.0.0.1", False),
    ],
)
def test_what_keeps_an_address_from_being_taken(bound: str, wanted: str, conflict: bool) -> None:
    with listening(bound) as port:
        assert bool(conflicting(wanted, port, listeners())) == conflict
        assert conflicting(wanted, port + 1, on(port)) == []


def test_a_port_that_was_just_served_is_not_taken() -> None:
    """The last connections linger in TIME_WAIT: a bind would fail, a listener there is none."""
    with listening("127.0.0.1") as port:
        pass
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.1", port))
        server.listen()
        with socket.create_connection(("127.0.0.1", port)):
            server.accept()[0].close()
    with socket.socket() as another, pytest.raises(OSError, match="in use"):
        another.bind(("127.0.0.1", port))
    assert conflicting("127.0.0.1", port, listeners()) == []


# --- whose it is ----------------------------------------------------------------------------------


def test_a_socket_of_the_leader_or_of_its_child_belongs_to_the_group() -> None:
    for words in ((), ("/bin/sh", "-c", 'exec 3<&0; "$@" <&3 & wait', "sh")):
        with group_listening(*words) as (leader, port):
            assert all_owned_by(leader, on(port))


def test_a_strangers_socket_does_not_nor_does_none() -> None:
    with group_listening() as (leader, _), listening("127.0.0.1") as port:
        assert not all_owned_by(leader, on(port))
        assert not all_owned_by(leader, [])


def test_a_stranger_that_shares_the_port_is_seen_beside_our_own() -> None:
    with group_listening() as (leader, port), listening("127.0.0.1", port, reuse=True):
        both = on(port)
        assert len(both) == 2
        assert not all_owned_by(leader, both)
        assert sum(all_owned_by(leader, [one]) for one in both) == 1


def test_the_holder_is_named_with_its_command_and_its_user() -> None:
    with group_listening() as (leader, port):
        found = holder(on(port)[0])
        assert found.pid == leader.pid
        assert found.command.startswith(f"{sys.executable} -I -S -c import socket, sys one =")
        assert len(found.command) <= 120
        user = pwd.getpwuid(os.getuid()).pw_name
        assert str(found) == f"pid {leader.pid} ({found.command}) of {user}"


def test_a_holders_secret_is_not_told() -> None:
    secret = ["sh", "--api-key", "hidden", "--token=hidden", "\x1b[31m"]
    with socket.create_server(("127.0.0.1", 0)) as one:
        inode = os.fstat(one.fileno()).st_ino
        with subprocess.Popen(
            ["/bin/sh", "-c", "echo; kill -STOP $$", *secret],
            stdin=one.fileno(),
            stdout=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            one.close()
            told = str(holder(Listener("127.0.0.1", 1, os.getuid(), inode)))
            process.kill()
    assert "$$ sh --api-key *** --token=***) of " in told


def test_a_socket_without_a_visible_owner_says_so() -> None:
    for inode in (0, 2**40):
        shown = str(holder(Listener("127.0.0.1", 1, 4242, inode)))
        assert shown == "a process of uid 4242 that is not visible from here"


def test_the_kernels_own_range() -> None:
    low, high = ephemeral_range()
    assert 0 < low < high < 65536
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        assert low <= one.getsockname()[1] <= high
