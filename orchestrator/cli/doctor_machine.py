"""The part of `doctor` about the machine: memory, models, ports, file watching."""

from __future__ import annotations

import os
from collections.abc import Iterator

from orchestrator.cli.finding import Finding
from orchestrator.cli.render import size
from orchestrator.cli.tables import counted
from orchestrator.core.gateway_spec import GATEWAY
from orchestrator.settings import Settings

LITTLE_MEMORY = 512 << 20
CGROUPS = "/sys/fs/cgroup"
WATCHES = ("max_user_watches", "max_user_instances")


def memory(_settings: Settings) -> Iterator[Finding]:
    """What there is, and what a container may take of it."""
    import psutil

    seen = psutil.virtual_memory()
    with open("/proc/self/cgroup", encoding="ascii") as file:
        limit = cgroup_limit(CGROUPS, file.read())
    data = {"total_bytes": seen.total, "available_bytes": seen.available, "limit_bytes": None}
    message = f"{size(seen.available)} of {size(seen.total)} available"
    if limit is not None and limit < seen.total:
        data["limit_bytes"] = limit
        message += f"; this cgroup may use {size(limit)}"
    if min(seen.available, limit or seen.available) < LITTLE_MEMORY:
        hint = "end other programs, or choose small models (`orchestrate models show REF`)"
        yield Finding("memory", "warn", message, hint, data)
    else:
        yield Finding("memory", "ok", message, data=data)


def cgroup_limit(root: str, membership: str) -> int | None:
    """The least memory limit of our cgroup and those above it; None when there is none.

    `membership` is the content of `/proc/self/cgroup`, of either version of cgroups.
    """
    limits: list[int] = []
    for line in membership.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            folder, name = root, "memory.max"
        elif "memory" in controllers.split(","):
            folder, name = os.path.join(root, "memory"), "memory.limit_in_bytes"
        else:
            continue
        parts = [part for part in path.split("/") if part]
        for depth in range(len(parts) + 1):
            limits += _number(os.path.join(folder, *parts[:depth], name))
    return min(limits, default=None)


def _number(path: str) -> list[int]:
    """The number in a file, if there is one: `max` means no limit."""
    try:
        with open(path, encoding="ascii") as file:
            text = file.read().strip()
    except OSError:
        return []
    return [int(text)] if text.isdecimal() else []


def models(settings: Settings) -> Iterator[Finding]:
    """Each place that is looked into, with what is there."""
    from orchestrator.cli.models import catalog_here, no_models_hint, places_here

    catalog = catalog_here(settings, os.environ)
    places = places_here(settings, os.environ)
    paths = [place.path for place in places]
    for place in places:
        inside = [one for one in catalog.models if _home(one.path, paths) == place.path]
        broken = [one for one in catalog.errors if _home(one.path, paths) == place.path]
        count = len(inside)
        data = {"path": place.path, "source": place.source, "models": count, "errors": len(broken)}
        message = f"{place.path} ({place.source}): {counted(count, 'model')}"
        if broken:
            message += f", {counted(len(broken), 'error')}: {broken[0].path} {broken[0].message}"
            hint = "`orchestrate models` lists all that cannot be read"
            yield Finding("models", "warn", message, hint, data)
        else:
            yield Finding("models", "ok", message, data=data)
    if not catalog.models:
        yield Finding("models", "warn", "none found", no_models_hint(settings, os.environ))


def _home(path: str, places: list[str]) -> str:
    """The innermost of the places that `path` lies in."""
    inside = [place for place in places if path == place or path.startswith(f"{place}/")]
    return max(inside, key=len, default="")


def ports(settings: Settings) -> Iterator[Finding]:
    """The ports that profiles declare, and strangers that hold one of them."""
    from orchestrator.cli.ollama_here import server_at
    from orchestrator.runtime import ports as sockets
    from orchestrator.runtime.identity import find_owned, state_id

    low, high = sockets.ephemeral_range()
    declared = list(_declared(settings))
    everyone = sockets.listeners()
    ours = {one.ref.pid for one in find_owned(state_id(settings.state_dir))}
    for name, host, port, attaches in declared:
        data = {"instance": name, "host": host, "port": port}
        called = "the gateway" if name == GATEWAY else f"instance {name}"
        for one in sockets.conflicting(host, port, everyone):
            holder = sockets.holder(one)
            if attaches and server_at(one.host, port) is not None:
                break
            if holder.pid is None or holder.pid not in ours:
                hint = f"end it, or give {called} another port (or `port: auto`)"
                message = f"port {port} of {called} is held by {holder}"
                yield Finding("ports", "warn", message, hint, data)
                break
        if low <= port <= high:
            hint = f"choose one below {low}, or `port: auto`"
            message = f"port {port} of {called} may be taken by any outgoing connection"
            yield Finding("ports", "warn", message, hint, data)
    data = {"declared": len(declared), "ephemeral": [low, high], "listening": len(everyone)}
    message = f"{counted(len(declared), 'fixed port')} in the profiles found"
    yield Finding("ports", "ok", f"{message}; auto ports keep out of {low}-{high}", data=data)


def _declared(settings: Settings) -> Iterator[tuple[str, str, int, bool]]:
    """(instance, host, port, whether it attaches to an Ollama there) of every fixed port, once;
    gateways too."""
    from orchestrator.cli.profiles import load, profile_files
    from orchestrator.core.profile import OllamaConfig, given

    seen: set[tuple[str, str, int]] = set()
    default = os.environ.get("ORCHESTRATE_HOST") or "127.0.0.1"
    for file in profile_files(settings):
        loaded = load(file, settings, os.environ)
        if loaded is None:
            continue
        gateway = loaded.config.gateway
        if gateway is not None and isinstance(gateway.port, int):
            whole = (GATEWAY, gateway.host or default, gateway.port)
            if whole not in seen:
                seen.add(whole)
                yield *whole, False
        for name, config in loaded.config.instances.items():
            host = loaded.config.effective(config).host or default
            attaches = (
                isinstance(config, OllamaConfig)
                and given("attach", config, loaded.config.defaults.ollama) != "never"
            )
            if isinstance(config.port, int) and (name, host, config.port) not in seen:
                seen.add((name, host, config.port))
                yield name, host, config.port, attaches


def inotify(_settings: Settings) -> Iterator[Finding]:
    """Whether applied files can be watched."""
    from orchestrator.runtime.inotify import open_inotify

    limits = {name: next(iter(_number(f"/proc/sys/fs/inotify/{name}")), None) for name in WATCHES}
    shown = ", ".join(f"{name} {value}" for name, value in limits.items() if value is not None)
    try:
        os.close(open_inotify())
    except OSError as error:
        message = f"files cannot be watched: {error.strerror} ({shown})"
        hint = "end programs that watch files, or raise fs.inotify.max_user_instances with sysctl"
        yield Finding("watch", "warn", message, hint, dict(limits))
        return
    yield Finding("watch", "ok", f"files can be watched ({shown})", data=dict(limits))
