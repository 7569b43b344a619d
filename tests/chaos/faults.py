"""All kinds of faults, and how one or two of them are drawn."""

from __future__ import annotations

from random import Random

from tests.chaos.edits import (
    add,
    broken,
    burst,
    edit_flags,
    edit_live,
    edit_models,
    edit_port,
    remove,
    rename,
    swap_ports,
    touch,
)
from tests.chaos.fault import Draw, Fault, Kind
from tests.chaos.machine import (
    full_disk,
    logs_away,
    model_away,
    quick_thief,
    replace_model,
    same_pid,
    thief,
    torn_store,
)
from tests.chaos.processes import (
    crash,
    crash_gateway,
    crash_many,
    crash_ollama,
    crash_runner,
    hang,
    kill_daemon,
    restart_daemon,
    stall,
    stall_daemon,
    stop_daemon,
    unload,
)
from tests.chaos.verbs import (
    add_file,
    apply_again,
    down,
    hold,
    release,
    remove_file,
    restart,
    start,
    switch,
)
from tests.chaos.world import ChaosWorld, Ref

INSTANCE: tuple[Kind, ...] = (
    crash,
    crash,
    crash,
    crash_many,
    hang,
    stall,
    crash_ollama,
    crash_gateway,
    crash_runner,
    unload,
)
DAEMON: tuple[Kind, ...] = (kill_daemon, kill_daemon, stop_daemon, restart_daemon, stall_daemon)
FILES: tuple[Kind, ...] = (
    edit_flags,
    edit_flags,
    edit_live,
    edit_port,
    swap_ports,
    add,
    add,
    remove,
    rename,
    edit_models,
    burst,
    touch,
    broken,
    broken,
)
SETS: tuple[Kind, ...] = (apply_again, switch, add_file, remove_file, down)
HAND: tuple[Kind, ...] = (hold, hold, release, release, restart, start)
REST: tuple[Kind, ...] = (
    thief,
    quick_thief,
    replace_model,
    model_away,
    full_disk,
    logs_away,
    torn_store,
    same_pid,
)

ALL: tuple[Kind, ...] = (*INSTANCE, *DAEMON, *FILES, *SETS, *HAND, *REST)

PAIRS = (
    (INSTANCE, DAEMON),
    (INSTANCE, FILES),
    (INSTANCE, HAND),
    (INSTANCE, INSTANCE),
    (FILES, DAEMON),
    (FILES, HAND),
    (HAND, DAEMON),
    (DAEMON, HAND),
    (FILES, INSTANCE),
)


def draw_one(draw: Draw, kinds: tuple[Kind, ...] = ALL) -> Fault:
    """One that can be done now."""
    while True:
        fault = draw.random.choice(kinds)(draw)
        if fault is not None:
            return fault


def draw_two(world: ChaosWorld, random: Random) -> list[Fault]:
    """Two that are done at once, about different instances."""
    one, two = random.choice(PAIRS)
    first = draw_one(Draw(world, random, paired=True), one)
    second = draw_one(
        Draw(world, random, frozenset(first.names), paired=True), (*two, restart_daemon)
    )
    return [first, second]


def refs_of(world: ChaosWorld, faults: list[Fault]) -> dict[str, Ref]:
    """The processes of before, of those that must be others afterwards."""
    running = world.declared.running()
    return {
        name: world.base[name]
        for fault in faults
        for name in fault.anew
        if name in world.base and name in running
    }
