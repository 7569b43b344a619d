"""Faults of the machine: ports, models, disks, the store, pids that come again."""

from __future__ import annotations

import os
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path

from tests.chaos.declared import BACKOFF
from tests.chaos.fault import LINGER, WAIT_AGAIN, Draw, Fault, quietly
from tests.chaos.thief import Thief
from tests.chaos.world import ChaosWorld
from tests.look import rows
from tests.world import alive


def thief(draw: Draw) -> Fault | None:
    """A stranger, who answers 200 to everything, has the port when it is to be started."""
    running = draw.world.declared.running()
    names = draw.running(free=True)
    if not names:
        return None
    name, world = draw.random.choice(names), draw.world
    held: list[Thief] = []

    def hurt() -> None:
        port = rows(world.world)[name]["port"]
        quietly(world, "stop", name)
        held.append(Thief(port))
        quietly(world, "start", name, "--no-wait")
        _not_ready_for(world, name, port, LINGER)

    def mend() -> None:
        for one in held:
            one.go()

    world.declared.held.discard(name)
    fixed = "auto" if running[name].port is None else "fixed"
    return Fault(
        "thief",
        f"a stranger on the port of {name} ({fixed})",
        hurt,
        mend,
        anew={name},
        names={name},
        allowed=WAIT_AGAIN,
    )


def quick_thief(draw: Draw) -> Fault | None:
    """A stranger who is quicker than the restart of what was killed, or is not."""
    names = [n for n in draw.running(free=True) if draw.world.declared.wanted()[n].port]
    if not names:
        return None
    name, world = draw.random.choice(names), draw.world
    port = world.declared.wanted()[name].port
    assert port is not None, "its port is fixed"
    held: list[Thief] = []

    def hurt() -> None:
        world.hit(name, signal.SIGKILL)
        if (stranger := Thief.at_once(port, within=0.3)) is not None:
            held.append(stranger)
            _not_ready_for(world, name, port, LINGER)

    def mend() -> None:
        for one in held:
            one.go()

    return Fault(
        "quick-thief",
        f"SIGKILL {name}, and a stranger is after its port",
        hurt,
        mend,
        anew={name},
        names={name},
        allowed=WAIT_AGAIN,
    )


def _not_ready_for(world: ChaosWorld, name: str, port: int, seconds: float) -> None:
    """Watch that a stranger's answer is not taken for that of the instance.

    What is shown of a process that is dead is only not known to be yet.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        row = rows(world.world).get(name)
        if row and row["phase"] == "ready" and row["port"] == port and alive(row["pid"]):
            world.said.append(f"{name} is called ready while a stranger has port {port}: {row}")
            return
        time.sleep(0.05)


def replace_model(draw: Draw) -> Fault | None:
    """The same bytes in another file: it is stale, and nothing more."""
    world = draw.world
    path = world.folder / f"m{draw.random.randint(0, 2)}.gguf"
    wanted = world.declared.wanted()
    world.declared.stale |= {name for name, one in wanted.items() if one.model == str(path)}

    def hurt() -> None:
        aside = path.with_suffix(".new")
        shutil.copy(path, aside)
        aside.replace(path)

    return Fault("replace-model", f"{path.name} is another file", hurt)


def model_away(draw: Draw) -> Fault | None:
    """What is killed cannot come back until its model does."""
    names = draw.running()
    if not names:
        return None
    name, world = draw.random.choice(names), draw.world
    path = Path(world.declared.wanted()[name].model)
    away = path.with_suffix(".away")

    def hurt() -> None:
        path.replace(away)
        world.hit(name, signal.SIGKILL)
        world.until(lambda: rows(world.world)[name]["phase"] != "ready", f"{name} is not ready")
        time.sleep(LINGER / 2)

    return Fault(
        "model-away",
        f"{path.name} is gone while {name} dies",
        hurt,
        lambda: _quietly_replace(away, path),
        anew={name},
        names={name},
        allowed=BACKOFF,
    )


def _quietly_replace(away: Path, path: Path) -> None:
    away.replace(path)


def full_disk(draw: Draw) -> Fault | None:
    world = draw.world
    if world.no_disk:
        return None
    names = draw.some(draw.running(), 3)
    ballast = world.world.state / "ballast"

    def hurt() -> None:
        with ballast.open("ab", buffering=0) as file:
            for size in (1 << 20, 4096, 1):
                with suppress(OSError):
                    while True:
                        file.write(b"x" * size)
        for name in names:
            world.hit(name, signal.SIGKILL)
        time.sleep(LINGER)

    return Fault(
        "full-disk",
        f"the state folder is full while {' '.join(names)} die",
        hurt,
        ballast.unlink,
        anew=set(names),
        names=set(names),
        allowed=WAIT_AGAIN,
    )


def logs_away(draw: Draw) -> Fault | None:
    names = draw.some(draw.running(), 2)
    world = draw.world

    def hurt() -> None:
        shutil.rmtree(world.world.state / "logs", ignore_errors=True)
        for name in names:
            world.hit(name, signal.SIGKILL)

    return Fault(
        "logs-away",
        f"the logs are deleted while {' '.join(names)} die",
        hurt,
        anew=set(names),
        names=set(names),
        allowed=BACKOFF,
    )


def torn_store(draw: Draw) -> Fault | None:
    """The daemon is down, and its store is damaged. What runs goes on; an apply says the rest."""
    world, declared = draw.world, draw.world.declared
    how = draw.random.choice(["halved", "overwritten", "emptied", "deleted"])
    start = draw.random.random() < 0.5
    files = [world.path(file) for file in declared.applied]
    ran_before = set(declared.running())
    declared.apply(declared.applied)

    def hurt() -> None:
        world.signal_daemon(signal.SIGKILL)
        damage(world.world.state, how)

    def mend() -> None:
        if start:
            quietly(world, "daemon", "start")
            gone = [n for n in ran_before if (ref := world.base.get(n)) and not ref.lives]
            if gone:
                world.said.append(f"a store that was {how} cost {gone}")
        quietly(world, "apply", *files)

    how_back = "daemon start, apply" if start else "apply"
    return Fault(
        "torn-store",
        f"the store is {how}, then {how_back}",
        hurt,
        mend,
        names=set(declared.wanted()),
    )


def damage(state: Path, how: str) -> None:
    """Tear the store, and the log of what was last written to it."""
    path = state / "state.db"
    for suffix in ("-wal", "-shm"):
        with suppress(FileNotFoundError):
            path.with_name(path.name + suffix).unlink()
    if how == "deleted":
        path.unlink()
        return
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        if how == "halved":
            file.truncate(size // 2)
        elif how == "emptied":
            file.truncate(0)
        else:
            file.seek(0)
            file.write(b"\xa5" * 4096)


def same_pid(draw: Draw) -> Fault | None:
    """While no daemon looks, an instance dies, and a stranger is given its pid."""
    world = draw.world
    names = draw.running()
    if not os.access(LAST_PID, os.W_OK) or not names:
        return None
    name = draw.random.choice(names)

    def hurt() -> None:
        world.signal_daemon(signal.SIGKILL)
        ref = world.base[name]
        world.hit(name, signal.SIGKILL)
        world.until(lambda: not Path(f"/proc/{ref.pid}").exists(), f"pid {ref.pid} is free")
        world.bystanders.with_pid(ref.pid)

    return Fault(
        "same-pid",
        f"a stranger is given the pid of {name}",
        hurt,
        lambda: quietly(world, "daemon", "start"),
        anew={name},
        names={name},
    )


LAST_PID = "/proc/sys/kernel/ns_last_pid"
