"""llama-swap's configuration to a profile: each model that a llama-server serves is an instance.

It loads a model when somebody asks for it, so instances are started on demand, through a gateway
(`import_swap_gateway`). What is not carried over is said of each key (`import_swap_words`).
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from orchestrator.core.gateway_spec import GATEWAY
from orchestrator.core.import_command import Command
from orchestrator.core.import_draft import (
    GONE,
    Imported,
    Names,
    env_reference,
    is_reference,
    located,
    readable,
    typed,
)
from orchestrator.core.import_flags import Settings, secret_told
from orchestrator.core.import_gateway import ON_DEMAND, Listening
from orchestrator.core.import_instance import Drafting, Here
from orchestrator.core.import_macros import TooMuchError
from orchestrator.core.import_swap_config import SwapConfig, SwapModel
from orchestrator.core.import_swap_gateway import SwapGateway
from orchestrator.core.import_swap_sets import preloaded, said_of_sets, staying
from orchestrator.core.import_swap_words import FILE_KEYS, MODEL_KEYS, NEARBY, NOTED, UNKNOWN
from orchestrator.core.nodes import Entry, ListNode, ScalarNode
from orchestrator.core.problem import Path
from orchestrator.core.secret import is_secret_name
from orchestrator.core.units import format_duration

_LOCAL = frozenset({"localhost", "127.0.0.1", "::1", "0.0.0.0"})
_LEAST_WAIT = 15
"""Seconds: what llama-swap makes of a shorter `healthCheckTimeout`."""


def translate_llama_swap(
    config: SwapConfig, here: Here, listening: Listening | None = None
) -> Imported:
    """The profile that does the same, as far as one can. `listening` is where llama-swap was told
    to, None where nothing is known of that. Raises `UnreadableError`."""
    try:
        return _Translation(config, Drafting(here)).profile(listening)
    except TooMuchError:
        raise config.too_much() from None


class _Translation:
    """One configuration on its way to one profile."""

    def __init__(self, config: SwapConfig, drafting: Drafting) -> None:
        self._config = config
        self._drafting = drafting
        self._notes = drafting.notes
        self._instances: dict[str, Any] = {}
        self._names_given = Names({GATEWAY})
        self._served: dict[str, str] = {}
        """Instances by what clients call them."""
        self._routes: dict[str, Any] = {}
        self._preloaded = preloaded(config)
        self._staying = staying(config)

    def profile(self, listening: Listening | None) -> Imported:
        where = listening or Listening()
        self._drafting.ports[where.port] = GATEWAY
        defaults = self._defaults()
        names = self._names_given.all(model.name for model in self._config.models)
        for model, name in zip(self._config.models, names, strict=True):
            # What is left out keeps its place, for what is said of it.
            self._instances[name] = GONE
            self._instance(name, model)
        for name, line in self._preloaded.items():
            if name not in self._served:
                message = f"{readable(name)} is not there to be loaded"
                self._notes.lost(message, key="hooks", line=line)
        routes = {one: to for one, to in self._routes.items() if self._served.get(one) in to}
        gateway = SwapGateway(self._config, self._drafting, self._served, routes)
        head = {GATEWAY: {**where.keys(), **gateway.keys()}}
        if listening is None and self._served:
            self._notes.changed(NEARBY, at=(GATEWAY,))
        self._whole()
        self._drafting.said_of_paths()
        blocks = {"defaults": {"llama-server": defaults}, "instances": self._instances}
        return Imported({**head, **blocks}, tuple(self._notes.remarks))

    def _defaults(self) -> dict[str, Any]:
        """What holds for all models."""
        defaults: dict[str, Any] = {}
        wait = self._seconds("healthCheckTimeout")
        if wait is not None:
            defaults["readiness"] = {"deadline": f"{max(wait, _LEAST_WAIT)}s"}
        grace = self._seconds("unloadTimeout")
        if grace:
            defaults["stop"] = {"grace": f"{grace}s"}
        defaults["start"] = ON_DEMAND
        idle = self._seconds("globalTTL")
        if idle:
            defaults["idle"] = format_duration(idle)
        return defaults

    def _seconds(self, key: str) -> int | None:
        return _count(self._config.text(key))

    def _whole(self) -> None:
        """What is to be said of the file as a whole."""
        for key in self._config.keys:
            message = FILE_KEYS.get(key, UNKNOWN)
            if message:
                self._lost_of_file(key, message)
        names = [name for name, one in self._instances.items() if one is not GONE]
        said_of_sets(self._config, names, self._notes)

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
        self._proxy(model, read)
        grace = _count(model.text("unloadTimeout"))
        more: dict[str, Any] = {
            "description": _description(model),
            "binary": binary,
            **self._demand(model),
            "env": env,
            "stop": {"grace": f"{grace}s"} if grace else {},
        }
        read.key, read.line = "cmd", line
        body = self._drafting.body(read, more)
        if "model" not in body:
            read.lost("it names no model")
        else:
            self._instances[name] = body | self._never_idle(model)
            called = [name, model.name, *model.texts("aliases")]
            self._served |= {one: self._served.get(one, name) for one in called}
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
            if is_secret_name(name) and value and not is_reference(value):
                safe = self._drafting.secrets.reference(name, value, str(read.at[-1]))
                kept[name] = env_reference(safe)
                read.changed(secret_told(safe), ("env", name), name)
        return kept

    def _names(self, name: str, model: SwapModel, read: Settings) -> None:
        """What clients call it, the gateway takes from what the server calls itself. A name with
        a comma, which would be two, is a route."""
        aliases = model.texts("aliases")
        said = [one for one in dict.fromkeys((model.name, *aliases)) if one]
        self._routes |= {one: [name] for one in said if "," in one}
        names = [one for one in said if "," not in one]
        own = read.flags.get("alias")
        if own is not None:
            before = own if isinstance(own, list) else [own]
            more = [one for one in names if one != name and one not in map(str, before)]
            read.flags["alias"] = [*before, *more] if more else own
        elif names and (aliases or name != model.name):
            read.flags["alias"] = typed(names[0]) if len(names) == 1 else [*names]

    def _demand(self, model: SwapModel) -> dict[str, Any]:
        """When it is there, beside when somebody asks for it."""
        names = {model.name, *model.texts("aliases")}
        idle = _count(model.text("ttl"))
        return {
            "idle": format_duration(idle) if idle else "",
            "pin": True if names & self._staying else None,
            "preload": True if names & self._preloaded.keys() else None,
        }

    def _never_idle(self, model: SwapModel) -> dict[str, Any]:
        """A time to live of 0 is none, where others have one."""
        never = _count(model.text("ttl")) == 0 and self._seconds("globalTTL")
        return {"idle": None} if never else {}

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
            elif message and not _says_nothing(key, entry):
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
