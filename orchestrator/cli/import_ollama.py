"""What `import ollama` finds on this machine: a server, its unit, its environment, its models."""

from __future__ import annotations

import os
import pwd
from collections.abc import Collection, Iterator, Mapping

from orchestrator.cli.ollama_here import own_store, stored_tags, usual
from orchestrator.core.import_draft import Remark
from orchestrator.core.import_ollama import OllamaHere
from orchestrator.core.import_unit import UnitEnvironment
from orchestrator.errors import InputError, OrchestrateError
from orchestrator.settings import Settings

UNIT = "ollama.service"
SYSTEM = (
    *("/etc/systemd/system", "/run/systemd/system", "/usr/local/lib/systemd/system"),
    *("/usr/lib/systemd/system", "/lib/systemd/system"),
)
MOST = 1 << 20
"""Bytes of a unit, or of an environment file, that are read."""


def ollama_here(settings: Settings) -> tuple[OllamaHere, tuple[Remark, ...]]:
    """All of it, and what is to be said of what could not be read. Raises `OrchestrateError` when
    there is no Ollama."""
    from orchestrator.engines.ollama_settings import rendered

    unit = _unit(os.environ)
    given = unit.variables if unit is not None else {}
    names = ("OLLAMA_HOST", "OLLAMA_MODELS")
    env = {**{name: given[name] for name in names if name in given}, **os.environ}
    seen = usual(env)
    store = _store(env, unit)
    tags = seen.server.tags if seen.server is not None else stored_tags(store)
    listed, program = _listed(settings)
    if unit is None and seen.server is None and not tags and not program:
        raise OrchestrateError(
            "there is no Ollama here: no program, no server, no service, and no models",
            hint="`orchestrate doctor` shows where it was looked for",
        )
    here = OllamaHere(
        os.environ, given, tags, os.getcwd(), listed, rendered, running=seen.server is not None
    )
    return here, tuple(_remarks(unit, store, readable=seen.server is not None or bool(tags)))


def _remarks(unit: UnitEnvironment | None, store: str, *, readable: bool) -> Iterator[Remark]:
    at = ("instances", "ollama")
    for file, line in unit.unread if unit is not None else ():
        yield Remark("lost", "this cannot be read without systemd", f"{file}:{line}", at=at)
    if not readable and os.path.isdir(store) and not os.access(store, os.R_OK | os.X_OK):
        message = f"the models in {store} cannot be read, and no server answers that has them"
        yield Remark("lost", message, at=at)


def _listed(settings: Settings) -> tuple[Collection[str] | None, bool]:
    """The settings that the Ollama found here takes, if that is known, and whether there is one."""
    from orchestrator.control.toolchain import Toolchain

    try:
        variables = Toolchain(settings.cache_dir).ollama(None, os.environ).variables
    except InputError:
        return None, False
    return (variables.about if variables.trusted else None), True


def _store(env: Mapping[str, str], unit: UnitEnvironment | None) -> str:
    """The folder of its models: a service that is another user's has them with that user."""
    if unit is None or not unit.user or env.get("OLLAMA_MODELS"):
        return own_store(env)
    try:
        home = pwd.getpwnam(unit.user).pw_dir
    except KeyError:
        return own_store(env)
    return own_store({**env, "HOME": home})


def _unit(env: Mapping[str, str]) -> UnitEnvironment | None:
    """The unit of this user, else of the machine, with its drop-ins and environment files."""
    home = env.get("HOME") or os.path.expanduser("~")
    config = env.get("XDG_CONFIG_HOME") or os.path.join(home, ".config")
    for folders in ((os.path.join(config, "systemd", "user"),), SYSTEM):
        text = next((found for one in folders if (found := _read(f"{one}/{UNIT}"))), None)
        if text is None:
            continue
        unit = UnitEnvironment()
        unit.unit(text, UNIT, home=home)
        for path in _drop_ins(folders):
            unit.unit(_read(path) or "", os.path.basename(path), home=home)
        for path in unit.files:
            unit.environment_file(_read(path) or "", os.path.basename(path))
        return unit
    return None


def _drop_ins(folders: Collection[str]) -> list[str]:
    """By their names; one in a folder that comes earlier takes the place of its namesake."""
    found: dict[str, str] = {}
    for folder in folders:
        try:
            names = os.listdir(f"{folder}/{UNIT}.d")
        except OSError:
            continue
        for name in names:
            if name.endswith(".conf"):
                found.setdefault(name, f"{folder}/{UNIT}.d/{name}")
    return [found[name] for name in sorted(found)]


def _read(path: str) -> str | None:
    try:
        if not os.path.isfile(path):
            return None
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(MOST)
    except OSError:
        return None
