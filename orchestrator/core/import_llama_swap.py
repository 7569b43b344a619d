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
    env_reference,
    instance_name,
    located,
    typed,
)
from orchestrator.core.import_flags import Settings, secret_told
from orchestrator.core.import_instance import Drafting, Here
from orchestrator.core.import_macros import TooMuchError
from orchestrator.core.import_swap_config import SwapConfig, SwapModel
from orchestrator.core.import_swap_words import FILE_KEYS, MODEL_KEYS
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

    def profile(self) -> Imported:
        defaults = self._defaults()
        for model in self._config.models:
            name = instance_name(model.name, self._instances)
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
            defaults["flags"] = {"sleep-idle-seconds": idle}
            self._told_of_sleep("globalTTL", idle, ("defaults", "llama-server", "flags"))
        elif idle:
            self._lost_file_key("globalTTL", MODEL_KEYS["ttl"])
        return defaults

    def _seconds(self, key: str) -> int | None:
        return _count(self._config.text(key))

    def _can_sleep(self) -> bool:
        table = self._drafting.here.table
        return table is not None and "--sleep-idle-seconds" in table.by_spelling

    def _whole(self) -> None:
        """What is to be said of the file as a whole."""
        for key, entry in self._config.keys.items():
            if key in FILE_KEYS:
                if FILE_KEYS[key]:
                    self._lost_file_key(key, FILE_KEYS[key])
            else:
                self._notes.lost("unknown", path=key, line=entry.line)
        running = [one for one in self._instances.values() if one is not GONE]
        if len(running) > 1:
            self._notes.changed(
                "llama-swap loads a model when somebody asks for it, and unloads others for it; "
                "here all of these run from the start, each at a port of its own. For one at a "
                "time make a profile of each, and switch with `orchestrate apply`",
                at=("instances",),
            )

    def _lost_file_key(self, key: str, message: str) -> None:
        self._notes.lost(message, path=key, line=self._config.keys[key].line)

    def _told_of_sleep(self, path: str, idle: int, at: Path) -> None:
        self._notes.changed(
            f"the server itself gives its memory back after {idle} idle seconds, and loads again "
            "when it is asked; its process stays",
            path=path,
            line=self._config.keys[path].line if path in self._config.keys else 0,
            at=at,
        )

    def _instance(self, name: str, model: SwapModel) -> None:
        at, path = ("instances", name), f"models.{model.name}"
        command = model.command
        if isinstance(command, str):
            self._notes.lost(command, path=path, line=model.line("cmd"), at=at)
            return
        read = self._drafting.settings(at, f"{path}.cmd", model.line("cmd"))
        binary = self._binary(command, read)
        if command.wrapper:
            message = f"it is started without {command.wrapper[0][:60]!r}"
            self._notes.lost(message, path=f"{path}.cmd", line=model.line("cmd"), at=at)
        read.words(command.words)
        env = self._env(model, {**command.env}, read)
        self._names(name, model, read)
        self._idle(model, read)
        self._proxy(model, read)
        more: dict[str, Any] = {
            "description": _description(model),
            "binary": binary,
            "env": env,
            "stop": self._grace(model),
        }
        body = self._drafting.body(read, more)
        self._rest(model, at)
        if "model" not in body:
            self._notes.lost("its command names no model", path=path, line=read.line, at=at)
            return
        self._instances[name] = body

    def _binary(self, command: Command, read: Settings) -> str:
        """The program, where it is there and named by more than what it is usually called."""
        here, program = self._drafting.here, command.program
        if program == "llama-server":
            return ""
        if program not in here.programs:
            self._notes.changed(
                "its program is not on this machine: the llama-server found here runs",
                path=read.source,
                line=read.line,
                at=read.at,
            )
            return ""
        whole = located(program, here.folder) if "/" in program else program
        read.ours = whole == here.server
        return whole

    def _env(self, model: SwapModel, env: dict[str, str], read: Settings) -> dict[str, Any]:
        path, line = f"models.{model.name}.env", model.line("env")
        for item in model.texts("env"):
            name, equals, value = item.partition("=")
            if equals and name:
                env[name] = value
            else:
                self._notes.lost("expected NAME=value", path=path, line=line, at=read.at)
        kept: dict[str, Any] = {}
        for name, value in env.items():
            if read.variable(name, value):
                continue
            kept[name] = value
            if is_secret_name(name) and value and not value.startswith(OPEN):
                safe = self._drafting.secrets.reference(name, value, str(read.at[-1]))
                kept[name] = env_reference(safe)
                self._notes.changed(
                    secret_told(name, safe),
                    path=path,
                    line=model.line("env"),
                    at=(*read.at, "env", name),
                )
        return kept

    def _names(self, name: str, model: SwapModel, read: Settings) -> None:
        """An instance answers to any name; what it says of itself is what it was called."""
        aliases = model.texts("aliases")
        path = f"models.{model.name}.aliases"
        if aliases:
            self._notes.changed(
                "at its own port it answers to any name; one address for all of them would need a "
                "gateway",
                path=path,
                line=model.line("aliases"),
                at=(*read.at, "flags", "alias"),
            )
        names = [one for one in (model.name, *aliases) if "," not in one]
        if "alias" not in read.flags and names and (aliases or name != model.name):
            read.flags["alias"] = typed(names[0]) if len(names) == 1 else [*names]

    def _idle(self, model: SwapModel, read: Settings) -> None:
        idle = _count(model.text("ttl"))
        path = f"models.{model.name}.ttl"
        everywhere = self._seconds("globalTTL")
        if not idle:
            if idle == 0 and everywhere and self._can_sleep():
                read.flags["sleep-idle-seconds"] = None
            return
        if not self._can_sleep():
            self._notes.lost(MODEL_KEYS["ttl"], path=path, line=model.line("ttl"), at=read.at)
        elif "sleep-idle-seconds" not in read.flags:
            read.flags["sleep-idle-seconds"] = idle
            self._told_of_sleep(path, idle, (*read.at, "flags", "sleep-idle-seconds"))

    def _proxy(self, model: SwapModel, read: Settings) -> None:
        """Where requests were sent. A port that the command does not say is the server's own."""
        said = model.text("proxy")
        try:
            parts = urlsplit(said)
            host, port = parts.hostname or "", parts.port
        except ValueError:
            host, port = "", None
        if said and host and host not in _LOCAL:
            self._notes.lost(
                "requests went to another machine",
                path=f"models.{model.name}.proxy",
                line=model.line("proxy"),
                at=read.at,
            )
        elif port and "port" not in read.places:
            read.places["port"] = str(port)

    def _grace(self, model: SwapModel) -> dict[str, Any]:
        grace = _count(model.text("unloadTimeout"))
        return {"grace": f"{grace}s"} if grace else {}

    def _rest(self, model: SwapModel, at: tuple[str, ...]) -> None:
        """Everything of a model that a profile has nothing for."""
        for key, entry in model.keys.items():
            path = f"models.{model.name}.{key}"
            if key not in MODEL_KEYS:
                self._notes.lost("unknown", path=path, line=entry.line, at=at)
            elif key != "ttl" and MODEL_KEYS[key] and not _says_nothing(key, entry):
                self._notes.lost(MODEL_KEYS[key], path=path, line=entry.line, at=at)


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
