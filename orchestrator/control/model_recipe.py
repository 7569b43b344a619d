"""What a declared model is made of, and whether the one on the server was made of that."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from typing import Any

from msgspec import Struct, field

from orchestrator.core.modelfile import absolute, looks_like_a_path, parse_modelfile
from orchestrator.core.modelfile_text import ModelfileError
from orchestrator.core.provision import Tag, same_name
from orchestrator.core.spec import Built, Copied, FileIdentity, Imported, ModelSpec
from orchestrator.discovery.ollama_manifest import canonical_name
from orchestrator.runtime.files import identity_of, named_files
from orchestrator.runtime.made import Made


class Recipe(Struct, frozen=True):
    """`mark` changes when the recipe does. `base` is the tag that it stands on, `files` what is
    read from disk, `request` the rest of what the server is asked for."""

    mark: str
    base: str = ""
    files: tuple[str, ...] = ()
    request: Mapping[str, Any] = field(default_factory=dict[str, Any])
    error: str = ""
    """Why nothing can be made of it."""


_BLOB = re.compile(r"sha256-([0-9a-f]{64})")


def recipe_of(model: ModelSpec) -> Recipe | None:
    """None for what is not made: it is pulled, or copied."""
    origin = model.origin
    if isinstance(origin, Imported):
        # As they were when the profile was read: a file that is being written makes no model.
        parts = [[file.role, file.path, *_identity(file.identity)] for file in origin.files]
        return Recipe(_mark(parts), files=tuple(file.path for file in origin.files))
    if isinstance(origin, Built):
        return _built(origin)
    return None


def _built(origin: Built) -> Recipe:
    try:
        said = parse_modelfile(origin.text)
    except ModelfileError as error:
        return Recipe(_mark(origin.text), error=f"{origin.path}: {error}")
    folder = os.path.dirname(origin.path)
    files: list[str] = []
    base = ""
    for written in said.bases:
        found = named_files(absolute(written, folder))
        if found:
            files += found
        elif looks_like_a_path(written):
            return Recipe(
                _mark(origin.text), error=f"{absolute(written, folder)}: there is no such file"
            )
        else:
            base = canonical_name(written) or written
    request = {**said.settings, "from": base} if base else dict(said.settings)
    mark = _mark([origin.text, file_marks(tuple(files))])
    return Recipe(mark, base=base, files=tuple(files), request=request)


def digest_in_name(path: str) -> str:
    """The digest (hex digits) of a blob of a store, which its name says; else nothing."""
    match = _BLOB.fullmatch(os.path.basename(path))
    return match[1] if match else ""


def base_of(model: ModelSpec, recipe: Recipe | None) -> str:
    """The tag that has to be there first."""
    if isinstance(model.origin, Copied):
        return model.origin.of
    return recipe.base if recipe is not None else ""


def is_made(tag: Tag | None, recipe: Recipe, made: Made | None, tags: Mapping[str, Tag]) -> bool:
    """Whether the model on the server is what the recipe makes now."""
    if tag is None or made is None or made.digest != tag.digest or made.recipe != recipe.mark:
        return False
    base = tags.get(same_name(recipe.base)) if recipe.base else None
    # A base that was removed since takes nothing from what was made of it.
    return base is None or base.digest == made.base


def _identity(identity: FileIdentity | None) -> list[int]:
    return [identity.size, identity.mtime_ns, identity.inode] if identity is not None else []


def _mark(parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def file_marks(paths: tuple[str, ...]) -> list[list[Any]]:
    """The files as they are on disk now. What a blob holds is in its name: servers set its time
    whenever they use it."""
    return [
        [path] if digest_in_name(path) else [path, *_identity(identity_of(path))] for path in paths
    ]
