"""The gateway of a profile, as an instance like any other: what runs, where it leads. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from orchestrator.core.blocks import GatewayConfig, RouteConfig
from orchestrator.core.engine import Issue
from orchestrator.core.gateway_spec import (
    GATEWAY,
    GATEWAY_TOKEN,
    TRIGGERS,
    CloudSpec,
    GatewaySpec,
    RouteAim,
    RouteSpec,
    TokenSpec,
    Trigger,
)
from orchestrator.core.parse import LoadedProfile
from orchestrator.core.port import PortChooser
from orchestrator.core.problem import Path, did_you_mean, listing
from orchestrator.core.reference import is_written
from orchestrator.core.served import names_of
from orchestrator.core.spec import (
    Command,
    Endpoint,
    InstanceSpec,
    Liveness,
    Readiness,
    RestartPolicy,
)
from orchestrator.core.web import read_url

KEPT = RestartPolicy(policy="always", initial=0.1, max=2.0, limit=200, window=600.0)
"""It is light, and everybody's address: nobody waits long for it, or gives it up soon."""


def resolve_gateway(
    loaded: LoadedProfile,
    specs: Mapping[str, InstanceSpec],
    *,
    program: tuple[str, ...],
    host: str,
    cwd: str,
    ports: PortChooser,
    whole: bool,
) -> tuple[InstanceSpec | None, list[Issue]]:
    """The spec, and what is wrong or doubtful; neither where there is no `gateway:`.

    `program` begins its command, `host` is the default address. `whole`: the profile's instances
    are all right, so that what leads to none of them leads nowhere.
    """
    config = loaded.config.gateway
    if config is None:
        return None, []
    known = {name for spec in specs.values() for name in names_of(spec)}
    issues = [*_clouds(loaded, config), *_tokens(config)]
    issues += [*_unknown(config, known), *_shadowed(config, known)] if whole else []
    if any(not issue.warning for issue in issues):
        return None, issues
    port = ports.choose(GATEWAY) if config.port == "auto" else config.port
    endpoint = Endpoint(config.host or host, port)
    argv = (*program, "--host", endpoint.host, "--port", str(port))
    env = {GATEWAY_TOKEN: config.token} if config.token else {}
    spec = InstanceSpec(
        name=GATEWAY,
        engine=GATEWAY,
        command=Command(argv, env, cwd),
        endpoint=endpoint,
        profiles=(loaded.name,),
        description="one address for all instances",
        auto_port=config.port == "auto",
        readiness=Readiness(path="/health"),
        liveness=Liveness(interval=5.0),
        restart=KEPT,
        gateway=_spec(config),
    )
    return spec, issues


def _spec(config: GatewayConfig) -> GatewaySpec:
    return GatewaySpec(
        routes=tuple(_route(name, route, config) for name, route in config.routes.items()),
        waiting=config.queue.size,
        patience=config.queue.deadline,
        log=config.log.requests,
        content=config.log.content,
        hosts=tuple(config.hosts),
        origins=tuple(config.origins),
        clouds=tuple(
            CloudSpec(name, cloud.url, cloud.key or "", cloud.model or "")
            for name, cloud in config.cloud.items()
        ),
        tokens=tuple(
            TokenSpec(name, one.token, one.priority) for name, one in config.tokens.items()
        ),
    )


def _route(name: str, route: RouteConfig, config: GatewayConfig) -> RouteSpec:
    weighed = any(aim.weight is not None for aim in route.to)
    aims = (
        RouteAim(aim.instance, (1 if aim.weight is None else aim.weight) if weighed else None)
        for aim in route.to
    )
    warn = config.fallback.warn if route.warn is None else route.warn
    # In the order that they are known by: whoever writes them otherwise means the same.
    on: tuple[Trigger, ...] = tuple(one for one in TRIGGERS if one in route.on)
    return RouteSpec(name, tuple(aims), tuple(route.fallback), route.slow, on, warn)


def _clouds(loaded: LoadedProfile, config: GatewayConfig) -> Iterator[Issue]:
    """Keys come from the environment, and do not travel where everybody can read them."""
    variables = loaded.written().get("vars")
    for name, cloud in config.cloud.items():
        path: Path = ("gateway", "cloud", name)
        if cloud.key is None:
            continue
        if is_written(_at(loaded.written(), (*path, "key")), variables or {}):
            message = f"the key of cloud {name!r} is written into the profile"
            hint = "write `key: ${env:NAME}`, and set that variable where `apply` is run"
            yield Issue((*path, "key"), message, hint, key=False)
        elif not (cloud.key.isascii() and cloud.key.isprintable()):
            message = f"the key of cloud {name!r} has characters that none can have"
            yield Issue((*path, "key"), message, "look at what the variable holds", key=False)
        url = read_url(cloud.url)
        if url.scheme == "http" and not url.is_here:
            message = f"the key of cloud {name!r} goes over the network as it is"
            yield Issue((*path, "url"), message, "use https://", key=False, warning=True)


def _at(value: Any, path: Path) -> Any:
    for part in path:
        value = value.get(part) if isinstance(value, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return value  # pyright: ignore[reportUnknownVariableType]


def _tokens(config: GatewayConfig) -> Iterator[Issue]:
    """Whoever sends a token is one client."""
    owners = {config.token: "token"} if config.token else {}
    for name, one in config.tokens.items():
        path: Path = ("gateway", "tokens", name)
        if one.token in owners:
            other = owners[one.token]
            whose = "the gateway's own" if other == "token" else f"also that of {other!r}"
            yield Issue(path, f"the token of {name!r} is {whose}", "give each another")
        owners[one.token] = name


def _shadowed(config: GatewayConfig, known: Collection[str]) -> Iterator[Issue]:
    for name in config.cloud:
        if name in known:
            message = f"cloud {name!r} is called like a model, or an instance"
            yield Issue(("gateway", "cloud", name), message, "give it another name")


def _unknown(config: GatewayConfig, known: Collection[str]) -> Iterator[Issue]:
    """Routes that lead to what no instance of the profile is called; a fallback may be a route, or
    a cloud."""
    falls = {*known, *config.routes, *config.cloud}
    for name, route in config.routes.items():
        path: Path = ("gateway", "routes", name)
        named = [((*path, "to", at), aim.instance, known) for at, aim in enumerate(route.to)]
        named += [((*path, "fallback", at), one, falls) for at, one in enumerate(route.fallback)]
        for where, word, among in named:
            if word in among:
                continue
            hint = did_you_mean(word, among) or f"one of: {listing(sorted(among))}"
            if word in config.cloud:
                hint = "a cloud is only ever fallen back to: name it under `fallback:`"
            message = f"route {name!r} leads to {word!r}, which nothing is called"
            yield Issue(where, message, hint, key=False)
