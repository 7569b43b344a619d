"""From the words of a command line to applied sources: which file, which folder, which name."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from orchestrator.core.encoding import is_utf8
from orchestrator.core.reference import env_names
from orchestrator.errors import InputError
from orchestrator.settings import Settings, captured

if TYPE_CHECKING:
    from orchestrator.runtime.state import AppliedSource

SUFFIXES = (".yaml", ".yml")
MAX_BYTES = 1 << 20


def path_of(word: str, settings: Settings) -> str:
    """The absolute path that FILE, DIR or NAME means. Raises `InputError`."""
    if os.path.exists(word) or "/" in word or word.endswith(SUFFIXES):
        path = os.path.abspath(word)
        if not os.path.exists(path):
            raise InputError(f"{word} does not exist", hint=_near(path))
        return path
    for suffix in SUFFIXES:
        candidate = os.path.join(settings.profiles_dir, word + suffix)
        if os.path.exists(candidate):
            return candidate
    raise InputError(
        f"no profile named {word!r} in {settings.profiles_dir}",
        hint=_near(os.path.join(settings.profiles_dir, word))
        or "`orchestrate profiles` lists them; ORCHESTRATE_PROFILES names the folder",
    )


def _near(path: str) -> str:
    from orchestrator.core.problem import did_you_mean

    try:
        names = os.listdir(os.path.dirname(path))
    except OSError:
        return ""
    known = [name for name in names if name.endswith(SUFFIXES)]
    stems = [os.path.splitext(name)[0] for name in known]
    name = os.path.basename(path)
    return did_you_mean(name, known) or did_you_mean(name, stems)


def sources_json(
    words: Sequence[str], settings: Settings, env: Mapping[str, str]
) -> list[dict[str, Any]]:
    """What is handed to the daemon: paths, and what the profiles may see of this shell."""
    paths = list(dict.fromkeys(path_of(word, settings) for word in words))
    for path in (*paths, os.getcwd()):
        if not is_utf8(path):
            raise InputError(
                f"the path {path!r} is not valid UTF-8", hint="rename the folder or file"
            )
    names = {name for path in paths for name in _referred(path)}
    shell = captured(env, names)
    binary = shell.get("ORCHESTRATE_LLAMA_SERVER", "")
    if "/" in binary:
        # The daemon stands in another folder than this shell.
        shell["ORCHESTRATE_LLAMA_SERVER"] = os.path.abspath(os.path.expanduser(binary))
    return [
        {"path": path, "is_folder": os.path.isdir(path), "env": shell, "cwd": os.getcwd()}
        for path in paths
    ]


def _referred(path: str) -> Iterable[str]:
    """The variables that a profile, or any in a folder, refers to."""
    files = [path]
    if os.path.isdir(path):
        files = [os.path.join(path, name) for name in os.listdir(path) if name.endswith(SUFFIXES)]
    for file in files:
        if not os.path.isfile(file):
            # To open a pipe would be to wait for whoever writes into it.
            continue
        try:
            with open(file, "rb") as opened:
                yield from env_names(opened.read(MAX_BYTES).decode("utf-8", "replace"))
        except OSError:
            # Whoever reads it for its content says so, with its place.
            continue


def applied_sources(
    words: Sequence[str], settings: Settings, env: Mapping[str, str]
) -> list[AppliedSource]:
    """The same, for resolving here."""
    from orchestrator.runtime.state import AppliedSource

    return [AppliedSource(**source) for source in sources_json(words, settings, env)]
