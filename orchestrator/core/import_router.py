"""Presets of llama-server's router to a profile: a section is an instance, `[*]` their defaults.

The router loads a model when somebody asks for it, so instances are started on demand, through a
gateway where the router listened.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from orchestrator.core.gateway_spec import GATEWAY
from orchestrator.core.import_draft import GONE, Imported, Names, typed
from orchestrator.core.import_flags import SPELLINGS, TRUTHY, Settings
from orchestrator.core.import_gateway import ON_DEMAND, Listening, together
from orchestrator.core.import_ini import DEFAULT, Line, Section
from orchestrator.core.import_instance import Drafting, Here
from orchestrator.core.problem import Path

GLOBAL = "*"
_DEFAULTS: Path = ("defaults", "llama-server")
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+)?")
_ROUTERS = ("host", "port", "api-key", "reuse-port")
"""What the router takes out of a preset, or sets itself."""
_ROUTING = re.compile(r"(no-)?models-(dir|preset|max|autoload)|LLAMA_ARG_MODELS_[A-Z]+")
"""Settings of the router and of none of its servers."""


def translate_router(
    sections: Sequence[Section], here: Here, listening: Listening | None = None
) -> Imported:
    """The profile that runs what a router with these presets offers, at the router's address."""
    return _Translation(sections, Drafting(here)).profile(listening or Listening())


class _Translation:
    """One file of presets on its way to one profile."""

    def __init__(self, sections: Sequence[Section], drafting: Drafting) -> None:
        self._sections = [one for one in sections if _says_something(one)]
        self._drafting = drafting
        self._notes = drafting.notes
        self._instances: dict[str, Any] = {}
        self._names = Names({GATEWAY})
        self._preloads = False

    def profile(self, listening: Listening) -> Imported:
        shared = Section(GLOBAL, 0)
        for section in self._sections:
            shared = section if section.name == GLOBAL else shared
            if section.again:
                message = "this section comes twice: what it said before counts for nothing"
                self._notes.changed(message, part=f"[{section.name}]", line=section.number)
        base, more = self._read(shared, _DEFAULTS)
        self._preloads = more.get("preload", False)
        models = [section for section in self._sections if section.name != GLOBAL]
        called = self._names.all(section.name for section in models)
        for section, name in zip(models, called, strict=True):
            self._instance(name, section, base)
        names = [name for name, one in self._instances.items() if one is not GONE]
        together(names, "the router", self._notes)
        defaults = {"start": ON_DEMAND, **more, "flags": base.flags, "args": base.args}
        self._drafting.said_of_paths()
        document = {
            GATEWAY: listening.keys(),
            "defaults": {"llama-server": {key: one for key, one in defaults.items() if one}},
            "instances": self._instances,
        }
        return Imported(document, tuple(self._notes.remarks))

    def _instance(self, name: str, section: Section, base: Settings) -> None:
        at: Path = ("instances", name)
        self._instances[name] = GONE
        read, more = self._read(section, at)
        if more.get("preload") == self._preloads:
            more.pop("preload", None)
        if not {"model", "hf-repo"} & read.places.keys():
            self._model(section, read, base)
        if base.places.get("mmproj"):
            read.places.setdefault("mmproj", base.places["mmproj"])
        if read.args:
            read.args[:0] = base.args
        self._called(name, section, read)
        body = self._drafting.body(read, more)
        if "model" in body:
            self._instances[name] = body
            return
        read.lost("it names no model, and none of this name was found")

    def _called(self, name: str, section: Section, read: Settings) -> None:
        """What clients ask for, the gateway takes from what the server calls itself."""
        own = read.flags.get("alias")
        if name == section.name or "," in section.name:
            return
        if own is None:
            read.flags["alias"] = typed(section.name)
        else:
            before = own if isinstance(own, list) else [own]
            read.flags["alias"] = [*before, section.name]

    def _model(self, section: Section, read: Settings, base: Settings) -> None:
        """The model of a section that names none: what all have, or what it is called."""
        shared = {key: base.places[key] for key in ("model", "hf-repo") if key in base.places}
        here = self._drafting.here
        if shared:
            read.places |= shared
        elif here.models(section.name) == 1:
            read.places["model"] = section.name
        elif _REPOSITORY.fullmatch(section.name):
            read.places["hf-repo"] = section.name

    def _read(self, section: Section, at: Path) -> tuple[Settings, dict[str, Any]]:
        """The settings of a section, and what it says of the life of its server."""
        read = self._drafting.settings(at, f"[{section.name}]", "", section.number)
        more: dict[str, Any] = {}
        for line in section.lines:
            read.key, read.line = line.key, line.number
            if line.cut:
                message = f"its value ends before {line.cut!r}, as llama-server reads it"
                read.changed(message)
            if line.key == "stop-timeout":
                grace = self._grace(line, read)
                more |= {"stop": {"grace": grace}} if grace else {}
            elif line.key == "load-on-startup":
                more["preload"] = line.value in TRUTHY
            elif line.key != "version" and not self._routers(line, read):
                read.preset(line.key, line.value)
        read.key, read.line = "", section.number
        return read, more

    def _grace(self, line: Line, read: Settings) -> str:
        if line.value.isascii() and line.value.isdecimal() and len(line.value) < 10:
            return f"{line.value}s"
        message = "expected a whole number of seconds"
        read.lost(message)
        return ""

    def _routers(self, line: Line, read: Settings) -> bool:
        """Whether a line sets what the router does not let a preset set; then that is noted."""
        key = next((SPELLINGS[one] for one in _spellings(line.key) if one in SPELLINGS), "")
        if key not in _ROUTERS and _ROUTING.fullmatch(line.key) is None:
            return False
        message = "the router sets this itself, and so nothing was carried over"
        read.lost(message)
        return True


def _spellings(key: str) -> tuple[str, str, str]:
    return key, f"--{key}", f"-{key}"


def _says_something(section: Section) -> bool:
    """`version` before all sections makes no model of its own."""
    return section.name != DEFAULT or any(line.key != "version" for line in section.lines)
