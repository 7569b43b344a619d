"""Instances that are one and the same several times: what each is called, and whose it is. Pure.

`coder` with `replicas: 3` is `coder-1`, `coder-2` and `coder-3`; `coder` means all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from orchestrator.core.spec import InstanceSpec

if TYPE_CHECKING:
    # It takes a tenth of a second to import, and `status` needs none of it.
    from orchestrator.core.profile import InstanceConfig


def replica(name: str, number: int) -> str:
    """What the replica of this number, from 1, is called."""
    return f"{name}-{number}"


def members(name: str, config: InstanceConfig) -> tuple[str, ...]:
    """The instances that a declared one is: itself, where it says nothing of replicas."""
    if config.engine != "llama-server" or config.replicas is None:
        return (name,)
    return tuple(replica(name, number + 1) for number in range(config.replicas))


def spread(names: Iterable[str], instances: Mapping[str, InstanceConfig]) -> Iterator[str]:
    """`names` with the replicas in place of what is declared."""
    for name in names:
        config = instances.get(name)
        yield from members(name, config) if config is not None else (name,)


def families(specs: Iterable[InstanceSpec]) -> dict[str, set[str]]:
    """The replicas of each that has some."""
    found: dict[str, set[str]] = {}
    for spec in specs:
        if spec.replica_of:
            found.setdefault(spec.replica_of, set()).add(spec.name)
    return found


def meant_by(names: Sequence[str], families: Mapping[str, Iterable[str]]) -> list[str]:
    """Instances by name, each once: whoever names what has replicas means all of them."""
    each = (one for name in names for one in sorted(families.get(name, (name,)), key=_in_order))
    return list(dict.fromkeys(each))


def _in_order(name: str) -> tuple[str, int]:
    head, _, number = name.rpartition("-")
    return (head, int(number)) if number.isdecimal() else (name, 0)
