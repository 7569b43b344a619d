"""Models that several Ollama instances keep in one folder: whether they are made alike. Pure.

Of two instances that declare one model of one folder, and would make it in different ways, each
would find the work of the other and make it anew, in turns, for ever.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator

from msgspec import Struct

from orchestrator.core.drift import origin_words
from orchestrator.core.modelfile import absolute, looks_like_a_path
from orchestrator.core.modelfile_text import ModelfileError, read_instructions
from orchestrator.core.provision import same_name
from orchestrator.core.rollback import is_rejected
from orchestrator.core.spec import (
    Built,
    Copied,
    Desired,
    Imported,
    InstanceSpec,
    ModelOrigin,
    ModelSpec,
)
from orchestrator.core.status import SERVING, Observed, Phase


class Clash(Struct, frozen=True):
    """`model`, the one at `index` of its instance, is made otherwise than that of `other`."""

    model: ModelSpec
    index: int
    other: str
    words: str


def store_folder(models: str, *, folder: str, home: str) -> str:
    """The folder that `settings: {models: ...}` means in a profile that lies in `folder`."""
    if models == "~" or models.startswith("~/"):
        models = home + models[1:]
    return posixpath.normpath(posixpath.join(folder, models))


def store_of(spec: InstanceSpec) -> str:
    """The folder that its server keeps its models in; empty where that is nothing of ours."""
    return spec.holds.store if spec.holds is not None and spec.attach != "only" else ""


def returning(desired: Desired, observed: Observed) -> Iterator[InstanceSpec]:
    """What instances were brought back to, or would be if the change that is under way failed:
    another instance with the folder must not delete their models, whatever is declared by now."""
    for name, want in desired.items():
        status = observed.get(name)
        if status is not None and status.fallback is not None:
            settled = status.phase in (Phase.READY, Phase.UNREADY)
            if not settled or is_rejected(want, status):
                yield status.fallback


def in_use(desired: Desired, observed: Observed) -> Iterator[InstanceSpec]:
    """All specs whose models are wanted: what is declared, what is returned to, and what runs
    until its successor can be started. What leaves, or is being replaced, wants nothing."""
    yield from desired.values()
    yield from returning(desired, observed)
    for name, status in observed.items():
        if name in desired and status.phase in SERVING:
            yield status.spec


def clashes(spec: InstanceSpec, others: Iterable[InstanceSpec]) -> Iterator[Clash]:
    """The models of `spec` that another instance with its folder makes otherwise, each once."""
    store = store_of(spec)
    if not store or spec.holds is None:
        return
    there: dict[str, list[tuple[str, ModelSpec]]] = {}
    for other in others:
        for model in other.holds.models if other.holds and store_of(other) == store else ():
            there.setdefault(same_name(model.name), []).append((other.name, model))
    for index, model in enumerate(spec.holds.models):
        for name, known in there.get(same_name(model.name), ()):
            if _essence(known.origin) != _essence(model.origin):
                words = _apart(model.origin, known.origin)
                yield Clash(model, index, name, words)
                break


def _essence(origin: ModelOrigin) -> object:
    """What two origins have in common when they make the same model."""
    match origin:
        case Built():
            # The same text means the same, but for files that it names by their place.
            return "built", origin.text, _files_of(origin)
        case Imported():
            # What is in the files now, and was when the other was looked at, is no difference.
            return "imported", tuple((file.role, file.path) for file in origin.files)
        case Copied():
            return "copied", same_name(origin.of)
        case _:
            return origin


def _files_of(origin: Built) -> tuple[str, ...]:
    folder = posixpath.dirname(origin.path)
    try:
        lines = read_instructions(origin.text)
    except ModelfileError:
        return (folder,)
    bases = [one.value for one in lines if one.name == "from" and looks_like_a_path(one.value)]
    return tuple(absolute(base, folder) for base in bases)


def _apart(one: ModelOrigin, other: ModelOrigin) -> str:
    """Both ways in words, as `pulled, there built by x.Modelfile`."""
    here, there = origin_words(one), origin_words(other)
    if here != there:
        return f"{here}, there {there}"
    return f"{here}, there too, but it said something else"
