"""One llama-server instance of an imported profile, put together from settings that were read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct, field

from orchestrator.core.catalog import Catalog
from orchestrator.core.import_draft import OPEN, PORT, Notes, typed
from orchestrator.core.import_flags import Secrets, Settings, Table
from orchestrator.core.naming import lookup_keys
from orchestrator.core.problem import Path

_FIRST_CHOICE = "Q4_K_M"
"""What llama-server takes from a repository when nothing else is said."""


class Here(Struct, frozen=True):
    """What an importer knows of this machine.

    `server` is the llama-server found here, or empty, `table` its flags. `programs` are those of
    the programs named that are there. `folder` is what relative paths are relative to.
    """

    folder: str
    table: Table | None = None
    server: str = ""
    programs: frozenset[str] = frozenset()
    catalog: Catalog = field(default_factory=Catalog)

    def models(self, ref: str) -> int:
        """How many models a reference names. Unlike `find` it looks for nothing that is near,
        which takes time for each of very many."""
        for key in lookup_keys(ref, folder=self.folder):
            paths = {model.path for model in self.catalog.index.models(key)}
            if paths:
                return len(paths)
        return 0


class Drafting(Struct):
    """What the instances of one profile share while they are made."""

    here: Here
    notes: Notes = field(default_factory=Notes)
    secrets: Secrets = field(default_factory=Secrets)
    ports: dict[int, str] = field(default_factory=dict[int, str])
    relative: bool = False

    def settings(self, at: Path, part: str, key: str, line: int) -> Settings:
        """Settings that are about to be read, for the place `at` of the profile."""
        here = self.here
        return Settings(here.table, self.notes, self.secrets, here.folder, at, part, key, line)

    def body(self, read: Settings, more: Mapping[str, Any]) -> dict[str, Any]:
        """The keys of an instance, in the order in which people write them. `more` are keys of
        the profile besides; an empty one is left out."""
        self.relative = self.relative or read.relative
        places = read.places
        keys: dict[str, Any] = {
            "description": more.get("description"),
            "binary": more.get("binary"),
            "model": places.get("model") or self._hub(read),
            "mmproj": places.get("mmproj"),
            "host": places.get("host"),
            "port": self._port(read),
            **{key: more.get(key) for key in ("idle", "pin", "preload")},
            "flags": read.flags,
            "args": read.args,
        }
        keys |= {key: value for key, value in more.items() if key not in keys}
        return {key: value for key, value in keys.items() if value not in (None, "", {}, [])}

    def _hub(self, read: Settings) -> str:
        """A repository of Hugging Face as a file of the local cache; empty if none is named."""
        repository, file = read.places.get("hf-repo", ""), read.places.get("hf-file", "")
        if not repository:
            return ""
        name, _, quant = repository.partition(":")
        refs = [f"hf:{name}:{quant}"] if quant else [f"hf:{name}:{_FIRST_CHOICE}", f"hf:{name}"]
        refs = [f"hf:{name}/{file}"] if file else refs
        several = False
        for ref in refs:
            found = self.here.models(ref)
            if found == 1:
                return ref
            several = several or found > 1
        said = "several files of it are" if several else "it is not"
        todo = "name one of them" if several else f"download it (`hf download {name[:100]}`)"
        message = f"a model is never downloaded: {said} in the local Hugging Face cache; {todo}"
        read.changed(message, ("model",))
        return refs[-1]

    def _port(self, read: Settings) -> str | int | None:
        """A fixed port, if it is free; None is any."""
        said = read.places.get("port", "")
        if not said or said == PORT:
            return None
        if said.startswith(OPEN):
            return said
        port, at = typed(said), read.at
        if not isinstance(port, int) or not 1 <= port <= 65535:
            read.lost("its port is none")
            return None
        owner = self.ports.setdefault(port, str(at[-1]))
        if owner == at[-1]:
            return port
        message = f"port {port} is that of {owner!r}, which may run beside it: another is chosen"
        read.changed(message)
        return None

    def said_of_paths(self) -> None:
        """Note, once, what relative paths were taken to be relative to."""
        if self.relative:
            self.notes.changed(
                f"relative paths were taken from {self.here.folder} (--cwd names another folder)"
            )
