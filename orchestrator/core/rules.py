"""Rules across fields of a profile: names, needs, ports, delays.

They look at plain values, of which any may be of a wrong kind: that is for the models to say, and
is passed over here. So a slip in one instance does not hide what is wrong between the others.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from itertools import islice

from msgspec import Struct

from orchestrator.core.address import hosts_overlap
from orchestrator.core.cycles import find_cycles
from orchestrator.core.engine import Issue
from orchestrator.core.fields import MAX_REPLICAS, NAME_HINT, is_name
from orchestrator.core.gateway_spec import GATEWAY
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
        _replicas(values),
        _needs(values),
        _ports(values),
        _gateway(values),
        _on_demand(values),
        _orders(values),
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


def _replicas_of(name: str, instance: Block) -> list[str]:
    """What its replicas are called; nothing where it says none, or what is no number of them."""
    count = instance.get("replicas")
    if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= MAX_REPLICAS:
        return []
    return [f"{name}-{number + 1}" for number in range(count)]


def _replicas(values: Block) -> Iterator[Issue]:
    """Replicas have names and ports of their own."""
    instances = _instances(values)
    owners = {one: name for name, block in instances.items() for one in _replicas_of(name, block)}
    for name, instance in instances.items():
        path: Path = ("instances", name)
        if name in owners:
            message = f"{shown(name)} is also a replica of {shown(owners[name])}"
            yield Issue(path, message, "give it another name")
        own = _replicas_of(name, instance)
        if own and is_name(name) and not is_name(own[-1]):
            message = f"{shown(own[-1])} cannot name a replica of {shown(name)}"
            yield Issue((*path, "replicas"), message, "give it a shorter name", key=False)
        if own and isinstance(instance.get("port"), int):
            message = f"replicas of {shown(name)} cannot all listen on port {instance['port']}"
            yield Issue((*path, "port"), message, "write `port: auto`", key=False)


def _needs(values: Block) -> Iterator[Issue]:
    """Every need is a known instance, and following needs never leads back."""
    graph: dict[str, list[str]] = {}
    owners: dict[str, str] = {}
    for name, instance in _instances(values).items():
        needs = instance.get("needs")
        # A need of a wrong kind keeps its index, so that paths stay right.
        graph[name] = [str(need) for need in needs] if isinstance(needs, list) else []
        owners |= dict.fromkeys(_replicas_of(name, instance), name)
    for name, needs in graph.items():
        for index, need in enumerate(needs):
            # To need one replica is to need a part of what has them.
            needs[index] = need if need in graph else owners.get(need, need)
            if needs[index] not in graph:
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


def _on_demand(values: Block) -> Iterator[Issue]:
    """What goes with a start on demand stands beside one, and nobody needs what may be down."""
    modes = {name: _start(values, one) for name, one in _instances(values).items()}
    for name, instance in _instances(values).items():
        for key in ("idle", "pin", "preload"):
            own = instance.get("engine", _DEFAULT_ENGINE) == _DEFAULT_ENGINE
            if own and instance.get(key) not in (None, False) and modes[name] != "on-demand":
                message = f"{key!r} of instance {shown(name)} goes with 'start: on-demand'"
                hint = "add 'start: on-demand', or remove the line"
                yield Issue(("instances", name, key), message, hint)
        needs = instance.get("needs")
        for index, need in enumerate(needs if isinstance(needs, list) else ()):
            if modes.get(str(need)) == "on-demand":
                message = f"instance {shown(name)} needs {shown(need)}, which runs on demand only"
                hint = f"remove 'start: on-demand' from {shown(need)}: it always has to run"
                yield Issue(("instances", name, "needs", index), message, hint, key=False)


def _start(values: Block, instance: Block) -> Plain:
    if instance.get("engine", _DEFAULT_ENGINE) != _DEFAULT_ENGINE:
        return None
    return instance.get("start", _defaults_of(values, instance).get("start"))


def _gateway(values: Block) -> Iterator[Issue]:
    """The gateway's own name is nobody else's, and its routes lead somewhere and not in circles."""
    gateway = values.get("gateway")
    if not isinstance(gateway, dict):
        return
    if GATEWAY in _instances(values):
        message = f"an instance cannot be named {GATEWAY!r} beside a 'gateway:'"
        yield Issue(("instances", GATEWAY), message, "give it another name")
    routes = {
        name: {"to": value} if isinstance(value, list) else _block(value)
        for name, value in _block(gateway.get("routes")).items()
    }
    yield from _clouds(values, gateway, routes)
    graph: dict[str, list[str]] = {}
    for name, route in routes.items():
        falls = route.get("fallback")
        graph[name] = [str(one) for one in falls] if isinstance(falls, list) else []
        yield from _aims(("gateway", "routes", name), name, route.get("to"))
    for circle in find_cycles(graph):
        path: Path = ("gateway", "routes", circle[0], "fallback")
        chain = " -> ".join(repr(name) for name in circle[:12])
        yield Issue(path, f"routes fall back to each other in a circle: {chain}", key=False)


def _aims(path: Path, name: str, to: Plain) -> Iterator[Issue]:
    """A route leads to each once, and to somebody."""
    listed = to if isinstance(to, list) else []
    aims = [one if isinstance(one, dict) else {"instance": one} for one in listed]
    seen: list[Plain] = []
    for at, aim in enumerate(aims):
        if aim.get("instance") in seen:
            message = f"route {shown(name)} leads to {shown(aim.get('instance'))} twice"
            yield Issue((*path, "to", at), message, "give it the weight of both", key=False)
        seen.append(aim.get("instance"))
    if aims and all(aim.get("weight") == 0 for aim in aims):
        yield Issue(
            (*path, "to"), f"nobody serves route {shown(name)}: every weight is 0", key=False
        )


def _clouds(values: Block, gateway: Block, routes: Collection[str]) -> Iterator[Issue]:
    """What is elsewhere is not called like what is here; clients and clouds have usual names."""
    for section, what in (("cloud", "a cloud"), ("tokens", "a client")):
        for name in _block(gateway.get(section)):
            if not is_name(name):
                message = f"{shown(name)} cannot name {what}"
                yield Issue(("gateway", section, name), message, NAME_HINT)
    here = {*_instances(values), *routes}
    for name in _block(gateway.get("cloud")):
        if name in here:
            what = "a route" if name in routes else "an instance"
            message = f"cloud {shown(name)} is called like {what}"
            yield Issue(("gateway", "cloud", name), message, "give it another name")


def _ports(values: Block) -> Iterator[Issue]:
    """No two instances listen on one fixed port of one address."""
    taken: dict[int, list[tuple[str, str | None]]] = {}
    listening = _instances(values) | {GATEWAY: _block(values.get("gateway"))}
    for name, instance in listening.items():
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
                path: Path = ("instances", name, "port") if name != GATEWAY else (GATEWAY, "port")
                yield Issue(path, message, hint, key=False)
                break
        else:
            # Only addresses that are free so far: thousands on one port are compared with one.
            holders.append((name, address))


class _Order(Struct, frozen=True):
    """Two values of one block, of which the first may not be more than the second.

    `usual` is what each is where nobody says it; None where that is no limit at all.
    """

    block: tuple[str, ...]
    low: str
    high: str
    read: Callable[[object], float]
    written: Callable[[float], str]
    usual: tuple[float | None, float | None] = (None, None)


def _size(value: object) -> float:
    return float(parse_size(value))


_RESTART, _LIVENESS = RestartPolicy(), Liveness()
_ORDERS = (
    _Order(
        ("restart",),
        "initial",
        "max",
        parse_duration,
        format_duration,
        (_RESTART.initial, _RESTART.max),
    ),
    _Order(
        ("liveness",),
        "slow",
        "down",
        parse_duration,
        format_duration,
        (_LIVENESS.slow, _LIVENESS.down),
    ),
    _Order(("limits", "memory"), "warn", "max", _size, lambda count: format_size(round(count))),
)


def _orders(values: Block) -> Iterator[Issue]:
    """What is to come first is not more than what is to come after it."""
    for name, instance in _instances(values).items():
        for order in _ORDERS:
            issue = _disorder(name, instance, _defaults_of(values, instance), order)
            if issue is not None:
                yield issue


def _disorder(name: str, instance: Block, defaults: Block, order: _Order) -> Issue | None:
    own, shared = instance, defaults
    for part in order.block:
        own, shared = _block(own.get(part)), _block(shared.get(part))
    said = {**shared, **own}
    pair = [said.get(key, one) for key, one in zip(_keys(order), order.usual, strict=True)]
    if not said or None in pair:
        return None
    try:
        low, high = map(order.read, pair)
    except ValueError:
        return None
    if low <= high:
        return None
    written = order.written
    message = (
        f"{'.'.join(order.block)} of instance {shown(name)}: {order.low} is {written(low)}, "
        f"more than {order.high}, {written(high)}"
    )
    given = order.low if order.low in own else order.high
    hint = f"set {order.high} to at least {written(low)}"
    return Issue(("instances", name, *order.block, given), message, hint)


def _keys(order: _Order) -> tuple[str, str]:
    return order.low, order.high
