"""The `models:` of an Ollama instance: from what is written to specs, or to what is wrong. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct, field

from orchestrator.core.catalog import Catalog, Found, Model, find
from orchestrator.core.engine import Issue
from orchestrator.core.lookup import not_found
from orchestrator.core.modelfile import ModelfileOnDisk, bases_of, parse_modelfile
from orchestrator.core.modelfile_text import ModelfileError
from orchestrator.core.problem import Path, did_you_mean
from orchestrator.core.profile import ModelConfig
from orchestrator.core.provision import same_name
from orchestrator.core.spec import (
    Built,
    Copied,
    Imported,
    InputFile,
    ModelOrigin,
    ModelSpec,
    Pulled,
)
from orchestrator.core.tag import BadTagError, canonical
from orchestrator.errors import InputError

_ORIGINS = ("pull", "modelfile", "gguf", "alias")

_LIMIT_OF_OLLAMA = 3
"""Models that Ollama keeps in memory for each GPU, where its settings do not say."""


def resolve_models(
    configs: Sequence[ModelConfig],
    *,
    path: Path,
    folder: str,
    catalog: Catalog,
    modelfiles: Mapping[str, ModelfileOnDisk],
    limit: int | None,
) -> tuple[tuple[ModelSpec, ...] | None, list[Issue]]:
    """The models in their order, and all that is wrong or doubtful; None when something is wrong.

    `path` is where the list stands, `folder` what paths in it are relative to, `limit` how many
    models the server keeps in memory, where that is known.
    """
    models = _Models(path, folder, catalog, modelfiles)
    for index, config in enumerate(configs):
        models.add(index, config)
    models.check_bases()
    models.check_memory(limit)
    if any(not issue.warning for issue in models.issues):
        return None, models.issues
    return tuple(one.spec for one in models.declared), models.issues


class _Declared(Struct, frozen=True):
    """A model that is right by itself. `blob` is what tells its weights from those of others."""

    index: int
    spec: ModelSpec
    blob: str


class _Models(Struct):
    """The list on its way; `issues` grows with it. `named` are also those that are wrong. Names
    are folded wherever one is looked up."""

    path: Path
    folder: str
    catalog: Catalog
    modelfiles: Mapping[str, ModelfileOnDisk]
    declared: list[_Declared] = field(default_factory=list[_Declared])
    named: set[str] = field(default_factory=set[str])
    issues: list[Issue] = field(default_factory=list[Issue])

    def add(self, index: int, config: ModelConfig) -> None:
        name = self._name(index, config)
        self.named.add(same_name(name or ""))
        found = self._origin(index, config, name)
        if name is None or found is None:
            return
        # For Ollama `Tiny` and `tiny` are one model.
        if same_name(name) in self._by_name():
            key = "name" if config.name is not None else "pull"
            self._wrong(index, key, f"model {name!r} is there twice", "keep one of the two")
            return
        origin, blob = found
        preload = bool(config.preload)
        keep_alive = config.keep_alive
        if preload and keep_alive is None:
            keep_alive = -1.0
        if preload and keep_alive == 0:
            hint = "leave one of the two out"
            self._wrong(index, "keep_alive", "a model that is preloaded cannot leave at once", hint)
            return
        spec = ModelSpec(name, origin, preload, keep_alive)
        self.declared.append(_Declared(index, spec, blob))

    def check_bases(self) -> None:
        """What is made of another model is not made of itself; and that other one is known."""
        by_name = self._by_name()
        for one in self.declared:
            self._check_circle(one, by_name)
            origin = one.spec.origin
            if not isinstance(origin, Copied) or same_name(origin.of) in self.named:
                continue
            if self._stored_blob(origin.of) is None:
                near = did_you_mean(origin.of, [other.spec.name for other in self.declared])
                hint = near or "declare it under `models:`, too, and it will be pulled"
                message = f"{origin.of!r} is neither declared here nor in a store that was found"
                self._doubtful(one.index, "alias", message, hint)

    def _check_circle(self, start: _Declared, by_name: Mapping[str, _Declared]) -> None:
        seen: list[str] = []
        at: _Declared | None = start
        while at is not None and isinstance(at.spec.origin, Copied | Built):
            if at.spec.name in seen:
                return
            seen.append(at.spec.name)
            at = by_name.get(same_name(at.blob))
            if at is start:
                key = "alias" if isinstance(start.spec.origin, Copied) else "modelfile"
                message = f"{start.spec.name!r} would be made of itself"
                self._wrong(start.index, key, message, "name what it is really made of")
                return

    def check_memory(self, limit: int | None) -> None:
        """What is preloaded fits into memory together, as far as that was declared."""
        blobs: dict[str, _Declared] = {}
        for one in self.declared:
            if one.spec.preload:
                blobs.setdefault(self._weights(one), one)
        most = limit or _LIMIT_OF_OLLAMA
        if len(blobs) <= most:
            return
        last = list(blobs.values())[most]
        count = f"{len(blobs)} different models are to be preloaded"
        if limit is not None:
            hint = f"raise max_loaded_models to {len(blobs)}, or preload fewer"
            self._wrong(last.index, "preload", f"{count}, but max_loaded_models is {limit}", hint)
            return
        message = f"{count}, and Ollama keeps {most} for each GPU unless told otherwise"
        hint = f"set max_loaded_models: {len(blobs)} in `settings:`"
        self._doubtful(last.index, "preload", message, hint)

    def _weights(self, one: _Declared) -> str:
        by_name = self._by_name()
        for _ in self.declared:
            base = by_name.get(same_name(one.blob), one)
            if base is one:
                break
            one = base
        return self._stored_blob(one.blob) or (
            one.blob if one.blob.startswith("/") else same_name(one.blob)
        )

    def _by_name(self) -> dict[str, _Declared]:
        return {same_name(one.spec.name): one for one in self.declared}

    def _name(self, index: int, config: ModelConfig) -> str | None:
        written, key = config.name, "name"
        if written is None:
            written, key = config.pull, "pull"
        if written is None:
            origin = next((one for one in _ORIGINS if getattr(config, one) is not None), None)
            message = f"a model with {origin!r} needs a name" if origin else "a model needs a name"
            self.issues.append(Issue((*self.path, index), message, "add 'name:'", key=False))
            return None
        return self._canonical(index, key, written)

    def _canonical(self, index: int, key: str, written: str) -> str | None:
        try:
            return canonical(written)
        except BadTagError as error:
            self._wrong(index, key, str(error), error.hint)
            return None

    def _origin(
        self, index: int, config: ModelConfig, name: str | None
    ) -> tuple[ModelOrigin, str] | None:
        """Where it comes from, and what tells its weights from others."""
        given = [one for one in _ORIGINS if getattr(config, one) is not None]
        if len(given) > 1:
            message = f"a model has one origin, not {' and '.join(map(repr, given))}"
            self._wrong(index, given[1], message, "keep one", at_key=True)
            return None
        if config.insecure is not None and given not in ([], ["pull"]):
            message = f"'insecure' is about pulling, and this model has {given[0]!r}"
            self._wrong(index, "insecure", message, "leave it out", at_key=True)
            return None
        if config.modelfile is not None:
            return self._built(index, config.modelfile)
        if config.gguf is not None:
            return self._imported(index, config.gguf)
        if config.alias is not None:
            of = self._canonical(index, "alias", config.alias)
            return (Copied(of), of) if of else None
        return self._pulled(index, config, name)

    def _pulled(
        self, index: int, config: ModelConfig, name: str | None
    ) -> tuple[ModelOrigin, str] | None:
        if config.pull is not None and config.name is not None:
            source = self._canonical(index, "pull", config.pull)
            if source is None:
                return None
            if source != name:
                message = f"what is pulled from {source!r} is called so"
                hint = f"leave 'name' out, and add {{name: {config.name}, alias: {config.pull}}}"
                self._wrong(index, "name", message, hint)
                return None
        return Pulled(bool(config.insecure)), name or ""

    def _built(self, index: int, written: str) -> tuple[ModelOrigin, str] | None:
        file = self.modelfiles[written]
        if isinstance(file.text, InputError):
            self._wrong(index, "modelfile", file.text.message, file.text.hint)
            return None
        try:
            bases = bases_of(parse_modelfile(file.text), file)
        except ModelfileError as error:
            place = f"{file.path}:{error.line}" if error.line else file.path
            self._wrong(index, "modelfile", f"{place}: {error.message}")
            return None
        return Built(file.path, file.text), bases[0]

    def _imported(self, index: int, ref: str) -> tuple[ModelOrigin, str] | None:
        found = find(self.catalog, ref, folder=self.folder)
        if not isinstance(found, Found):
            message, hint = not_found(self.catalog, ref, found, folder=self.folder)
            self._wrong(index, "gguf", message, hint)
            return None
        model = found.model
        refused = _not_for_ollama(model)
        if refused:
            self._wrong(index, "gguf", f"model {ref!r} {refused[0]}", refused[1])
            return None
        files = [InputFile("model", model.path, model.identity)]
        if model.mmproj is not None:
            files.append(InputFile("mmproj", model.mmproj, None))
        return Imported(tuple(files)), model.path

    def _stored_blob(self, name: str) -> str | None:
        """The weights of a tag that is in a store already."""
        stored = (model for model in self.catalog.models if model.source == "ollama")
        wanted = same_name(name)
        return next((model.path for model in stored if same_name(model.ref) == wanted), None)

    def _at(self, index: int, key: str) -> Path:
        return (*self.path, index, key)

    def _wrong(
        self, index: int, key: str, message: str, hint: str = "", *, at_key: bool = False
    ) -> None:
        self.issues.append(Issue(self._at(index, key), message, hint, key=at_key))

    def _doubtful(self, index: int, key: str, message: str, hint: str) -> None:
        issue = Issue(self._at(index, key), message, hint, warning=True, key=False)
        self.issues.append(issue)


def _not_for_ollama(model: Model) -> tuple[str, str] | None:
    """Why Ollama cannot be given this model, and what to do; None when it can."""
    if model.unfit:
        return f"cannot be imported: it {model.unfit}", "name it as it is: it is Ollama's already"
    if len(model.parts) > 1:
        return (
            f"is split into {len(model.parts)} files, which Ollama cannot take",
            "merge them with llama-gguf-split --merge, or run it with llama-server",
        )
    return None
