"""Faults of processes: instances, runners and daemons die, hang, stand still."""

from __future__ import annotations

import json
import os
import platform
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from orchestrator.core.resolve_gateway import KEPT
from tests.chaos.declared import BACKOFF, GATEWAY, GRACE, HUNG_AFTER
from tests.chaos.fault import LOADED_AGAIN, Draw, Fault, quietly

STALL = 0.2
"""Seconds that something stands still for, and goes on."""

TELLS_OTHERS = tuple(int(part) for part in platform.release().split(".")[:2]) >= (6, 15)
"""Whether this kernel tells a daemon how a process ended that an earlier one started."""

DEADLY = (signal.SIGKILL, signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT, signal.SIGTERM)


def crash(draw: Draw) -> Fault | None:
    names = draw.running()
    if not names:
        return None
    name = draw.random.choice(names)
    number = draw.random.choice(DEADLY)
    world = draw.world
    polite = number == signal.SIGTERM and world.declared.wanted()[name].policy == "on-failure"
    if polite and (draw.paired or not TELLS_OTHERS):
        # Whether anybody is there to see how it ended would be chance.
        number, polite = signal.SIGKILL, False
    if polite:
        world.declared.exited.add(name)
    return Fault(
        "crash",
        f"{number.name} {name}",
        lambda: world.hit(name, number),
        anew=set() if polite else {name},
        names={name},
        allowed=BACKOFF,
    )


def crash_many(draw: Draw) -> Fault | None:
    names = draw.some(draw.running(), 8)
    if not names:
        return None

    def hurt() -> None:
        for name in names:
            draw.world.hit(name, signal.SIGKILL)

    return Fault(
        "crash-many",
        f"SIGKILL {' '.join(names)}",
        hurt,
        anew=set(names),
        names=set(names),
        allowed=BACKOFF,
    )


def hang(draw: Draw) -> Fault | None:
    running = draw.world.declared.running()
    names = [n for n in draw.running() + draw.running("ollama") if running[n].lively]
    if not names:
        return None
    name = draw.random.choice(names)
    return Fault(
        "hang",
        f"SIGSTOP {name}",
        lambda: draw.world.hit(name, signal.SIGSTOP),
        anew={name},
        names={name},
        allowed=HUNG_AFTER + GRACE,
    )


def stall(draw: Draw) -> Fault | None:
    names = draw.running()
    if not names:
        return None
    name = draw.random.choice(names)

    def hurt() -> None:
        draw.world.hit(name, signal.SIGSTOP)
        time.sleep(STALL)

    return Fault(
        "stall",
        f"SIGSTOP {name}, SIGCONT after {STALL} s",
        hurt,
        lambda: draw.world.hit(name, signal.SIGCONT),
        names={name},
    )


def crash_ollama(draw: Draw) -> Fault | None:
    return _crash_of(draw, "ollama", BACKOFF)


def crash_gateway(draw: Draw) -> Fault | None:
    return _crash_of(draw, GATEWAY, KEPT.max)


def _crash_of(draw: Draw, engine: str, allowed: float) -> Fault | None:
    """Of the one server of an engine."""
    names = draw.running(engine)
    if not names:
        return None
    name, number = names[0], draw.random.choice(DEADLY)
    return Fault(
        f"crash-{engine}",
        f"{number.name} {name}",
        lambda: draw.world.hit(name, number),
        anew={name},
        names={name},
        allowed=allowed,
    )


def _with_models(draw: Draw) -> list[str]:
    """Ollamas with a model in memory, that have lost none since they were started."""
    declared = draw.world.declared
    wanted = declared.wanted()
    names = draw.running("ollama")
    return [n for n in names if wanted[n].models and n not in declared.unsettled]


def crash_runner(draw: Draw) -> Fault | None:
    names = _with_models(draw)
    if not names:
        return None
    name = names[0]
    draw.world.declared.unsettled.add(name)

    def hurt() -> None:
        for ref in draw.world.marked().get(name, [])[1:]:
            with suppress(ProcessLookupError):
                os.kill(ref.pid, signal.SIGKILL)

    return Fault("crash-runner", f"SIGKILL the runner of {name}", hurt, names={name}, loads=True)


def unload(draw: Draw) -> Fault | None:
    names = _with_models(draw)
    if not names:
        return None
    name = names[0]
    draw.world.declared.unsettled.add(name)
    one = draw.world.declared.wanted()[name]

    def hurt() -> None:
        body = json.dumps({"model": one.models[0], "keep_alive": 0, "stream": False}).encode()
        with suppress(urllib.error.URLError):
            urllib.request.urlopen(
                f"http://127.0.0.1:{one.port}/api/generate", body, timeout=20
            ).close()

    return Fault(
        "unload",
        f"somebody unloads {one.models[0]} of {name}",
        hurt,
        names={name},
        allowed=LOADED_AGAIN,
        loads=True,
    )


def _return(draw: Draw) -> tuple[str, Callable[[], None]]:
    """How a daemon that ended comes back: the verb, and its doing."""
    world = draw.world
    if draw.paired or draw.random.random() < 0.6:
        return "daemon start", lambda: quietly(world, "daemon", "start")
    files = [world.path(file) for file in world.declared.applied]
    world.declared.apply(world.declared.applied)
    return "apply", lambda: quietly(world, "apply", *files)


def kill_daemon(draw: Draw) -> Fault | None:
    word, back = _return(draw)
    number = draw.random.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT))
    return Fault(
        "kill-daemon",
        f"{number.name} to the daemon, then `{word}`",
        lambda: draw.world.signal_daemon(number),
        back,
    )


def stop_daemon(draw: Draw) -> Fault | None:
    instances = draw.random.random() < 0.3
    words = ["--instances"] if instances else []
    # What is asked to end with the daemon comes back with it.
    anew = set(draw.world.declared.running()) if instances else set[str]()
    _, back = _return(replace(draw, paired=True))
    return Fault(
        "stop-daemon",
        " ".join(["daemon stop", *words, "then daemon start"]),
        lambda: quietly(draw.world, "daemon", "stop", *words),
        back,
        anew=anew,
        names=anew,
    )


def restart_daemon(draw: Draw) -> Fault | None:
    return Fault(
        "restart-daemon", "daemon restart", lambda: quietly(draw.world, "daemon", "restart")
    )


def stall_daemon(draw: Draw) -> Fault | None:
    names = draw.some(draw.running(), 3)
    world = draw.world

    def hurt() -> None:
        world.signal_daemon(signal.SIGSTOP)
        for name in names:
            world.hit(name, signal.SIGKILL)
        time.sleep(STALL)
        # Here, and not when it is mended: a command of another fault would be refused meanwhile.
        world.signal_daemon(signal.SIGCONT)

    return Fault(
        "stall-daemon",
        f"the daemon stands still while {' '.join(names)} die",
        hurt,
        anew=set(names),
        names=set(names),
        allowed=BACKOFF + STALL,
    )
