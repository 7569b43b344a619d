"""What the process is called that is to follow another, or has been followed, and where it listens.

Beside `chat` there may be `chat~next`, which is to take its place, and `chat~old`, whose place was
taken: instances to the fold and the executor, and none to people, who cannot give such a name.
"""

from __future__ import annotations

from msgspec.structs import replace

from orchestrator.core.spec import Alternate, InstanceSpec

_NEXT, _OLD = "~next", "~old"


def next_of(name: str) -> str:
    """What the successor of an instance is called until it takes over."""
    return name + _NEXT


def old_of(name: str) -> str:
    """What the one before is called from then on."""
    return name + _OLD


def base_of(name: str) -> str:
    """The instance that people know."""
    return name.removesuffix(_NEXT).removesuffix(_OLD)


def is_aside(name: str) -> bool:
    """Whether it is a successor, or one that was followed."""
    return name.endswith((_NEXT, _OLD))


def is_next(name: str) -> bool:
    """Whether it is a successor."""
    return name.endswith(_NEXT)


def family(name: str) -> tuple[str, str, str]:
    """All that one instance may be called, what people call it first."""
    base = base_of(name)
    return base, next_of(base), old_of(base)


def variants(spec: InstanceSpec) -> tuple[InstanceSpec, ...]:
    """The same instance on each of its ports, each with the other one as its alternate."""
    other = spec.alternate
    if other is None:
        return (spec,)
    here = Alternate(spec.command, spec.endpoint)
    return spec, replace(spec, command=other.command, endpoint=other.endpoint, alternate=here)


def on_port(spec: InstanceSpec, port: int) -> InstanceSpec:
    """The variant that listens there; the first one where none does."""
    found = variants(spec)
    return next((one for one in found if one.endpoint.port == port), found[0])


def beside(spec: InstanceSpec, port: int) -> InstanceSpec | None:
    """The variant that can run at the same time as one on that port, by its name of then."""
    found = next((one for one in variants(spec) if one.endpoint.port != port), None)
    return replace(found, name=next_of(spec.name)) if spec.alternate and found else None


def held_ports(kept: dict[str, int], running: dict[str, int]) -> dict[str, int]:
    """Which ports instances are to have again: those they run on, else those that were `kept`.

    One that has taken over has the port that was its successor's; then the next one's is the other.
    """
    held = {**kept, **running}
    for name, port in running.items():
        coming = next_of(name)
        if kept.get(coming) == port and coming not in running and name in kept:
            held[coming] = kept[name]
    return held
