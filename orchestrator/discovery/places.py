"""Which folders hold models: those that were named, and where the usual programs put theirs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence

from msgspec import Struct

from orchestrator.core.catalog import Source

SYSTEM_OLLAMA = "/usr/share/ollama/.ollama/models"
"""Where the installer's system service keeps its models."""


class Location(Struct, frozen=True):
    """A folder to look into. One that somebody `named` must exist; a usual one may be missing."""

    source: Source
    path: str
    named: bool = False


def locations(
    env: Mapping[str, str],
    *,
    home: str,
    cwd: str,
    dirs: Sequence[str] = (),
    stores: Sequence[str] = (),
) -> tuple[Location, ...]:
    """The folders to scan, most specific first, each real folder once.

    `env`, `home` and `cwd` are the caller's, not this process's: a daemon looks where the shell
    that applied would look, and `./models` is below `cwd`. `dirs` are the folders that profiles
    name (`catalog.dirs`), `stores` those of their Ollama instances, absolute. Missing folders are
    left out, except named ones: the scan reports those.
    """
    found: list[Location] = []
    seen: set[str] = set()
    named = (Location("ollama", store) for store in stores)
    for location in (*_candidates(env, home, cwd, dirs), *named):
        real = os.path.realpath(location.path)
        if real in seen or not (location.named or os.path.isdir(real)):
            continue
        seen.add(real)
        found.append(location)
    return tuple(found)


def _candidates(
    env: Mapping[str, str], home: str, cwd: str, dirs: Sequence[str]
) -> Iterator[Location]:
    yield Location("folder", os.path.join(cwd, "models"))
    for folder in dirs:
        yield Location("folder", folder, named=True)
    for folder in env.get("ORCHESTRATE_MODELS", "").split(":"):
        if folder:
            yield Location("folder", _expanded(folder, home, cwd), named=True)
    yield Location("huggingface", _hub(env, home, cwd))
    yield Location("llama.cpp", _llama_cache(env, home, cwd))
    for folder in (".lmstudio/models", ".cache/lm-studio/models"):
        yield Location("lmstudio", os.path.join(home, folder))
    yield Location("ollama", ollama_store(env, home=home, cwd=cwd))
    yield Location("ollama", os.path.join(home, ".ollama/models"))
    yield Location("ollama", SYSTEM_OLLAMA)


def ollama_store(env: Mapping[str, str], *, home: str, cwd: str) -> str:
    """The folder in which the caller's own `ollama serve` would keep its models."""
    return _expanded(env.get("OLLAMA_MODELS") or "~/.ollama/models", home, cwd)


def _hub(env: Mapping[str, str], home: str, cwd: str) -> str:
    """As `huggingface_hub` decides it; HUGGINGFACE_HUB_CACHE is its older name for it."""
    for name, below in (
        ("HF_HUB_CACHE", ""),
        ("HUGGINGFACE_HUB_CACHE", ""),
        ("HF_HOME", "hub"),
        ("XDG_CACHE_HOME", "huggingface/hub"),
    ):
        if env.get(name):
            return os.path.join(_expanded(env[name], home, cwd), below).rstrip("/")
    return os.path.join(home, ".cache/huggingface/hub")


def _llama_cache(env: Mapping[str, str], home: str, cwd: str) -> str:
    """As llama.cpp decides it."""
    if env.get("LLAMA_CACHE"):
        return _expanded(env["LLAMA_CACHE"], home, cwd)
    cache = env.get("XDG_CACHE_HOME")
    base = _expanded(cache, home, cwd) if cache else os.path.join(home, ".cache")
    return os.path.join(base, "llama.cpp")


def _expanded(folder: str, home: str, cwd: str) -> str:
    """Absolute, with the home and the working folder of the caller."""
    if folder == "~" or folder.startswith("~/"):
        folder = home + folder[1:]
    return os.path.normpath(os.path.join(cwd, folder))
