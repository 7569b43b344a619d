"""What the daemon says there is: instances, what they are called, and the routes between them.

A table is never changed: the next one takes its place. It is built from JSON, so the gateway and a
daemon of another version understand each other as far as they can.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from msgspec import Struct

from orchestrator.core.gateway_spec import TRIGGERS
from orchestrator.gateway.outbound import Address

EVERY_REASON: frozenset[str] = frozenset(TRIGGERS)

COMES = frozenset({"pending", "starting", "unready", "backoff", "stopping"})
"""Phases that may end in `ready` without anybody's doing."""

SOON = frozenset({"starting", "stopping"})
"""Those of them that have not just failed."""


@dataclass(frozen=True, slots=True)
class Target:
    """An instance, or a server elsewhere, that requests can be sent to.

    `run` tells one process of it from the next. `slots` is how many it works on at once, None where
    nobody knows. `model` replaces what the client called it, where the server goes by the name.
    `on_demand`: it runs when somebody asks for it; `rests`: it is down until then; `failing`: its
    last start came to nothing; `starts_within`: the most seconds that a start takes.
    """

    name: str
    engine: str
    address: Address
    tls: bool = False
    prefix: str = ""
    run: str = ""
    phase: str = "ready"
    reason: str = ""
    message: str = ""
    slots: int | None = None
    key: str = field(default="", repr=False)
    models: tuple[str, ...] = ()
    on_demand: bool = False
    replica_of: str = ""
    facts: Mapping[str, Mapping[str, Any]] = field(
        default_factory=dict[str, Mapping[str, Any]], compare=False
    )
    """What clients are told of a model, by what the server calls it; empty for its only one."""
    rests: bool = False
    failing: bool = False
    starts_within: float = 0.0

    @property
    def serves(self) -> bool:
        return self.phase == "ready"

    @property
    def is_cloud(self) -> bool:
        """Somebody else's server, elsewhere."""
        return self.engine == "cloud"

    @property
    def comes_soon(self) -> bool:
        """Whether waiting for it is better than to fall back: it is on its way, and what it was
        before has not failed."""
        begins = self.phase == "pending" and not self.reason
        return begins or self.phase in SOON or self.wakes

    @property
    def seats(self) -> tuple[str, str]:
        """Whose seats are counted: another process of an instance has all of its own free."""
        return self.name, self.run

    @property
    def comes(self) -> bool:
        """Whether waiting for it can help. Who asks for a start is told why it has failed, at once
        and not when it was tried often enough."""
        if self.on_demand and self.failing:
            return False
        return self.phase in COMES or self.rests

    @property
    def wakes(self) -> bool:
        """Whether it is only down because nobody has asked, or comes up since somebody has."""
        return self.on_demand and self.comes and not self.serves

    @classmethod
    def of_json(cls, row: Mapping[str, Any]) -> Target:
        return cls(
            name=row["name"],
            engine=row["engine"],
            address=(row["host"], row["port"]),
            tls=row.get("scheme") == "https",
            prefix=row.get("prefix", ""),
            run=row.get("run", ""),
            phase=row["phase"],
            reason=row.get("reason", ""),
            message=row.get("message", ""),
            slots=row.get("slots"),
            key=row.get("key", ""),
            models=tuple(row.get("models", ())),
            on_demand=row.get("on_demand", False),
            replica_of=row.get("replica_of", ""),
            facts=row.get("facts", {}),
            rests=row.get("rests", False),
            failing=row.get("failing", False),
            starts_within=row.get("starts_within", 0.0),
        )


class Aim(Struct, frozen=True):
    """One way to serve a name: a target, and what to call the model there.

    Aims with the same `side` are alike; `weight` is the share of the side among those of its name.
    """

    target: str
    model: str = ""
    weight: int = 1
    side: str = ""


class Route(Struct, frozen=True):
    """A name that clients may ask for: who serves it, and what to fall back to, in order.

    `slow` is the seconds to the first byte after which the next is tried; None waits. `on` are the
    reasons for which the next is tried.
    """

    name: str
    aims: tuple[Aim, ...]
    fallback: tuple[str, ...] = ()
    slow: float | None = None
    on: frozenset[str] = EVERY_REASON


@dataclass(frozen=True, slots=True)
class Token:
    """A client by name. `priority` is the most that it may ask for."""

    name: str
    token: bytes = field(repr=False)
    priority: str | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """All of it. `names` are spelled as they are shown; they are looked up without case.

    `number` is `daemon`'s: another daemon counts anew.
    """

    number: int = 0
    daemon: str = ""
    targets: Mapping[str, Target] = field(default_factory=dict[str, Target])
    names: Mapping[str, Route] = field(default_factory=dict[str, Route])
    folded: Mapping[str, Route] = field(default_factory=dict[str, Route])
    clouds: Mapping[str, Route] = field(default_factory=dict[str, Route])
    """What only a fallback may name."""
    tokens: tuple[Token, ...] = ()
    _choices: dict[str, tuple[Route, tuple[tuple[Aim, Target], ...]]] = field(
        default_factory=dict[str, "tuple[Route, tuple[tuple[Aim, Target], ...]]"],
        compare=False,
        repr=False,
    )

    @classmethod
    def of_json(cls, body: Mapping[str, Any]) -> Table:
        targets = {row["name"]: Target.of_json(row) for row in body.get("targets", ())}
        names = {row["name"]: _route(row) for row in body.get("names", ())}
        folded: dict[str, Route] = {}
        for name, route in names.items():
            folded.setdefault(name.casefold(), route)
        return cls(
            body.get("number", 0),
            body.get("daemon", ""),
            targets,
            names,
            folded,
            {row["name"]: _route(row) for row in body.get("clouds", ())},
            tuple(
                Token(row["name"], row["token"].encode(), row.get("priority"))
                for row in body.get("tokens", ())
            ),
        )

    def route(self, name: str) -> Route | None:
        """What a client means, however it spells case, `.gguf` or `:latest`."""
        if found := self.names.get(name):
            return found
        text = name.casefold()
        return (
            self.folded.get(text)
            or self.folded.get(text.removesuffix(".gguf"))
            or self.folded.get(text.removesuffix(":latest"))
        )

    def leg(self, name: str) -> Route | None:
        """What a fallback means: a cloud, or what a client would mean."""
        return self.clouds.get(name) or self.route(name)

    def choices(self, route: Route) -> tuple[tuple[Aim, Target], ...]:
        """The same as `aims`, worked out once for a route of this table."""
        known = self._choices.get(route.name)
        if known is not None and known[0] is route:
            return known[1]
        found = tuple(self.aims(route))
        if self.names.get(route.name) is route:
            self._choices[route.name] = route, found
        return found

    def aims(self, route: Route) -> Iterable[tuple[Aim, Target]]:
        """The aims of a route that there is anything behind."""
        for aim in route.aims:
            target = self.targets.get(aim.target)
            if target is not None:
                yield aim, target


def _route(row: Mapping[str, Any]) -> Route:
    aims = tuple(
        Aim(
            aim["target"],
            aim.get("model", ""),
            aim.get("weight", 1),
            # One name may be a side of several routes, which share nothing.
            f"{row['name']}/{aim['side']}" if "side" in aim else "",
        )
        for aim in row["aims"]
    )
    on = frozenset(row["on"]) if "on" in row else EVERY_REASON
    return Route(row["name"], aims, tuple(row.get("fallback", ())), row.get("slow"), on)
