"""Rules across fields of a profile: names, needs, ports, delays.

They look at plain values, of which any may be of a wrong kind: that is for the models to say, and
is passed over here. So a slip in one instance does not hide what is wrong between the others.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from orchestrator.core.address import hosts_overlap
from orchestrator.core.cycles import find_cycles
from orchestrator.core.engine import Issue
from orchestrator.core.fields import NAME_HINT, is_name
from orchestrator.core.nodes import Plain, shown
from orchestrator.core.problem import Path
from orchestrator.core.reference import VARIABLE_NAME
from orchestrator.core.spec import Liveness, RestartPolicy
from orchestrator.core.suggestion import MAX_ISSUES, suggest
from orchestrator.core.units import (
    format_duration,
    format_size,
    parse_duration,
    parse_size,
)

_DEFAULT_ENGINE = "llama-server"

Block = dict[str, Plain]


def broken_rules(values: Block) -> list[Issue]:
    """What breaks the rules in `values`, of each rule no more than anybody reads."""
    rules = (
        _names(values),
        _needs(values),
        _ports(values),
        _delays(values),
        _patience(values),
        _memory_limits(values),
    )
    return [issue for rule in rules for issue in islice(rule, MAX_ISSUES + 1)]


def _block(value: Plain) -> Block:
    return value if isinstance(value, dict) else {}


def _instances(values: Block) -> dict[str, Block]:
    return {name: _block(value) for name, value in _block(values.get("instances")).items()}


def _defaults_of(values: Block, instance: Block) -> Block:
    engine = instance.get("engine", _DEFAULT_ENGINE)
    return _block(_block(values.get("defaults")).get(engine)) if isinstance(engine, str) else {}


def _names(values: Block) -> Iterator[Issue]:
    """Keys that are names: instances, variables, environment variables."""
    for name in _block(values.get("instances")):
        if not is_name(name):
            yield Issue(("instances", name), f"{shown(name)} cannot name an instance", NAME_HINT)
    for name in _block(values.get("vars")):
        if VARIABLE_NAME.fullmatch(name) is None:
            hint = "use letters, digits, '_' and '-', first a letter or '_'"
            yield Issue(("vars", name), f"{shown(name)} cannot name a variable", hint)
    for section in ("defaults", "instances"):
        for owner, block in _block(values.get(section)).items():
            for name in _block(_block(block).get("env")):
                if not name or "=" in name:
                    path: Path = (section, owner, "env", name)
                    yield Issue(path, f"{shown(name)} cannot name an environment variable")


def _needs(values: Block) -> Iterator[Issue]:
    """Every need is a known instance, and following needs never leads back."""
    graph: dict[str, list[str]] = {}
    for name, instance in _instances(values).items():
        needs = instance.get("needs")
        # A need of a wrong kind keeps its index, so that paths stay right.
        graph[name] = [str(need) for need in needs] if isinstance(needs, list) else []
    for name, needs in graph.items():
        for index, need in enumerate(needs):
            if need not in graph:
                path: Path = ("instances", name, "needs", index)
                message = f"instance {shown(name)} needs unknown instance {shown(need)}"
                yield Issue(path, message, suggest(need, graph), key=False)
    for circle in find_cycles(graph):
        first = ("instances", circle[0], "needs", graph[circle[0]].index(circle[1]))
        if len(circle) == 2:
            yield Issue(first, f"instance {shown(circle[0])} needs itself", key=False)
            continue
        chain = " -> ".join(repr(name) for name in circle[:12]) + (" ..." if circle[12:] else "")
        yield Issue(first, f"instances need each other in a circle: {chain}", key=False)


def _ports(values: Block) -> Iterator[Issue]:
    """No two instances listen on one fixed port of one address."""
    taken: dict[int, list[tuple[str, str | None]]] = {}
    for name, instance in _instances(values).items():
        port = instance.get("port")
        if not isinstance(port, int):
            continue
        host = instance.get("host", _defaults_of(values, instance).get("host"))
        address = host if isinstance(host, str) else None
        holders = taken.setdefault(port, [])
        for other, its_address in holders:
            if hosts_overlap(address, its_address):
                message = f"port {port} of instance {shown(name)} is also that of {shown(other)}"
                hint = "choose another, or 'auto'"
                yield Issue(("instances", name, "port"), message, hint, key=False)
                break
        else:
            # Only addresses that are free so far: thousands on one port are compared with one.
            holders.append((name, address))


def _delays(values: Block) -> Iterator[Issue]:
    """The longest restart delay is not shorter than the first."""
    for name, instance in _instances(values).items():
        own = _block(instance.get("restart"))
        restart = {**_block(_defaults_of(values, instance).get("restart")), **own}
        if not restart:
            continue
        policy = RestartPolicy()
        try:
            initial = parse_duration(restart.get("initial", policy.initial))
            longest = parse_duration(restart.get("max", policy.max))
        except ValueError:
            continue
        if initial <= longest:
            continue
        message = (
            f"restart of instance {shown(name)}: initial is {format_duration(initial)}, "
            f"more than max, {format_duration(longest)}"
        )
        given = "initial" if "initial" in own else "max"
        hint = f"set max to at least {format_duration(initial)}"
        yield Issue(("instances", name, "restart", given), message, hint)


def _memory_limits(values: Block) -> Iterator[Issue]:
    """What ends an instance is not less than what is only told."""
    for name, instance in _instances(values).items():
        own = _block(_block(instance.get("limits")).get("memory"))
        shared = _block(_block(_defaults_of(values, instance).get("limits")).get("memory"))
        memory = {**shared, **own}
        if "warn" not in memory or "max" not in memory:
            continue
        try:
            warn, most = parse_size(memory["warn"]), parse_size(memory["max"])
        except ValueError:
            continue
        if warn <= most:
            continue
        message = (
            f"limits of instance {shown(name)}: memory.warn is {format_size(warn)}, "
            f"more than max, {format_size(most)}"
        )
        given = "warn" if "warn" in own else "max"
        hint = "set warn below max, or leave it out"
        yield Issue(("instances", name, "limits", "memory", given), message, hint)


def _patience(values: Block) -> Iterator[Issue]:
    """A token that counts as none has been slow before."""
    for name, instance in _instances(values).items():
        own = _block(instance.get("liveness"))
        liveness = {**_block(_defaults_of(values, instance).get("liveness")), **own}
        usual = Liveness()
        try:
            slow = parse_duration(liveness.get("slow", usual.slow))
            down = parse_duration(liveness.get("down", usual.down))
        except ValueError:
            continue
        if slow <= down:
            continue
        message = (
            f"liveness of instance {shown(name)}: slow is {format_duration(slow)}, "
            f"more than down, {format_duration(down)}"
        )
        given = "slow" if "slow" in own else "down"
        hint = f"set down to at least {format_duration(slow)}"
        yield Issue(("instances", name, "liveness", given), message, hint)
