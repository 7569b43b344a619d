"""What an agent may write for a profile or an instance, and what it means."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Annotated

from pydantic import BeforeValidator, Field

from orchestrator.cli.sources import SUFFIXES, path_of
from orchestrator.errors import InputError
from orchestrator.settings import Settings


def _listed(value: object) -> object:
    """One word alone is meant as a list of one."""
    return [value] if isinstance(value, str) else value


Profiles = Annotated[
    list[str],
    BeforeValidator(_listed),
    Field(
        min_length=1,
        description="Names of profiles as the resource orchestrate://profiles lists them, or paths"
        " of YAML files or folders of them.",
    ),
]

InstanceName = Annotated[str, Field(description="The instance, as `status` names it.")]


def profile_words(settings: Settings, words: Sequence[str]) -> list[str]:
    """Absolute paths of what is named; only YAML files and folders. Raises `InputError`."""
    return [_path(settings, word) for word in words]


def _path(settings: Settings, word: str) -> str:
    if "/" not in word and not word.endswith(SUFFIXES):
        # The folder that an agent works in may well have one of the same name.
        named = [os.path.join(settings.profiles_dir, word + suffix) for suffix in SUFFIXES]
        found = next(filter(os.path.isfile, named), None) or _applied(settings, word)
        if found is not None:
            return found
    path = path_of(word, settings)
    if not os.path.isdir(path) and not path.endswith(SUFFIXES):
        raise InputError(
            f"{word} is no profile: its name does not end in .yaml or .yml",
            hint="name a profile, a YAML file, or a folder of them",
        )
    return path


def _applied(settings: Settings, word: str) -> str | None:
    """The file of an applied profile: one from elsewhere has a name, too."""
    from orchestrator.runtime.state import Store

    store = Store.open_to_read(settings.store_path)
    if store is None:
        return None
    try:
        applied = store.applied()
    finally:
        store.close()
    files = applied.files if applied is not None else []
    return next((one.file for one in files if one.name == word), None)
