"""Presets of llama-server's router to a profile: a section is an instance, `[*]` their defaults."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from orchestrator.core.catalog import Found, find
from orchestrator.core.import_draft import GONE, Imported, instance_name, typed
from orchestrator.core.import_flags import SPELLINGS, Settings
from orchestrator.core.import_ini import DEFAULT, Line, Section
from orchestrator.core.import_instance import Drafting, Here
from orchestrator.core.problem import Path

GLOBAL = "*"
_DEFAULTS: Path = ("defaults", "llama-server")
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+)?")
_ROUTERS = ("host", "port", "api-key", "reuse-port")
"""What the router takes out of a preset, or sets itself."""


def translate_router(sections: Sequence[Section], here: Here) -> Imported:
    """The profile that runs what a router with these presets offers."""
    return _Translation(sections, Drafting(here)).profile()


class _Translation:
    """One file of presets on its way to one profile."""

    def __init__(self, sections: Sequence[Section], drafting: Drafting) -> None:
        self._sections = [one for one in sections if _says_something(one)]
        self._drafting = drafting
        self._notes = drafting.notes
        self._instances: dict[str, Any] = {}

    def profile(self) -> Imported:
        shared = Section(GLOBAL, 0)
        for section in self._sections:
            shared = section if section.name == GLOBAL else shared
            if section.again:
                message = "this section comes twice: what it said before counts for nothing"
                self._notes.changed(message, path=f"[{section.name}]", line=section.number)
        base, grace = self._read(shared, _DEFAULTS)
        for section in self._sections:
            if section.name != GLOBAL:
                self._instance(section, base)
        self._whole()
        defaults: dict[str, Any] = {}
        if base.flags:
            defaults["flags"] = base.flags
        if grace:
            defaults["stop"] = {"grace": grace}
        if base.args:
            defaults["args"] = base.args
        document: dict[str, Any] = {"defaults": {"llama-server": defaults}} if defaults else {}
        self._drafting.said_of_paths()
        return Imported({**document, "instances": self._instances}, tuple(self._notes.remarks))

    def _whole(self) -> None:
        if len([one for one in self._instances.values() if one is not GONE]) > 1:
            self._notes.changed(
                "the router loads a model when somebody asks for it, and unloads others for it; "
                "here all of these run from the start, each at a port of its own, and nothing "
                "routes requests by the name of a model. For one at a time make a profile of "
                "each, and switch with `orchestrate apply`",
                at=("instances",),
            )

    def _instance(self, section: Section, base: Settings) -> None:
        name = instance_name(section.name, self._instances)
        at: Path = ("instances", name)
        self._instances[name] = GONE
        read, grace = self._read(section, at)
        if not {"model", "hf-repo"} & read.places.keys():
            self._model(section, read, base)
        if base.places.get("mmproj"):
            read.places.setdefault("mmproj", base.places["mmproj"])
        if read.args:
            read.args[:0] = base.args
        if "alias" not in read.flags and name != section.name and "," not in section.name:
            read.flags["alias"] = typed(section.name)
        more: dict[str, Any] = {"stop": {"grace": grace}} if grace else {}
        body = self._drafting.body(read, more)
        if "model" in body:
            self._instances[name] = body
            return
        self._notes.lost(
            "it names no model, and none of this name was found",
            path=f"[{section.name}]",
            line=section.number,
            at=at,
        )

    def _model(self, section: Section, read: Settings, base: Settings) -> None:
        """The model of a section that names none: what all have, or what it is called."""
        shared = {key: base.places[key] for key in ("model", "hf-repo") if key in base.places}
        here = self._drafting.here
        if shared:
            read.places |= shared
        elif isinstance(find(here.catalog, section.name, folder=here.folder), Found):
            read.places["model"] = section.name
        elif _REPOSITORY.fullmatch(section.name):
            read.places["hf-repo"] = section.name

    def _read(self, section: Section, at: Path) -> tuple[Settings, str]:
        """The settings of a section, and the time it is given to stop."""
        read = self._drafting.settings(at, f"[{section.name}]", section.number)
        grace = ""
        for line in section.lines:
            read.source, read.line = f"[{section.name}] {line.key}", line.number
            if line.cut:
                message = f"its value ends before {line.cut!r}, as llama-server reads it"
                self._notes.changed(message, path=read.source, line=line.number, at=at)
            if line.key == "stop-timeout":
                grace = self._grace(line, read)
            elif line.key not in ("version", "load-on-startup") and not self._routers(line, read):
                read.preset(line.key, line.value)
        read.source, read.line = f"[{section.name}]", section.number
        return read, grace

    def _grace(self, line: Line, read: Settings) -> str:
        if line.value.isascii() and line.value.isdecimal() and len(line.value) < 10:
            return f"{line.value}s"
        message = "expected a whole number of seconds"
        self._notes.lost(message, path=read.source, line=line.number, at=read.at)
        return ""

    def _routers(self, line: Line, read: Settings) -> bool:
        """Whether a line sets what the router does not let a preset set; then that is noted."""
        key = next((SPELLINGS[one] for one in _spellings(line.key) if one in SPELLINGS), "")
        if key not in _ROUTERS:
            return False
        message = "the router sets this itself, and so nothing was carried over"
        self._notes.lost(message, path=read.source, line=line.number, at=read.at)
        return True


def _spellings(key: str) -> tuple[str, str, str]:
    return key, f"--{key}", f"-{key}"


def _says_something(section: Section) -> bool:
    """`version` before all sections makes no model of its own."""
    return section.name != DEFAULT or any(line.key != "version" for line in section.lines)
