"""The models of an Ollama instance, declared against seen: what is lacking, what is to be done.

Pure. `lacking` is for people and for `converged`; `due` is what the provisioner carries out. How
long a model stays in memory is another matter: `core/residency.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from enum import StrEnum

from msgspec import Struct

from orchestrator.core.spec import (
    Copied,
    Imported,
    InstanceSpec,
    ModelFacts,
    ModelSet,
    ModelSpec,
    Pulled,
)
from orchestrator.core.status import EVICTED, ModelState, ModelStatus


class Lack(Struct, frozen=True):
    """A declared model that is not as declared. `moving`: something is being done about it."""

    model: str
    what: str
    moving: bool

    def __str__(self) -> str:
        return f"{self.what} {self.model}"


def lacking(holds: ModelSet | None, models: Sequence[ModelStatus]) -> list[Lack]:
    """What keeps the declared models from being present, and the preloaded ones in memory."""
    if holds is None:
        return []
    seen = {model.name: model for model in models}
    found: list[Lack] = []
    for wanted in holds.models:
        status = seen.get(wanted.name, ModelStatus(wanted.name))
        if status.state is not ModelState.PRESENT:
            detail = f" ({status.message})" if status.message else ""
            moving = status.state is not ModelState.FAILED
            found.append(Lack(wanted.name, f"{status.state}{detail}:", moving))
        elif wanted.preload and not status.loaded and not status.rested:
            # What was pushed out of memory by somebody's request waits until there is room.
            what = "evicted" if status.reason == EVICTED else "loading"
            found.append(Lack(wanted.name, what, what == "loading"))
    return found


class Do(StrEnum):
    """How a model comes to be on its server."""

    PULL = "pull"
    IMPORT = "import"
    BUILD = "build"
    COPY = "copy"


DOING = {
    Do.PULL: ModelState.PULLING,
    Do.IMPORT: ModelState.BUILDING,
    Do.BUILD: ModelState.BUILDING,
    Do.COPY: ModelState.BUILDING,
}
"""What a model's state is meanwhile."""


class Tag(Struct, frozen=True):
    """A model that a server has: its name as it shows it, and the digest of its manifest.

    `capabilities` is None where the server does not say.
    """

    name: str
    digest: str
    capabilities: tuple[str, ...] | None = None
    facts: ModelFacts | None = None


def same_name(name: str) -> str:
    """Names are the same to Ollama whatever their case."""
    return name.casefold()


class Ground(Struct, frozen=True):
    """What decides over one declared model besides its spec.

    `made`: it is known to be what its origin makes now (nothing is asked of one that is pulled).
    `base`: the tag that it stands on, if on one. `busy`: something is being done about it.
    `retry_at`: when to try again after a failure (None: none failed, infinite: not by itself).
    """

    made: bool = False
    base: str = ""
    busy: bool = False
    retry_at: float | None = None

    @property
    def failed(self) -> bool:
        return self.retry_at is not None


class Step(Struct, frozen=True):
    """Something to be done about one model."""

    do: Do
    model: ModelSpec


class Due(Struct, frozen=True):
    """`waits`: for which model each waits that could otherwise be made. `wake_at`: when to decide
    again though nothing happens."""

    steps: tuple[Step, ...]
    waits: Mapping[str, str]
    wake_at: float | None


def due(
    models: Sequence[ModelSpec],
    tags: Mapping[str, Tag],
    grounds: Mapping[str, Ground],
    now: float,
) -> Due:
    """What to begin now. `tags` by folded name, `grounds` by name; `now` as in `retry_at`."""
    needs = {same_name(m.name): do for m in models if (do := _needs(m, tags, grounds)) is not None}
    declared = {same_name(model.name): model.name for model in models}
    steps: list[Step] = []
    waits: dict[str, str] = {}
    wakes: list[float] = []
    for model in models:
        ground = grounds.get(model.name, Ground())
        do = needs.get(same_name(model.name))
        if do is None or ground.busy:
            continue
        base = same_name(ground.base)
        if base in needs and base != same_name(model.name):
            waits[model.name] = declared[base]
        elif ground.retry_at is not None and ground.retry_at > now:
            wakes.append(ground.retry_at)
        else:
            steps.append(Step(do, model))
    return Due(tuple(steps), waits, min(wakes, default=None))


def _needs(model: ModelSpec, tags: Mapping[str, Tag], grounds: Mapping[str, Ground]) -> Do | None:
    """What has to be done for it to be as declared, sooner or later."""
    ground = grounds.get(model.name, Ground())
    tag = tags.get(same_name(model.name))
    origin = model.origin
    if isinstance(origin, Pulled):
        return Do.PULL if tag is None or ground.busy else None
    if isinstance(origin, Copied):
        source = tags.get(same_name(origin.of))
        same = tag is not None and (source is None or source.digest == tag.digest)
        return None if same and not ground.busy else Do.COPY
    if tag is not None and ground.made and not ground.busy:
        return None
    return Do.IMPORT if isinstance(origin, Imported) else Do.BUILD


def present(model: ModelSpec, tags: Mapping[str, Tag], grounds: Mapping[str, Ground]) -> bool:
    """Whether it is as declared, memory aside."""
    return _needs(model, tags, grounds) is None


def kept_by(name: str, store: str, beside: Iterable[InstanceSpec]) -> str | None:
    """The instance among `beside` that declares the model of that name for that folder."""
    for spec in beside:
        models = spec.holds.models if spec.holds is not None and spec.holds.store == store else ()
        if any(same_name(model.name) == same_name(name) for model in models):
            return spec.name
    return None


def dropped(models: Sequence[ModelSpec], rows: Collection[str]) -> list[str]:
    """What has a row in the status and is not declared any more."""
    declared = {same_name(model.name) for model in models}
    return [name for name in rows if same_name(name) not in declared]
