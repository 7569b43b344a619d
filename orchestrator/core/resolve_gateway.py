"""The gateway of a profile, as an instance like any other: what runs, where it leads. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from orchestrator.core.engine import Issue
from orchestrator.core.parse import LoadedProfile
from orchestrator.core.port import PortChooser
from orchestrator.core.problem import Path, did_you_mean, listing
from orchestrator.core.profile import GatewayConfig
from orchestrator.core.served import names_of
from orchestrator.core.spec import (
    GATEWAY,
    GATEWAY_TOKEN,
    Command,
    Endpoint,
    GatewaySpec,
    InstanceSpec,
    Liveness,
    Readiness,
    RestartPolicy,
    RouteAim,
    RouteSpec,
)


def resolve_gateway(
    loaded: LoadedProfile,
    specs: Mapping[str, InstanceSpec],
    *,
    program: tuple[str, ...],
    host: str,
    cwd: str,
    ports: PortChooser,
) -> InstanceSpec | list[Issue]:
    """The spec, or what is wrong; no issue and no spec where there is no `gateway:`.

    `program` begins its command, `host` is the default address.
    """
    config = loaded.config.gateway
    if config is None:
        return []
    known = {name for spec in specs.values() for name in names_of(spec)}
    # An instance that is wrong itself is an error already: what leads there is none of its own.
    whole = len(specs) == len(loaded.config.instances)
    if whole and (issues := _unknown(config, known)):
        return issues
    port = ports.choose(GATEWAY) if config.port == "auto" else config.port
    endpoint = Endpoint(config.host or host, port)
    argv = (*program, "--host", endpoint.host, "--port", str(port))
    env = {GATEWAY_TOKEN: config.token} if config.token else {}
    return InstanceSpec(
        name=GATEWAY,
        engine=GATEWAY,
        command=Command(argv, env, cwd),
        endpoint=endpoint,
        profiles=(loaded.name,),
        description="one address for all instances",
        auto_port=config.port == "auto",
        readiness=Readiness(path="/health"),
        liveness=Liveness(),
        restart=RestartPolicy(policy="always"),
        gateway=GatewaySpec(
            _routes(config),
            config.queue.size,
            config.queue.deadline,
            log=config.log.requests,
            content=config.log.content,
        ),
    )


def _routes(config: GatewayConfig) -> tuple[RouteSpec, ...]:
    return tuple(
        RouteSpec(
            name,
            tuple(RouteAim(aim.instance, aim.weight) for aim in route.to),
            tuple(route.fallback),
            route.slow,
        )
        for name, route in config.routes.items()
    )


def _unknown(config: GatewayConfig, known: Collection[str]) -> list[Issue]:
    """Routes that lead to what no instance of the profile is called; a fallback may be a route."""
    issues: list[Issue] = []
    for name, route in config.routes.items():
        path: Path = ("gateway", "routes", name)
        named = [((*path, "to", at), aim.instance, known) for at, aim in enumerate(route.to)]
        falls = {*known, *config.routes}
        named += [((*path, "fallback", at), one, falls) for at, one in enumerate(route.fallback)]
        for where, word, among in named:
            if word not in among:
                hint = did_you_mean(word, among) or f"one of: {listing(sorted(among))}"
                message = f"route {name!r} leads to {word!r}, which nothing is called"
                issues.append(Issue(where, message, hint, key=False))
    return issues
