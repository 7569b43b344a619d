"""The difference between what runs and what is wanted, field by field, for people and for `plan`.

Restart fields reach the process: a difference replaces it. Live fields are read by the daemon
alone: a difference is taken up in place.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, cast

from msgspec import Struct
from msgspec.structs import replace

from orchestrator.core import gateway_words
from orchestrator.core.field_class import LIVE, SPEC_FIELDS, FieldClass
from orchestrator.core.gateway_spec import GatewaySpec
from orchestrator.core.provision import kept_by, same_name
from orchestrator.core.secret import MASK, is_secret_name, masked_argv
from orchestrator.core.spec import (
    Built,
    Command,
    Copied,
    Demand,
    Desired,
    Imported,
    InstanceSpec,
    ModelOrigin,
    ModelSet,
    ModelSpec,
    OnDemand,
    Pulled,
)
from orchestrator.core.status import Observed
from orchestrator.core.units import format_duration, format_size
from orchestrator.core.wording import as_written

LIVE_FIELDS = tuple(name for name, kind in SPEC_FIELDS.items() if kind is LIVE)
"""Fields of `InstanceSpec` that never reach the process."""


def as_observed(desired: Desired, observed: Observed) -> Desired:
    """The same, in the very objects of what is observed where nothing differs: plans are made many
    times of one state, and what is one object needs no look."""
    known = {name: status.spec for name, status in observed.items()}
    same = {name for name, spec in desired.items() if known.get(name) == spec}
    return {name: known[name] if name in same else spec for name, spec in desired.items()}


class Drift(Struct, frozen=True):
    """One field: `have` -> `want`, and what that takes. None means that it is not there."""

    field: str
    have: Any
    want: Any
    kind: FieldClass = FieldClass.RESTART

    def __str__(self) -> str:
        have, want = as_written(self.have), as_written(self.want)
        if have is None:
            return f"{self.field}: {want} (new)"
        if want is None:
            return f"{self.field}: {have} (gone)"
        return f"{self.field}: {have} -> {want}"


def process_drift(
    have: InstanceSpec, want: InstanceSpec, *, managed: bool = True
) -> tuple[Drift, ...]:
    """What would need another process at the endpoint, secrets masked.

    Of a server that somebody else runs (`managed` is False) only the address is ours to choose.
    """
    if managed:
        found: list[Drift] = [*restart_drift(have, want)]
        if want.attach == "only" and have.attach != "only":
            # What was started as ours is in the way of what is to be used instead.
            found.append(Drift("attach", have.attach, want.attach))
        return tuple(found)
    found = []
    if have.engine != want.engine:
        found.append(Drift("engine", have.engine, want.engine))
    if have.endpoint != want.endpoint:
        found.append(Drift("address", have.endpoint.authority, want.endpoint.authority))
    if want.attach == "never":
        found.append(Drift("attach", have.attach, want.attach))
    return tuple(found)


def restart_drift(have: InstanceSpec, want: InstanceSpec) -> tuple[Drift, ...]:
    """What would need a new process, secrets masked."""
    if have is want:
        return ()
    if have.command == want.command and have.engine == want.engine:
        return ()
    found = [Drift("engine", have.engine, want.engine)] if have.engine != want.engine else []
    found += _mapping_drift(_settings(have.command), _settings(want.command))
    found += _mapping_drift(_environment(have), _environment(want))
    if have.command.cwd != want.command.cwd:
        found.append(Drift("cwd", have.command.cwd, want.command.cwd))
    # Only the order, a repetition or a masked value differs: say at least that something does.
    return tuple(found) or (Drift("command", "as it runs", "as declared"),)


def input_drift(have: InstanceSpec, want: InstanceSpec) -> tuple[Drift, ...]:
    """Files whose content on disk is no longer what the process has read."""
    known = {(file.role, file.path): file.identity for file in have.inputs}
    return tuple(
        Drift(file.role, file.path, f"{file.path} (changed on disk)")
        for file in want.inputs
        if known.get((file.role, file.path)) not in (None, file.identity)
    )


def live_drift(
    have: InstanceSpec,
    want: InstanceSpec,
    *,
    managed: bool = True,
    beside: Iterable[InstanceSpec] = (),
) -> tuple[Drift, ...]:
    """What changes in place, without a new process.

    Of a server that somebody else runs (`managed` is False) nothing is deleted, nor what another
    instance `beside` it keeps in the same folder.
    """
    if have is want:
        return ()
    found: list[Drift] = []
    for name in LIVE_FIELDS:
        old, new = getattr(have, name), getattr(want, name)
        if old == new:
            continue
        if name == "holds":
            others = (spec for spec in beside if spec.name != want.name)
            keeps = _Keeps(old or ModelSet(), new or ModelSet(), managed, tuple(others))
            found += _holding_drift(keeps)
        else:
            found += _OWN_WORDS.get(name, partial(_part_drift, name))(old, new)
    return tuple(replace(one, kind=LIVE) for one in found)


def _part_drift(name: str, have: Any, want: Any) -> list[Drift]:
    """Each part of a block that differs."""
    # One of them may be missing: what was adopted by its mark alone has no more than a process.
    shape = have if have is not None else want
    if not isinstance(shape, Struct):
        return [Drift(name, _plain(have), _plain(want))]
    pairs = [
        (part, getattr(have, part, None), getattr(want, part, None))
        for part in shape.__struct_fields__
    ]
    return [Drift(f"{name}.{part}", old, new) for part, old, new in pairs if old != new]


def _gateway_drift(have: GatewaySpec | None, want: GatewaySpec | None) -> list[Drift]:
    return [
        Drift(f"gateway.{key}", before or None, after or None)
        for key, (before, after) in gateway_words.changes(have, want).items()
    ]


def _demand_drift(have: Demand | None, want: Demand | None) -> list[Drift]:
    """What the profile says of memory: an estimate only follows from what else has changed."""
    before, after = _declared(have), _declared(want)
    return [Drift("resources.memory", before, after)] if before != after else []


def _start_drift(have: OnDemand | None, want: OnDemand | None) -> list[Drift]:
    """When it runs, in the words of a profile."""
    before, after = _start_words(have), _start_words(want)
    return _mapping_drift(before, after)


_OWN_WORDS: dict[str, Callable[[Any, Any], list[Drift]]] = {
    "on_demand": _start_drift,
    "demand": _demand_drift,
    "gateway": _gateway_drift,
}
"""Fields whose parts are said otherwise than they are kept."""


def _start_words(on_demand: OnDemand | None) -> dict[str, str]:
    if on_demand is None:
        return {"start": "always"}
    words = {"start": "on-demand"}
    if on_demand.idle is not None:
        words["idle"] = format_duration(on_demand.idle)
    words |= {"pin": "true"} if on_demand.pin else {}
    return words | ({"preload": "true"} if on_demand.preload else {})


def _declared(demand: Demand | None) -> str | None:
    if demand is None or not demand.declared:
        return None
    return format_size(sum(demand.gpus.values()) or demand.host)


class _Keeps(Struct, frozen=True):
    """What an instance holds, what it is to hold, and who else is there."""

    have: ModelSet
    want: ModelSet
    managed: bool
    others: tuple[InstanceSpec, ...]

    def end_of(self, name: str) -> str:
        """What becomes of a model that is not declared any more."""
        if not self.managed:
            return "unloaded"
        if self.have.store != self.want.store:
            return f"kept in {self.have.store}"
        if not self.want.prune:
            return "unloaded"
        keeper = kept_by(name, self.want.store, self.others)
        return f"unloaded, kept: {keeper} has it too" if keeper else "deleted"


def _holding_drift(keeps: _Keeps) -> list[Drift]:
    """Each model that comes, goes or is made otherwise, then how all of them are held."""
    have, want = keeps.have, keeps.want
    before = {same_name(model.name): model for model in have.models}
    after = {same_name(model.name): model for model in want.models}
    found: list[Drift] = []
    for key, model in after.items():
        known, name = before.get(key), model.name
        if known is None:
            found.append(Drift(f"{MODELS}.{name}", None, describe(model)))
        elif known != model:
            same = describe(known) == describe(model)
            found.append(
                Drift(f"{MODELS}.{name}", describe(known), describe(model) + " (changed)" * same)
            )
    gone = [model for key, model in before.items() if key not in after]
    found += [
        Drift(f"{MODELS}.{model.name}", describe(model), keeps.end_of(model.name)) for model in gone
    ]
    found += [
        Drift(name, getattr(have, name), getattr(want, name))
        for name in ("prune", "verify", "limit", "store")
        if getattr(have, name) != getattr(want, name)
    ]
    return found


def holding(spec: InstanceSpec) -> tuple[Drift, ...]:
    """The models that a new instance is to have, and how it comes by each."""
    models = spec.holds.models if spec.holds else ()
    return tuple(Drift(f"{MODELS}.{model.name}", None, describe(model)) for model in models)


MODELS = "models"
"""What the names of all drifts begin with that are about a model of an instance."""


def describe(model: ModelSpec) -> str:
    """Where a model comes from and how it is kept, as in `built by x.Modelfile, preload`."""
    words = [origin_words(model.origin)]
    if model.preload:
        words.append("preload")
    if model.keep_alive is not None:
        forever = model.keep_alive < 0
        words.append(f"keep_alive {-1 if forever else format_duration(model.keep_alive)}")
    return ", ".join(words)


def origin_words(origin: ModelOrigin) -> str:
    """How a model comes to be, as in `built by x.Modelfile`."""
    match origin:
        case Pulled(insecure=insecure):
            return "pulled without TLS" if insecure else "pulled"
        case Built(path=path):
            return f"built by {path}"
        case Imported(files=files):
            return f"made from {files[0].path}"
        case Copied(of=base):
            return f"a copy of {base}"


def _plain(value: Any) -> Any:
    return list(cast(tuple[Any, ...], value)) if isinstance(value, tuple) else value


def _mapping_drift(have: dict[str, str], want: dict[str, str]) -> list[Drift]:
    names = [*want, *(name for name in have if name not in want)]
    return [
        Drift(name, have.get(name), want.get(name))
        for name in names
        if have.get(name) != want.get(name)
    ]


def _environment(spec: InstanceSpec) -> dict[str, str]:
    # A changed secret must show as a difference without showing its value.
    return {
        _variable(name, spec.engine): MASK if is_secret_name(name) else value
        for name, value in spec.command.env.items()
    }


def own_settings(spec: InstanceSpec) -> list[str]:
    """The settings of an Ollama instance that its profile declares, in the profile's words."""
    always = ("OLLAMA_HOST", "OLLAMA_MODELS", "OLLAMA_NOPRUNE")
    return [_variable(name, spec.engine) for name in spec.command.env if name not in always]


def _variable(name: str, engine: str) -> str:
    """As a profile says it: Ollama's own variables are its `settings:`."""
    own = engine == "ollama" and name.startswith("OLLAMA_")
    return name.removeprefix("OLLAMA_").lower() if own else f"env.{name}"


_NUMBER = re.compile(r"-\.?\d")


def _settings(command: Command) -> dict[str, str]:
    """argv as `flag: value`, under the names that a profile uses; the program is `binary`."""
    settings: dict[str, str] = {}
    program: list[str] = []
    key = ""
    for word in masked_argv(command.argv):
        # A launcher such as `python -m program` has options of its own, before any long flag.
        if word.startswith("--") or (key and word.startswith("-") and not _NUMBER.match(word)):
            key = word.lstrip("-")
            settings[key] = ""
        elif key:
            settings[key] = f"{settings[key]} {word}".strip()
        else:
            program.append(word)
    return {"binary": " ".join(program)} | {k: v or "on" for k, v in settings.items()}
