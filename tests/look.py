"""Looking at the world quickly: the same documents as the command line shows, without its start.

For what is looked at again and again; a story's own steps go through the command line.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from orchestrator.cli.client import Client
from orchestrator.cli.status import fetch
from orchestrator.runtime.identity import find_owned, read_stat, state_id
from orchestrator.settings import Settings
from tests.world import World, alive


def client(world: World) -> Client:
    return Client(Settings.from_env(world.env))


def status(world: World) -> dict[str, Any]:
    """The status document, from the daemon or from the store."""
    return fetch(Settings.from_env(world.env))


def rows(world: World) -> dict[str, dict[str, Any]]:
    """The instances by name."""
    return {row["name"]: row for row in status(world)["instances"]}


def pids(world: World) -> dict[str, Any]:
    return {name: row["pid"] for name, row in rows(world).items()}


def until_row(
    world: World, name: str, what: Callable[[Mapping[str, Any]], Any], why: str = ""
) -> dict[str, Any]:
    """Look until the instance's row is so; that row."""

    def there() -> dict[str, Any] | None:
        row = rows(world).get(name)
        return row if row is not None and what(row) else None

    return world.until(there, f"{name}: {why}")


def until_phase(world: World, name: str, *phases: str) -> dict[str, Any]:
    return until_row(world, name, lambda row: row["phase"] in phases, f"in {phases}")


def owned(world: World) -> dict[str, list[int]]:
    """The living processes that bear the mark of this state folder, by instance."""
    found: dict[str, list[int]] = {}
    for one in find_owned(state_id(str(world.state))):
        found.setdefault(one.instance, []).append(one.ref.pid)
    return found


def daemon_pid(world: World) -> int | None:
    """The process that holds the state folder, without asking it."""
    from orchestrator.runtime import lock

    return lock.holder(Settings.from_env(world.env).lock_path)


def kill_daemon(world: World) -> int:
    """`kill -9` of the daemon, and wait until it is gone."""
    pid = daemon_pid(world)
    assert pid is not None, "a daemon runs"
    os.kill(pid, 9)
    world.until(lambda: not alive(pid) and daemon_pid(world) is None, "the daemon is gone")
    return pid


def zombies_of(parent: int) -> list[int]:
    """Children that ended and were not waited for."""
    found: list[int] = []
    for entry in os.listdir("/proc"):
        stat = read_stat(int(entry)) if entry.isdigit() else None
        if stat is None or stat.living:
            continue
        try:
            after_name = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(after_name[1]) == parent:
            found.append(int(entry))
    return found


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))
