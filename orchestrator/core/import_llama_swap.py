"""llama-swap's configuration to a profile: each model that a llama-server serves is an instance.

Of what a proxy does between clients and servers nothing comes over; what that is, and what there is
instead, is said of each key (`import_swap_words`).
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from orchestrator.core.import_command import Command
from orchestrator.core.import_draft import (
    GONE,
    OPEN,
    Imported,
    Names,
    env_reference,
    located,
    readable,
    typed,
)
from orchestrator.core.import_flags import Settings, secret_told
from orchestrator.core.import_instance import Drafting, Here
from orchestrator.core.import_macros import TooMuchError
from orchestrator.core.import_swap_config import SwapConfig, SwapModel
from orchestrator.core.import_swap_words import (
    ALIASES,
    AT_ONCE,
    FILE_KEYS,
    MODEL_KEYS,
    NOTED,
    SLEEP,
    UNKNOWN,
    sleeping,
)
from orchestrator.core.nodes import Entry, ListNode, ScalarNode
from orchestrator.core.problem import Path
from orchestrator.core.secret import is_secret_name

_LOCAL = frozenset({"localhost", "127.0.0.1", "::1", "0.0.0.0"})
_LEAST_WAIT = 15
"""Seconds: what llama-swap makes of a shorter `healthCheckTimeout`."""


def translate_llama_swap(config: SwapConfig, here: Here) -> Imported:
    """The profile that does the same, as far as one can. Raises `UnreadableError`."""
    try:
        return _Translation(config, Drafting(here)).profile()
    except TooMuchError:
        raise config.too_much() from None


class _Translation:
    """One configuration on its way to one profile."""

    def __init__(self, config: SwapConfig, drafting: Drafting) -> None:
        self._config = config
        self._drafting = drafting
        self._notes = drafting.notes
        self._instances: dict[str, Any] = {}
        self._names_given = Names()

    def profile(self) -> Imported:
        defaults = self._defaults()
        for model in self._config.models:
            name = self._names_given.name(model.name)
            # What is left out keeps its place, for what is said of it.
            self._instances[name] = GONE
            self._instance(name, model)
        self._whole()
        self._drafting.said_of_paths()
        document: dict[str, Any] = {"defaults": {"llama-server": defaults}} if defaults else {}
        return Imported({**document, "instances": self._instances}, tuple(self._notes.remarks))

    def _defaults(self) -> dict[str, Any]:
        """What holds for all models."""
        defaults: dict[str, Any] = {}
        wait = self._seconds("healthCheckTimeout")
        if wait is not None:
            defaults["readiness"] = {"deadline": f"{max(wait, _LEAST_WAIT)}s"}
        grace = self._seconds("unloadTimeout")
        if grace:
            defaults["stop"] = {"grace": f"{grace}s"}
        idle = self._seconds("globalTTL")
        if idle and self._can_sleep():
            defaults["flags"] = {SLEEP: idle}
            at = ("defaults", "llama-server", "flags", SLEEP)
            line = self._config.keys["globalTTL"].line
            self._notes.changed(sleeping(idle), key="globalTTL", line=line, at=at)
        elif idle:
            self._lost_of_file("globalTTL", MODEL_KEYS["ttl"])
        return defaults

    def _seconds(self, key: str) -> int | None:
        return _count(self._config.text(key))

    def _can_sleep(self) -> bool:
        table = self._drafting.here.table
        return table is not None and f"--{SLEEP}" in table.by_spelling

    def _whole(self) -> None:
        """What is to be said of the file as a whole."""
        for key in self._config.keys:
            message = FILE_KEYS.get(key, UNKNOWN)
            if message:
                self._lost_of_file(key, message)
        if len([one for one in self._instances.values() if one is not GONE]) > 1:
            self._notes.changed(AT_ONCE, at=("instances",))

    def _lost_of_file(self, key: str, message: str) -> None:
        self._notes.lost(message, key=key, line=self._config.keys[key].line)

    def _instance(self, name: str, model: SwapModel) -> None:
        at: Path = ("instances", name)
        part, line = f"models.{model.name}", model.line("cmd")
        command = model.command
        if isinstance(command, str):
            self._notes.lost(command, part=part, line=line, at=at)
            return
        read = self._drafting.settings(at, part, "cmd", line)
        binary = self._binary(command, read)
        if command.wrapper:
            read.lost(f"it is started without {command.wrapper[0][:60]!r}")
        read.words(command.words)
        env = self._env(model, dict(command.env), read)
        self._names(name, model, read)
        self._idle(model, read)
        self._proxy(model, read)
        grace = _count(model.text("unloadTimeout"))
        more: dict[str, Any] = {
            "description": _description(model),
            "binary": binary,
            "env": env,
            "stop": {"grace": f"{grace}s"} if grace else {},
        }
        read.key, read.line = "cmd", line
        body = self._drafting.body(read, more)
        if "model" not in body:
            read.lost("it names no model")
        else:
            self._instances[name] = body
        self._rest(model, read)

    def _binary(self, command: Command, read: Settings) -> str:
        """The program, where it is there and named by more than what it is usually called."""
        here, program = self._drafting.here, command.program
        if program == "llama-server":
            return ""
        if program not in here.programs:
            said = readable(program)
            read.changed(f"{said} is not on this machine: the llama-server found here runs")
            return ""
        whole = located(program, here.folder) if "/" in program else program
        read.ours = whole == here.server
        return whole

    def _env(self, model: SwapModel, env: dict[str, str], read: Settings) -> dict[str, Any]:
        read.key, read.line = "env", model.line("env")
        for item in model.texts("env"):
            name, equals, value = item.partition("=")
            if equals and name:
                env[name] = value
            else:
                read.lost("expected NAME=value")
        kept: dict[str, Any] = {}
        for name, value in env.items():
            if read.variable(name, value):
                continue
            kept[name] = value
            if is_secret_name(name) and value and not value.startswith(OPEN):
                safe = self._drafting.secrets.reference(name, value, str(read.at[-1]))
                kept[name] = env_reference(safe)
                read.changed(secret_told(safe), ("env", name), name)
        return kept

    def _names(self, name: str, model: SwapModel, read: Settings) -> None:
        """An instance answers to any name; what it says of itself is what it was called."""
        read.key, read.line = "aliases", model.line("aliases")
        aliases = model.texts("aliases")
        if aliases:
            read.changed(ALIASES, ("flags", "alias"))
        names = [one for one in (model.name, *aliases) if "," not in one]
        if "alias" not in read.flags and names and (aliases or name != model.name):
            read.flags["alias"] = typed(names[0]) if len(names) == 1 else [*names]

    def _idle(self, model: SwapModel, read: Settings) -> None:
        read.key, read.line = "ttl", model.line("ttl")
        idle = _count(model.text("ttl"))
        if not idle:
            if idle == 0 and self._seconds("globalTTL") and self._can_sleep():
                read.flags[SLEEP] = None
        elif not self._can_sleep():
            read.lost(MODEL_KEYS["ttl"])
        elif SLEEP not in read.flags:
            read.flags[SLEEP] = idle
            read.changed(sleeping(idle), ("flags", SLEEP))

    def _proxy(self, model: SwapModel, read: Settings) -> None:
        """Where requests were sent. A port that the command does not say is the server's own."""
        read.key, read.line = "proxy", model.line("proxy")
        try:
            parts = urlsplit(model.text("proxy"))
            host, port = parts.hostname or "", parts.port
        except ValueError:
            return
        if host and host not in _LOCAL:
            read.lost("requests went to another machine")
        elif port and "port" not in read.places:
            read.places["port"] = str(port)

    def _rest(self, model: SwapModel, read: Settings) -> None:
        """Everything of a model that a profile has nothing for."""
        for key, entry in model.keys.items():
            read.key, read.line = key, entry.line
            message = MODEL_KEYS.get(key, UNKNOWN)
            if key in NOTED:
                read.changed(message)
            elif key != "ttl" and message and not _says_nothing(key, entry):
                read.lost(message)


def _says_nothing(key: str, entry: Entry) -> bool:
    """Whether a key only says what holds anyway."""
    node = entry.value
    if isinstance(node, ScalarNode):
        usual = {"checkEndpoint": "/health"}.get(key)
        return node.value in (None, False, 0, "") or node.text == usual
    return not (node.items if isinstance(node, ListNode) else node.entries)


def _description(model: SwapModel) -> str:
    parts = [model.text("name"), model.text("description")]
    return ": ".join(part.strip() for part in parts if part.strip())


def _count(text: str) -> int | None:
    """A whole number of at most nine digits; None for anything else."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else None
