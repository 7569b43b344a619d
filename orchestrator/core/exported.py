"""What another world has to know of profiles that it is to run. Pure.

There it is our daemon again that runs them: no profile is translated into command lines of
engines, for what makes it worth having (readiness, causes, roll-back, edits that are taken up,
models that are brought) is done by the daemon. So a profile means the same everywhere, and only
what lies around it is asked for here: ports, variables, memory, GPUs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

from orchestrator.core.parse import LoadedProfile
from orchestrator.core.problem import Problem
from orchestrator.core.profile import Effective, InstanceConfig, OllamaConfig
from orchestrator.core.reference import Reference, is_written, references
from orchestrator.core.secret import is_secret_name, masked_argv

DAEMON_MEMORY = 160 << 20
"""Bytes that the daemon is planned with beside its instances: what it takes, and some to spare."""

ENDING = 5.0
"""Seconds that the daemon may take beside the grace of the slowest instance."""

LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


@dataclass(frozen=True, slots=True)
class Exported:
    """Profiles, and what lies around them.

    `ports` are those that others can reach, by instance. `variables` are what the profiles refer
    to, with whether they can do without. `reserved` and `limit` are bytes for all together, None
    where not every instance says one. `gpus` are the indices of those that are asked for, None for
    whatever is there; `wants_gpus` whether any instance asks at all.
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
        (profile, name, config, profile.config.effective(config))
        for profile in profiles
        for name, config in profile.config.instances.items()
    ]
    each = [effective for *_, effective in members]
    asked = [one.resources.gpus for one in each if one.resources.gpus not in (None, ())]
    indices = {index for one in asked if isinstance(one, tuple) for index in one}
    return Exported(
        profiles=tuple(profiles),
        ports=tuple(
            (name, config.port)
            for _, name, config, effective in members
            if isinstance(config.port, int) and effective.host not in LOOPBACK
        ),
        variables=_variables(profiles),
        reserved=_sum(one.resources.memory for one in each),
        limit=_sum(one.limits.memory_max for one in each),
        gpus=None if "auto" in asked else tuple(sorted(indices)),
        wants_gpus=bool(asked),
        grace=max((one.stop.grace for one in each), default=0.0) + ENDING,
        needs_models=any(on_disk(config) for _, _, config, _ in members),
        warnings=tuple(warning for member in members for warning in _warnings(*member)),
    )


def on_disk(config: InstanceConfig) -> list[str]:
    """The references to models on disk of an instance."""
    if isinstance(config, OllamaConfig):
        return [model.gguf for model in config.models if model.gguf is not None]
    return [config.model]


def _sum(sizes: Iterable[int | None]) -> int | None:
    """With the daemon; None where one of them is not known."""
    known = list(sizes)
    if not known or None in known:
        return None
    return DAEMON_MEMORY + sum(size for size in known if size is not None)


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


def _warnings(
    profile: LoadedProfile, name: str, config: InstanceConfig, effective: Effective
) -> Iterator[Problem]:
    """What is so here, and will not be so there."""
    path = ("instances", name)

    def told(key: str, message: str, hint: str) -> Problem:
        return Problem(message, profile.place((*path, key)), (*path, key), hint)

    if effective.host in LOOPBACK:
        message = f"{name} listens on {effective.host}, which only its own container reaches"
        yield told("host", message, "leave `host` out: there it listens on all addresses")
    elif not isinstance(config.port, int):
        message = f"{name} has no port that is known beforehand: nobody reaches it from outside"
        yield told("port", message, "give it a port, as in 8081")
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
