"""Faults of the applied profile: edits of every kind, and files that are broken for a while."""

from __future__ import annotations

import os
from dataclasses import replace

from tests.chaos.declared import GATEWAY, Content, Server
from tests.chaos.fault import FEWEST, MOST, Draw, Fault
from tests.chaos.world import WAYS
from tests.look import status


def _edited(draw: Draw, kind: str, about: str, content: Content, *, names: set[str]) -> Fault:
    """The profile says `content` from now on; it is saved in some way."""
    file, way, world = draw.file(), draw.random.choice(WAYS), draw.world
    world.declared.edit(file, content)
    return Fault(
        kind, f"{file}: {about} ({way})", lambda: world.save(file, content, way), names=names
    )


def _other(draw: Draw, one: Server) -> Server:
    """The same instance with another setting that its process must take up."""
    if one.engine == "ollama":
        return replace(one, knob=one.knob % 4 + 1)
    if one.engine == GATEWAY:
        return replace(one, knob=one.knob % 4 + 1)
    if draw.random.random() < 0.5:
        return replace(one, knob=256 * (one.knob // 256 % 6 + 1))
    stem, _, letters = one.mark.rpartition("-")
    return replace(one, mark=f"{stem}-{chr(ord(letters[0]) % 26 + ord('a'))}")


def _declared_names(draw: Draw, *, free: bool = False) -> list[str]:
    needed = draw.world.declared.needed() if free else set[str]()
    content = draw.world.declared.files[draw.file()]
    return sorted(name for name in content if name not in draw.avoid | needed)


def edit_flags(draw: Draw) -> Fault | None:
    names = draw.some(_declared_names(draw), 3)
    content = dict(draw.world.declared.files[draw.file()])
    if not names:
        return None
    for name in names:
        content[name] = _other(draw, content[name])
    return _edited(draw, "edit-flags", f"settings of {' '.join(names)}", content, names=set(names))


def edit_live(draw: Draw) -> Fault | None:
    names = draw.some(_declared_names(draw), 4)
    content = dict(draw.world.declared.files[draw.file()])
    if not names:
        return None
    for name in names:
        content[name] = replace(content[name], note=f"note {draw.random.randint(0, 999)}")
    return _edited(draw, "edit-live", f"description of {' '.join(names)}", content, names=set())


def edit_port(draw: Draw) -> Fault | None:
    content = dict(draw.world.declared.files[draw.file()])
    names = [name for name in _declared_names(draw) if content[name].port is not None]
    port = draw.one_port()
    if not names or port is None:
        return None
    name = draw.random.choice(names)
    content[name] = replace(content[name], port=port)
    return _edited(draw, "edit-port", f"port of {name}", content, names={name})


def swap_ports(draw: Draw) -> Fault | None:
    content = dict(draw.world.declared.files[draw.file()])
    names = [name for name in _declared_names(draw) if content[name].port is not None]
    if len(names) < 2:
        return None
    one, two = draw.random.sample(names, 2)
    first, second = content[one].port, content[two].port
    content[one] = replace(content[one], port=second)
    content[two] = replace(content[two], port=first)
    return _edited(draw, "swap-ports", f"{one} and {two} change ports", content, names={one, two})


def _fresh_name(draw: Draw) -> str:
    taken = {name for content in draw.world.declared.files.values() for name in content}
    return next(f"n{number}" for number in range(100) if f"n{number}" not in taken)


def add(draw: Draw) -> Fault | None:
    content = dict(draw.world.declared.files[draw.file()])
    port = draw.one_port()
    if len(content) >= MOST or port is None:
        return None
    name, fixed = _fresh_name(draw), draw.random.random() < 0.5
    content[name] = Server(
        "llama-server",
        port if fixed else None,
        512,
        f"{name}-a",
        str(draw.world.folder / "m0.gguf"),
        lively=draw.random.random() < 0.3,
        first=not fixed,
    )
    return _edited(draw, "add", f"with {name}", content, names={name})


def remove(draw: Draw) -> Fault | None:
    content = dict(draw.world.declared.files[draw.file()])
    names = [n for n in _declared_names(draw, free=True) if content[n].engine == "llama-server"]
    if len(content) <= FEWEST or not names:
        return None
    gone = draw.random.choice(names)
    del content[gone]
    return _edited(draw, "remove", f"without {gone}", content, names={gone})


def rename(draw: Draw) -> Fault | None:
    content = dict(draw.world.declared.files[draw.file()])
    names = [n for n in _declared_names(draw, free=True) if content[n].engine == "llama-server"]
    if not names:
        return None
    old, new = draw.random.choice(names), _fresh_name(draw)
    content[new] = replace(content.pop(old), mark=f"{new}-a")
    return _edited(draw, "rename", f"{old} is called {new}", content, names={old, new})


def edit_models(draw: Draw) -> Fault | None:
    content = dict(draw.world.declared.files[draw.file()])
    names = [n for n in draw.running("ollama") if n in content]
    if not names:
        return None
    one = content[names[0]]
    more = draw.random.choice([(), ("second",), ("second", "third"), ("third",)])
    content[names[0]] = replace(one, models=(one.models[0], *more))
    about = f"models of {names[0]}: {more}"
    return replace(_edited(draw, "edit-models", about, content, names=set(names)), loads=True)


def burst(draw: Draw) -> Fault | None:
    """Many saves in a moment, of which the last counts."""
    names = draw.some(_declared_names(draw), 2)
    if not names:
        return None
    file, world = draw.file(), draw.world
    first = dict(world.declared.files[file])
    saves = [first]
    for _ in range(draw.random.randint(3, 6)):
        saves.append({n: _other(draw, one) if n in names else one for n, one in saves[-1].items()})
    world.declared.edit(file, saves[-1])

    def hurt() -> None:
        for number in range(40):
            world.save(file, saves[number % len(saves)], "rename")
        world.save(file, saves[-1], "rename")

    # Whoever is quick may have taken one of them up, and had to go back.
    return Fault("burst", f"{file}: 41 saves about {' '.join(names)}", hurt, names=set(names))


def touch(draw: Draw) -> Fault | None:
    file, world, way = draw.file(), draw.world, draw.random.choice(["touch", *WAYS])
    content = world.declared.files[file]

    def hurt() -> None:
        if way == "touch":
            os.utime(world.path(file))
        else:
            world.save(file, content, way)

    return Fault("touch", f"{file} is written as it was ({way})", hurt)


BROKEN = {
    "no YAML": "instances: {a: [",
    "an unknown key": "instances: {i0: {model: tiny.gguf, prot: 1}}",
    "no instances at all": "{}",
    "nothing": "",
    "a missing model": "instances: {i0: {model: ./nowhere.gguf}}",
    "an unknown flag": "instances: {i0: {model: ../m0.gguf, flags: {no-such-flag: 1}}}",
    "no text": "\x00\x01\x02",
}


def broken(draw: Draw) -> Fault | None:
    """The file is invalid, or gone, for a while: nothing may change until it is mended."""
    file, world = draw.file(), draw.world
    what = draw.random.choice([*BROKEN, "gone"])
    way = draw.random.choice(WAYS)
    names = draw.some(_declared_names(draw), 2) if draw.random.random() < 0.5 else []
    content = {
        n: _other(draw, one) if n in names else one for n, one in world.declared.files[file].items()
    }
    world.declared.edit(file, content)

    def hurt() -> None:
        if what == "gone":
            world.path(file).unlink()
        else:
            world.save_text(file, BROKEN[what], way)
        if not draw.paired:
            world.until(
                lambda: not status(world.world)["profiles"][0]["ok"],
                f"{file} is shown as invalid ({what})",
            )

    about = f"{file}: {what}, then mended" + (f" with {' '.join(names)} edited" if names else "")
    return Fault(
        "broken", f"{about} ({way})", hurt, lambda: world.save(file, content, way), names=set(names)
    )
