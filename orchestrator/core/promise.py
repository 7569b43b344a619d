"""Models that do not exist yet, and will: an Ollama instance of the same set is to have them.

A llama-server that names one waits for it, instead of being wrong. Once the model is there, what
is applied is resolved anew, and the model found like any other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec import Struct, field

from orchestrator.core.profile import OllamaConfig, Profile
from orchestrator.core.provision import same_name
from orchestrator.core.shared_store import store_folder
from orchestrator.core.spec import InstanceSpec
from orchestrator.core.status import ModelState, Observed
from orchestrator.core.tag import BadTagError, canonical


class Promises(Struct, frozen=True):
    """`models` is instance by tag, `stores` the folders that those models will be in, `kept` the
    tags that their servers have by now; tags are folded (`same_name`)."""

    models: Mapping[str, str] = field(default_factory=dict[str, str])
    stores: tuple[str, ...] = ()
    kept: frozenset[str] = frozenset()

    def by(self, tag: str) -> str | None:
        """The instance that is to bring it."""
        return self.models.get(same_name(tag))

    def has_kept(self, tag: str) -> bool:
        """Whether its server has it by now."""
        return same_name(tag) in self.kept

    def and_of(self, profile: Profile, folder: str, home: str) -> Promises:
        """With those of a profile that lies in `folder`; `home` is the caller's."""
        models, stores = dict(self.models), list(self.stores)
        for name, config in profile.instances.items():
            if isinstance(config, OllamaConfig):
                models.update(dict.fromkeys(_tags(config), name))
                stores += _store(config, profile, folder, home)
        return Promises(models, tuple(dict.fromkeys(stores)), self.kept)

    def and_of_specs(self, specs: Iterable[InstanceSpec]) -> Promises:
        """With those of instances that are resolved already."""
        models, stores = dict(self.models), list(self.stores)
        for spec in specs:
            if spec.holds is not None:
                models.update(
                    dict.fromkeys((same_name(m.name) for m in spec.holds.models), spec.name)
                )
                stores += [spec.holds.store] if spec.holds.store else []
        return Promises(models, tuple(dict.fromkeys(stores)), self.kept)


def kept_promises(observed: Observed) -> frozenset[str]:
    """The folded tags of all models that are present on an instance."""
    return frozenset(
        same_name(model.name)
        for status in observed.values()
        for model in status.models
        if model.state is ModelState.PRESENT
    )


def tag_or_none(ref: str) -> str | None:
    """The tag that a reference to a model may be."""
    try:
        return canonical(ref)
    except BadTagError:
        return None


def _tags(config: OllamaConfig) -> Iterable[str]:
    for model in config.models:
        tag = tag_or_none(model.name or model.pull or "")
        if tag is not None:
            yield same_name(tag)


def _store(config: OllamaConfig, profile: Profile, folder: str, home: str) -> list[str]:
    """The folder that its settings name, if they name one."""
    settings = {**profile.defaults.ollama.settings, **config.settings}
    models = settings.get("models")
    if not isinstance(models, str):
        return []
    return [store_folder(models, folder=folder, home=home)]
