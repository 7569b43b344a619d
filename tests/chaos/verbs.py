"""What people do by hand: another profile, one more, stop, start, restart, kill, down."""

from __future__ import annotations

from dataclasses import replace

from tests.chaos.declared import GATEWAY, Server
from tests.chaos.fault import Draw, Fault, quietly
from tests.chaos.world import ChaosWorld


def apply_again(draw: Draw) -> Fault | None:
    world = draw.world
    files = [world.path(file) for file in world.declared.applied]
    word = draw.random.choice(["", "--no-wait"])
    world.declared.apply(world.declared.applied)
    return Fault(
        "apply-again",
        f"apply {word}",
        lambda: quietly(world, "apply", *files, *filter(None, [word])),
        names=set(world.declared.wanted()),
    )


def switch(draw: Draw) -> Fault | None:
    """Another profile, half of which is the same: that half goes on."""
    world = draw.world
    declared = world.declared
    to = "other" if declared.applied[0] == "main" else "main"
    if to == "other":
        main = declared.files["main"]
        llamas = sorted(name for name in main if main[name].engine == "llama-server")
        same = {name: main[name] for name in llamas if name in declared.needed()}
        same |= {name: main[name] for name in llamas if main[name].needs}
        same |= {name: main[name] for name in draw.some(llamas, 5)}
        same |= {n: replace(main[n], needs=()) for n in same if not set(main[n].needs) <= set(same)}
        others = [main[name] for name in llamas if name not in same]
        # Theirs is the port of another that has to end first.
        new = {
            f"x{number}": replace(one, mark=f"x{number}-a", needs=(), lively=False, first=False)
            for number, one in enumerate(others[:3])
        }
        same |= {name: one for name, one in main.items() if one.engine in ("ollama", GATEWAY)}
        declared.files["other"] = {**same, **new}
        world_save(world, "other")
    before = set(declared.wanted())
    declared.apply([to])
    return Fault(
        "switch",
        f"apply {to}",
        lambda: quietly(world, "apply", world.path(to)),
        names=before | set(declared.wanted()),
    )


def world_save(world: ChaosWorld, file: str) -> None:
    """A file that is not applied yet may be written at any time."""
    world.save(file, world.declared.files[file], "rename")


def down(draw: Draw) -> Fault | None:
    """All of it ends and is forgotten, and is applied anew."""
    world, declared = draw.world, draw.world.declared
    word = draw.random.choice(["", "--keep-daemon"])
    files = [world.path(file) for file in declared.applied]
    before = set(declared.running())
    declared.apply(declared.applied)

    def hurt() -> None:
        quietly(world, "down", *filter(None, [word]))
        if left := world.marked():
            world.said.append(f"`down` left {left}")

    return Fault(
        "down",
        f"down {word}, then apply",
        hurt,
        lambda: quietly(world, "apply", *files),
        anew=before,
        names=set(declared.wanted()),
    )


def add_file(draw: Draw) -> Fault | None:
    world, declared = draw.world, draw.world.declared
    if "side" in declared.applied:
        return None
    declared.files.pop("side", None)
    ports = [draw.one_port(), None]
    declared.files["side"] = {
        f"s{number}": Server(
            "llama-server", port, 512, f"s{number}-a", str(world.folder / "m1.gguf")
        )
        for number, port in enumerate(ports)
    }
    world_save(world, "side")
    declared.add("side")
    return Fault(
        "add-file",
        "apply --add side",
        lambda: quietly(world, "apply", "--add", world.path("side")),
        names={"s0", "s1"},
    )


def remove_file(draw: Draw) -> Fault | None:
    world, declared = draw.world, draw.world.declared
    if "side" not in declared.applied:
        return None
    declared.applied = [file for file in declared.applied if file != "side"]
    declared.settle()
    word = draw.random.choice(["side", str(world.path("side"))])
    return Fault(
        "remove-file", "remove side", lambda: quietly(world, "remove", word), names={"s0", "s1"}
    )


def hold(draw: Draw) -> Fault | None:
    names = draw.running(free=True) + ([] if draw.paired else draw.running("ollama"))
    if len(draw.world.declared.held) >= 2 or not names:
        return None
    name, verb = draw.random.choice(names), draw.random.choice(["stop", "kill"])
    draw.world.declared.held.add(name)
    return Fault("hold", f"{verb} {name}", lambda: quietly(draw.world, verb, name), names={name})


def release(draw: Draw) -> Fault | None:
    names = draw.down()
    if not names:
        return None
    name, verb = draw.random.choice(names), draw.random.choice(["start", "restart"])
    draw.world.declared.held.discard(name)
    draw.world.declared.exited.discard(name)
    return Fault("release", f"{verb} {name}", lambda: quietly(draw.world, verb, name), names={name})


def restart(draw: Draw) -> Fault | None:
    names = draw.running() + draw.running("ollama") + draw.running(GATEWAY)
    if not names:
        return None
    name = draw.random.choice(names)
    draw.world.declared.stale.discard(name)
    return Fault(
        "restart",
        f"restart {name}",
        lambda: quietly(draw.world, "restart", "--force", name),
        anew={name},
        names={name},
    )


def start(draw: Draw) -> Fault | None:
    """Of what runs: nothing is to happen."""
    names = draw.running()
    if not names:
        return None
    name = draw.random.choice(names)
    return Fault("start", f"start {name}, which runs", lambda: quietly(draw.world, "start", name))
