"""What models are needed for: declared by a profile, run by an instance, loaded by a server."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct, field

from orchestrator.cli.model_stores import store_of
from orchestrator.cli.ollama_servers import Reached, serving
from orchestrator.core.catalog import Ambiguous, Catalog, Found, Model, find
from orchestrator.core.modelfile import absolute, parse_modelfile
from orchestrator.core.modelfile_text import ModelfileError
from orchestrator.core.profile import OllamaConfig
from orchestrator.core.spec import Built, Copied, Imported, InstanceSpec
from orchestrator.discovery.ollama_manifest import canonical_name
from orchestrator.errors import InputError
from orchestrator.runtime.ollama_calls import CallError
from orchestrator.settings import Settings

ANYWHERE = ""
"""Stands for every store: which one a server has is not always to be seen."""

MAX_MODELFILE = 1 << 20


class Uses(Struct):
    """Why a model must stay, in words: by store and tag, and by the real path of a file. `loaded`
    are those that are in a server's memory."""

    tags: dict[tuple[str, str], str] = field(default_factory=dict[tuple[str, str], str])
    files: dict[str, str] = field(default_factory=dict[str, str])
    loaded: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])

    def of(self, model: Model) -> str:
        """Empty when nothing needs it."""
        why = self.of_tag(store_of(model), model.ref) if model.source == "ollama" else ""
        paths = [*model.parts, *([model.mmproj] if model.mmproj else [])]
        return why or next((why for path in paths if (why := self.of_file(path))), "")

    def of_tag(self, store: str, tag: str) -> str:
        keys = ((os.path.realpath(store), tag.casefold()), (ANYWHERE, tag.casefold()))
        return next((why for key in keys if (why := self.tags.get(key))), "")

    def of_file(self, path: str) -> str:
        return self.files.get(os.path.realpath(path), "")

    def is_loaded(self, store: str, tag: str) -> bool:
        keys = {(os.path.realpath(store), tag.casefold()), (ANYWHERE, tag.casefold())}
        return bool(keys & self.loaded)

    def tag(self, name: str, why: str, *, store: str = ANYWHERE) -> None:
        """A model by the name that somebody wrote."""
        canonical = canonical_name(name)
        if canonical is not None:
            where = os.path.realpath(store) if store else ANYWHERE
            self.tags.setdefault((where, canonical.casefold()), why)

    def file(self, path: str, why: str) -> None:
        self.files.setdefault(os.path.realpath(path), why)

    def model(self, model: Model, why: str) -> None:
        """One that is named as what it is: another tag of the same blob is not needed by that."""
        if model.source == "ollama":
            self.tag(model.ref, why, store=store_of(model))
        else:
            for path in model.parts:
                self.file(path, why)


def applied_uses(uses: Uses, specs: Mapping[str, InstanceSpec], catalog: Catalog) -> None:
    """Add what the applied profiles declare."""
    for name, spec in specs.items():
        why = f"instance {name!r} of the applied profiles declares it"
        if spec.holds is None:
            _add_inputs(uses, spec, catalog, f"instance {name!r} of the applied profiles runs it")
            continue
        store = spec.holds.store if spec.attach == "never" else ANYWHERE
        for model in spec.holds.models:
            uses.tag(model.name, why, store=store)
            match model.origin:
                case Copied(of=base):
                    uses.tag(base, why, store=store)
                case Built(path=path, text=text):
                    _add_bases(uses, text, path, why)
                case Imported(files=files):
                    for file in files:
                        uses.file(file.path, why)
                case _:
                    pass


def _add_inputs(uses: Uses, spec: InstanceSpec, catalog: Catalog, why: str) -> None:
    wanted = (canonical_name(spec.model) or "").casefold()
    for file in spec.inputs:
        if file.role == "binary":
            continue
        named = [
            model
            for model in catalog.models
            if model.source == "ollama" and file.path in (*model.parts, model.mmproj)
        ]
        # By its tag, it is that tag which must stay; by its path, every one that holds the blob.
        exact = [model for model in named if model.ref.casefold() == wanted]
        for model in exact:
            uses.model(model, why)
        if not exact:
            uses.file(file.path, why)


def profile_uses(uses: Uses, settings: Settings, env: Mapping[str, str], catalog: Catalog) -> None:
    """Add what the profiles in the profiles folder name. Raises `InputError` when one of them is
    invalid: nobody knows what it would name."""
    from orchestrator.cli.profiles import load, profile_files

    for file in profile_files(settings):
        if not os.path.isfile(file):
            continue
        loaded = load(file, settings, env)
        if loaded is None:
            raise InputError(
                f"{file} is invalid, so nobody can say which models it needs",
                hint=f"correct it (orchestrate validate {file}), or move it away",
            )
        why = f"profile {file} names it"
        for config in loaded.config.instances.values():
            if isinstance(config, OllamaConfig):
                _add_config(uses, config, catalog, folder=loaded.folder, why=why)
            else:
                _add_reference(uses, config.model, catalog, folder=loaded.folder, why=why)


def _add_config(
    uses: Uses, config: OllamaConfig, catalog: Catalog, *, folder: str, why: str
) -> None:
    for model in config.models:
        for name in (model.name, model.pull, model.alias):
            if name is not None:
                uses.tag(name, why)
        if model.gguf is not None:
            _add_reference(uses, model.gguf, catalog, folder=folder, why=why)
        if model.modelfile is not None:
            path = os.path.join(folder, os.path.expanduser(model.modelfile))
            try:
                with open(path, encoding="utf-8", errors="replace") as file:
                    _add_bases(uses, file.read(MAX_MODELFILE), path, why)
            except OSError as error:
                raise InputError(
                    f"{path} cannot be read, so nobody can say what it builds upon: "
                    f"{error.strerror}",
                    hint="correct the profile that names it",
                ) from error


def _add_reference(uses: Uses, ref: str, catalog: Catalog, *, folder: str, why: str) -> None:
    found = find(catalog, ref, folder=folder)
    if isinstance(found, Found):
        uses.model(found.model, why)
    elif isinstance(found, Ambiguous):
        for model in found.candidates:
            uses.model(model, why)


def _add_bases(uses: Uses, text: str, path: str, why: str) -> None:
    """What a Modelfile builds upon: without it, it could not be built again."""
    try:
        bases = parse_modelfile(text).bases
    except ModelfileError as error:
        raise InputError(
            f"{path} is wrong, so nobody can say what it builds upon: {error}",
            hint="correct it, or take it out of the profile that names it",
        ) from error
    for base in bases:
        uses.tag(base, why)
        uses.file(absolute(os.path.expanduser(base), os.path.dirname(path)), why)


def loaded_uses(uses: Uses, found: Sequence[Reached], stores: Iterable[str]) -> None:
    """Add what is in the memory of the servers that answer."""
    known = list(stores)
    for server in found:
        try:
            loaded = server.client.loaded()
        except CallError:
            continue
        if loaded:
            where = next((one for one in known if serving(one, [server])), ANYWHERE)
            for name in loaded:
                uses.tag(name, f"{server} has it loaded", store=where)
                uses.loaded.add((os.path.realpath(where) if where else ANYWHERE, name.casefold()))
