"""Ollama's environment and the models of its store to an instance of a profile."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from msgspec import Struct, field

from orchestrator.core.engine import FlagValue
from orchestrator.core.import_draft import Imported, Notes, env_reference, typed
from orchestrator.core.import_flags import secret_told
from orchestrator.core.problem import Path
from orchestrator.core.secret import is_secret_name

PREFIX = "OLLAMA_"
USUAL_PORT = 11434
_AT: Path = ("instances", "ollama")
_LOCAL = frozenset({"localhost", "127.0.0.1", "::1", "0.0.0.0", "::", ""})
_TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE = frozenset({"0", "f", "F", "FALSE", "false", "False"})
_CLIENTS = frozenset({"OLLAMA_NOHISTORY", "OLLAMA_EDITOR"})
_SYSTEMS = frozenset({"PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "TERM"})


class OllamaHere(Struct, frozen=True):
    """What there is of an Ollama. `listed` are the settings that its help names, None where that
    could not be asked; `accepts` raises ValueError for a value that a setting does not take."""

    shell: Mapping[str, str]
    unit: Mapping[str, str]
    tags: Sequence[str]
    cwd: str
    listed: Collection[str] | None
    accepts: Callable[[str, FlagValue], object]
    running: bool = False


class _Draft(Struct):
    """The instance while it is made."""

    here: OllamaHere
    notes: Notes = field(default_factory=Notes)
    settings: dict[str, Any] = field(default_factory=dict[str, Any])
    env: dict[str, str] = field(default_factory=dict[str, str])
    host: str = ""
    port: int = USUAL_PORT

    def take(self, name: str, value: str) -> None:
        """Take one variable."""
        setting = name.removeprefix(PREFIX).lower()
        if name in _CLIENTS or name in _SYSTEMS or not value:
            return
        if name == "OLLAMA_HOST":
            self._address(value)
        elif not name.startswith(PREFIX) or not self._is_setting(setting):
            self._variable(name, value)
        elif name == "OLLAMA_MODELS":
            self.settings[setting] = posixpath.join(self.here.cwd, value)
        else:
            self._setting(setting, value)

    def _is_setting(self, setting: str) -> bool:
        return self.here.listed is None or setting in self.here.listed

    def _variable(self, name: str, value: str) -> None:
        self.env[name] = value
        if is_secret_name(name):
            self.env[name] = env_reference(name)
            self.notes.changed(secret_told(name), key=name, at=(*_AT, "env", name))

    def _setting(self, setting: str, value: str) -> None:
        """The first reading of a value that the setting takes; Ollama takes any other word of a
        switch for yes."""
        name = f"{PREFIX}{setting.upper()}"
        readings: list[FlagValue] = [typed(value), value]
        if value in _TRUE | _FALSE:
            readings.append(value in _TRUE)
        for reading in readings:
            if self._fits(setting, reading):
                self.settings[setting] = reading
                return
        if self._fits(setting, True):
            self.settings[setting] = True
            message = "Ollama takes this for true"
            self.notes.changed(message, key=name, at=(*_AT, "settings", setting))
            return
        message = "Ollama passes over this value, for it cannot read it"
        self.notes.lost(message, key=name, at=(*_AT, "settings"))

    def _fits(self, setting: str, value: FlagValue) -> bool:
        try:
            self.here.accepts(setting, value)
        except ValueError:
            return False
        return True

    def _address(self, value: str) -> None:
        """OLLAMA_HOST as Ollama reads it: a scheme brings its port. Another machine is not ours."""
        scheme, separator, rest = value.partition("://")
        try:
            parts = urlsplit(f"//{rest if separator else value}")
            host, port = parts.hostname or "", parts.port
        except ValueError:
            self.notes.lost("this is no address", key="OLLAMA_HOST", at=_AT)
            return
        usual = {"http": 80, "https": 443}.get(scheme if separator else "", USUAL_PORT)
        if host in _LOCAL or self.here.unit.get("OLLAMA_HOST") == value:
            self.host = "" if host in ("localhost", "127.0.0.1") else host
            self.port = usual if port is None else port
            return
        message = "it names a server on another machine; this instance is one on this machine"
        self.notes.lost(message, key="OLLAMA_HOST", at=_AT)


def translate_ollama(here: OllamaHere) -> Imported:
    """A profile with one instance: this Ollama, its settings, and the models that it has."""
    draft = _Draft(here)
    shell = {name: _trimmed(value) for name, value in here.shell.items() if name.startswith(PREFIX)}
    unit = {name: _trimmed(value) for name, value in here.unit.items()}
    for name in sorted({**unit, **shell}):
        if name in unit and name in shell and unit[name] != shell[name]:
            message = "the service and this shell differ: the shell's is taken"
            draft.notes.changed(message, key=name, at=_AT)
        draft.take(name, shell.get(name, unit.get(name, "")))
    if here.running and (draft.settings or draft.env):
        draft.notes.changed(
            "a server that runs is used as it is (`attach: auto`), with settings of its own; "
            "these are for a server that is started here",
            at=_AT,
        )
    body: dict[str, Any] = {
        "engine": "ollama",
        "host": draft.host,
        "port": draft.port,
        "attach": "auto",
        "settings": draft.settings,
        "env": draft.env,
    }
    kept = {key: value for key, value in body.items() if value not in ("", {})}
    document = {"instances": {"ollama": {**kept, "models": list(here.tags)}}}
    return Imported(document, tuple(draft.notes.remarks))


def _trimmed(value: str) -> str:
    """As Ollama reads its variables."""
    return value.strip().strip("\"'")
