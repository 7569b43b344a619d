"""What `gateway:` means once it is resolved: a part of the spec of the one gateway."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from msgspec import Struct

Priority = Literal["high", "normal", "low"]
Trigger = Literal["down", "overloaded", "slow", "failing"]
TRIGGERS: tuple[Trigger, ...] = ("down", "overloaded", "slow", "failing")
"""Why a request goes to what a route falls back to."""

GATEWAY = "gateway"
"""The name of the one gateway, and of its engine: the program is a part of this package."""

GATEWAY_TOKEN = "ORCHESTRATE_GATEWAY_TOKEN"
"""The variable by which it learns its token: an argument could be read by everybody."""


class RouteAim(Struct, frozen=True):
    """An instance, or a name that one serves. `weight` is its share of the requests beside the
    others'; None where whoever is least busy is chosen."""

    name: str
    weight: int | None = None


class RouteSpec(Struct, frozen=True):
    """A name that clients may ask for. `fallback` are other names, tried in order for the reasons
    in `on`; it is slow when it has said nothing for `slow` seconds. `warn` is the percentage of
    requests served by a fallback above which that is told."""

    name: str
    to: tuple[RouteAim, ...]
    fallback: tuple[str, ...] = ()
    slow: float | None = None
    on: tuple[Trigger, ...] = TRIGGERS
    warn: float | None = None


@dataclass(frozen=True, slots=True)
class CloudSpec:
    """A server elsewhere that speaks OpenAI's protocol: only ever fallen back to. `model` is what
    it is asked for, "" for what the client asked for."""

    name: str
    url: str
    key: str = field(default="", repr=False)
    model: str = ""


@dataclass(frozen=True, slots=True)
class TokenSpec:
    """A client by name. `priority` is the most that its requests may have; None leaves that to
    them."""

    name: str
    token: str = field(repr=False)
    priority: Priority | None = None


class GatewaySpec(Struct, frozen=True):
    """What the gateway does beside listening: its routes, how many requests may wait for one
    instance (None: by its slots), and for how many seconds; which of them are logged, and whether
    with what was asked. `hosts` and `origins`: see its door."""

    routes: tuple[RouteSpec, ...] = ()
    waiting: int | None = None
    patience: float = 30.0
    log: str = "all"
    content: bool = False
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    clouds: tuple[CloudSpec, ...] = ()
    tokens: tuple[TokenSpec, ...] = ()
