"""The rows of an instance's models, as events and edits change them: a part of the fold. Pure."""

from __future__ import annotations

from msgspec import convert
from msgspec.structs import replace

from orchestrator.core.event import Event
from orchestrator.core.provision import same_name
from orchestrator.core.spec import InstanceSpec, ModelSpec
from orchestrator.core.status import InstanceStatus, ModelState, ModelStatus


def with_row(status: InstanceStatus, event: Event) -> InstanceStatus:
    """One model of the instance is seen otherwise; `gone`: nothing of it is left, or wanted."""
    seen = convert(event.data["model"], ModelStatus)
    if event.reason == "gone":
        return replace(status, models=tuple(m for m in status.models if m.name != seen.name))
    if all(model.name != seen.name for model in status.models):
        return replace(status, models=(*status.models, seen))
    models = tuple(seen if model.name == seen.name else model for model in status.models)
    return replace(status, models=models)


def rows_of_next_run(status: InstanceStatus, spec: InstanceSpec) -> tuple[ModelStatus, ...]:
    """The models that another run of it is to know of, and nothing of how they are.

    Those that have left its set are still to be deleted, where that was asked for: the new run
    has nothing else to know them by. Another folder has nothing of what left this one.
    """
    have, want = status.spec.holds, spec.holds
    if have is None or want is None or not want.store or have.store != want.store:
        return ()
    names = {same_name(model.name): model.name for model in want.models}
    known = [
        ModelStatus(names.get(same_name(model.name), model.name))
        for model in status.models
        if want.prune or same_name(model.name) in names
    ]
    return tuple(dict.fromkeys(known))


def rows_of_update(status: InstanceStatus, spec: InstanceSpec) -> tuple[ModelStatus, ...]:
    """What is known of the models, less what a new origin or another try puts in question."""
    have, want = _by_name(status.spec), _by_name(spec)
    known: list[ModelStatus] = []
    for model in status.models:
        key = same_name(model.name)
        name = want[key].name if key in want else model.name
        other = key in want and (key not in have or want[key].origin != have[key].origin)
        again = status.redo_models and model.state is ModelState.FAILED
        anew = ModelStatus(name, loaded=model.loaded) if other or again else model
        known.append(replace(anew, name=name))
    return tuple(known)


def _by_name(spec: InstanceSpec) -> dict[str, ModelSpec]:
    return {same_name(model.name): model for model in spec.holds.models} if spec.holds else {}
