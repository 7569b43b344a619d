"""What another world has to know of profiles that it is to run. Pure.

There it is our daemon again that runs them: no profile is translated into command lines of
engines, for what makes it worth having (readiness, causes, roll-back, edits that are taken up,
models that are brought) is done by the daemon. So a profile means the same everywhere, and only
what lies around it is asked for here: ports, variables, memory, GPUs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, cast

from msgspec import Struct

from orchestrator.core.gateway_spec import GATEWAY
from orchestrator.core.parse import LoadedProfile
from orchestrator.core.problem import Problem
from orchestrator.core.profile import Effective, InstanceConfig, OllamaConfig, Profile, given
from orchestrator.core.reference import Reference, is_written, references
from orchestrator.core.secret import is_secret_name, masked_argv

DAEMON_MEMORY = 160 << 20
"""Bytes that the daemon is planned with beside its instances: what it takes, and some to spare."""

GATEWAY_MEMORY = 64 << 20
"""Bytes that a gateway is planned with."""

ENDING = 5.0
"""Seconds that the daemon may take beside the slowest instance: its grace and, with a gateway, what
its requests are given to end."""

LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


class Exported(Struct, frozen=True):
    """Profiles, and what lies around them.

    `ports` are those that others can reach, by instance, the gateway's first. `variables` are what
    the profiles refer to, with whether they can do without. `limit` are bytes for all together,
    `reserved` for those that are there at once, None where not every instance says one. `gpus` are
    the indices of those that are asked for, None for whatever is there; `wants_gpus` whether any
    instance asks at all.
    """

    profiles: tuple[LoadedProfile, ...]
    ports: tuple[tuple[str, int], ...]
    variables: tuple[tuple[str, bool], ...]
    reserved: int | None
    limit: int | None
    gpus: tuple[int, ...] | None
    wants_gpus: bool
    grace: float
    needs_models: bool
    """Some instance names a model on disk."""
    warnings: tuple[Problem, ...]

    @property
    def name(self) -> str:
        """What it is called there: the first profile, as the label of a domain name."""
        label = re.sub(r"[^a-z0-9-]+", "-", self.profiles[0].name.lower()).strip("-")
        return label[:40].strip("-") or "orchestrate"


def exported(profiles: Sequence[LoadedProfile]) -> Exported:
    """Of valid profiles, at least one."""
    members = [
        _Member(profile, name, config, profile.config.effective(config))
        for profile in profiles
        for name, config in profile.config.instances.items()
    ]
    each = [one.effective for one in members for _ in range(one.replicas)]
    asked = [one.resources.gpus for one in each if one.resources.gpus not in (None, ())]
    indices = {index for one in asked if isinstance(one, tuple) for index in one}
    gateway = next((one for one in profiles if one.config.gateway is not None), None)
    outlet = _outlet(gateway)
    extra, ending = (GATEWAY_MEMORY, _drained) if gateway is not None else (0, _stopped)
    warnings = [said for one in members for said in _warnings(one, reached=outlet is not None)]
    return Exported(
        profiles=tuple(profiles),
        ports=(
            *([(GATEWAY, outlet)] if outlet is not None else ()),
            *(port for one in members for port in one.ports),
        ),
        variables=_variables(profiles),
        reserved=_needed(members, extra),
        limit=_sum([one.limits.memory_max for one in each], extra),
        gpus=None if "auto" in asked else tuple(sorted(indices)),
        wants_gpus=bool(asked),
        grace=max(map(ending, each), default=0.0) + ENDING,
        needs_models=any(on_disk(one.config) for one in members),
        warnings=(*_closed(gateway), *warnings),
    )


def _stopped(effective: Effective) -> float:
    return effective.stop.grace


def _drained(effective: Effective) -> float:
    return effective.stop.drain + effective.stop.grace


class _Member(Struct, frozen=True):
    """An instance with what holds for it."""

    profile: LoadedProfile
    name: str
    config: InstanceConfig
    effective: Effective

    @property
    def ports(self) -> list[tuple[str, int]]:
        port = self.config.port
        known = isinstance(port, int) and self.effective.host not in LOOPBACK
        return [(self.name, port)] if known and isinstance(port, int) else []

    @property
    def replicas(self) -> int:
        return 1 if isinstance(self.config, OllamaConfig) else self.config.replicas or 1

    @property
    def on_demand(self) -> bool:
        return _on_demand(self.profile.config, self.config)


def _on_demand(profile: Profile, config: InstanceConfig) -> bool:
    if isinstance(config, OllamaConfig):
        return False
    return given("start", config, profile.defaults.llama_server) == "on-demand"


def _outlet(profile: LoadedProfile | None) -> int | None:
    """The gateway's port, where others can reach it: through it they reach all instances."""
    config = profile.config.gateway if profile is not None else None
    if config is None or config.host in LOOPBACK or not isinstance(config.port, int):
        return None
    return config.port


def _closed(profile: LoadedProfile | None) -> Iterator[Problem]:
    """Why others cannot reach the gateway, if so."""
    config = profile.config.gateway if profile is not None else None
    if profile is None or config is None:
        return
    if config.host in LOOPBACK:
        message = f"the gateway listens on {config.host}, which only its own container reaches"
        hint = "leave `host` out: there it listens on all addresses"
        yield Problem(message, profile.place((GATEWAY, "host")), (GATEWAY, "host"), hint)
    elif not isinstance(config.port, int):
        message = "the gateway has no port that is known beforehand: nobody reaches it from outside"
        place = profile.place((GATEWAY, "port"))
        yield Problem(message, place, (GATEWAY, "port"), "give it a port, as in 8080")


def on_disk(config: InstanceConfig) -> list[str]:
    """The references to models on disk of an instance."""
    if isinstance(config, OllamaConfig):
        return [model.gguf for model in config.models if model.gguf is not None]
    return [config.model]


def _sum(sizes: Sequence[int | None], more: int) -> int | None:
    """With the daemon, and `more`; None where one of them is not known."""
    if not sizes or None in sizes:
        return None
    return DAEMON_MEMORY + more + sum(size for size in sizes if size is not None)


def _needed(members: Sequence[_Member], more: int) -> int | None:
    """What has to be there: for those that run on demand, room for the largest of them."""
    sizes = [
        (one.effective.resources.memory, one.on_demand)
        for one in members
        for _ in range(one.replicas)
    ]
    always = [size for size, on_demand in sizes if not on_demand]
    asked = [size for size, on_demand in sizes if on_demand]
    if None in asked:
        return None
    largest = max((size for size in asked if size is not None), default=None)
    return _sum([*always, largest] if asked else always, more)


def _variables(profiles: Sequence[LoadedProfile]) -> tuple[tuple[str, bool], ...]:
    """Those that values refer to: one in a comment would be waited for, and never come."""
    found = [one for profile in profiles for one in _referred(profile.written()) if one.env]
    needed = {one.name for one in found if one.default is None}
    return tuple((name, name not in needed) for name in sorted({one.name for one in found}))


def _referred(value: object) -> Iterator[Reference]:
    if isinstance(value, dict):
        value = [*cast("dict[str, object]", value).values()]
    if isinstance(value, list):
        for one in cast("list[object]", value):
            yield from _referred(one)
    else:
        yield from references(value)


def _warnings(member: _Member, *, reached: bool) -> Iterator[Problem]:
    """What is so here, and will not be so there. `reached`: through a gateway."""
    name, config, effective = member.name, member.config, member.effective
    path = ("instances", name)

    def told(key: str, message: str, hint: str) -> Problem:
        return Problem(message, member.profile.place((*path, key)), (*path, key), hint)

    if not reached and effective.host in LOOPBACK:
        message = f"{name} listens on {effective.host}, which only its own container reaches"
        yield told("host", message, "leave `host` out: there it listens on all addresses")
    elif not reached and not isinstance(config.port, int):
        message = f"{name} has no port that is known beforehand: nobody reaches it from outside"
        yield told("port", message, "give it a port, as in 8081, or the profile a `gateway:`")
    if effective.binary is not None:
        message = f"{name} runs {effective.binary}, which has to be in the image"
        yield told("binary", message, "leave `binary` out to run the image's own")


def is_path(ref: str) -> bool:
    """Whether a reference can only mean a file at its place."""
    within = "/" in ref and ref.lower().endswith(".gguf") and not ref.startswith("hf:")
    return within or ref.startswith(("/", "./", "../", "~/"))


def strays(exported: Exported) -> Iterator[Problem]:
    """Models that are named by a path, where there is no such path."""
    for profile in exported.profiles:
        for name, config in profile.config.instances.items():
            for ref in on_disk(config):
                if is_path(ref):
                    path = ("instances", name)
                    message = f"{name} names a model by its path, {ref}, which is not there"
                    hint = f"name it {ref.rpartition('/')[2]}, and put it on the volume"
                    yield Problem(message, profile.place((*path, "model")), path, hint)


def written_secrets(profile: LoadedProfile) -> Iterator[Problem]:
    """Secrets that stand in the profile itself, where a variable should."""
    raw = profile.written()
    variables = raw.get("vars")
    known = cast("dict[str, Any]", variables) if isinstance(variables, dict) else {}
    for path in _secrets(raw, (), known):
        message = f"{path[-1] if path[-1] != 'args' else 'an argument'} is written into the profile"
        yield Problem(
            message, profile.place(path), path, "write ${env:NAME}: it becomes a reference there"
        )


def _secrets(
    value: object, path: tuple[str, ...], known: dict[str, Any]
) -> Iterator[tuple[str, ...]]:
    if isinstance(value, dict):
        for key, inner in cast("dict[object, object]", value).items():
            here = (*path, str(key))
            if is_secret_name(str(key)) and is_written(inner, known):
                yield here
            else:
                yield from _secrets(inner, here, known)
    elif isinstance(value, list) and path[-1:] == ("args",):
        words = [str(word) for word in cast("list[object]", value)]
        hidden = [was for was, shown in zip(words, masked_argv(words), strict=True) if was != shown]
        if any(is_written(word, known) for word in hidden):
            yield path
