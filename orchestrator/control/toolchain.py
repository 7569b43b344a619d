"""The engines of this machine: the binaries that were found, with what their help says.

Asked at every validation, so a known binary costs a few `stat` calls: its table is kept in memory,
and on disk for the next process, under a key that changes when the binary does.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Mapping
from typing import Any

from orchestrator.core.engine import Engine
from orchestrator.core.gpu import Gpu
from orchestrator.core.spec import InputFile
from orchestrator.engines.flags import FlagTable, table_from_json
from orchestrator.engines.llama_server import LlamaServer
from orchestrator.engines.ollama import Ollama
from orchestrator.engines.ollama_settings import Variables, variables_from_json
from orchestrator.runtime.binaries import FoundBinary, find_llama_server, find_ollama
from orchestrator.runtime.gpus import gpu_nodes, list_gpus

_FOLDER = "flags"
_KEPT = 16
"""Tables kept on disk; the oldest go first."""


class Toolchain:
    """Finds engines and remembers what their help says. May be used from several threads."""

    def __init__(self, cache_dir: str) -> None:
        self._folder = os.path.join(cache_dir, _FOLDER)
        self._tables: dict[str, FlagTable] = {}
        self._settings: dict[str, Variables] = {}
        self._gpus: dict[tuple[str, tuple[str, ...]], tuple[Gpu, ...]] = {}

    def engine(self, name: str, explicit: str | None, env: Mapping[str, str]) -> Engine:
        """The engine of that name, as a profile's `engine:` says it. Raises `InputError`."""
        return {"llama-server": self.llama_server, "ollama": self.ollama}[name](explicit, env)

    def ollama(self, explicit: str | None, env: Mapping[str, str]) -> Ollama:
        """The Ollama for a profile's `binary` and a caller's environment; as `llama_server`."""
        found = find_ollama(explicit=explicit, env=env)
        binary = InputFile("binary", found.path, found.identity)
        home = env.get("HOME") or os.path.expanduser("~")
        return Ollama(binary, found.launcher, self._variables(found, env), home=home)

    def _variables(self, found: FoundBinary, env: Mapping[str, str]) -> Variables:
        key = found.fingerprint
        if key not in self._settings:
            variables = variables_from_json(self._load(key))
            if variables is None:
                variables = _asked_of_ollama(found, env)
                if variables.trusted:
                    self._write(key, variables.as_json())
            self._settings[key] = variables
        return self._settings[key]

    def llama_server(self, explicit: str | None, env: Mapping[str, str]) -> LlamaServer:
        """The llama-server for a profile's `binary` and a caller's environment.

        Takes some milliseconds the first time a binary is seen, for its `--help` is run: not for
        the event loop. Raises `InputError` when there is none, or it cannot be run.
        """
        found = find_llama_server(explicit=explicit, env=env)
        return LlamaServer(
            InputFile("binary", found.path, found.identity),
            found.launcher,
            self._table(found, env),
            embedded=found.embedded,
        )

    def gpus(self, name: str, explicit: str | None, env: Mapping[str, str]) -> tuple[Gpu, ...]:
        """The GPUs that an engine lists; of Ollama none, for it lists none.

        Runs the binary the first time that it is seen beside these devices. Raises as the engine.
        """
        nodes = gpu_nodes()
        if name != "llama-server" or not nodes:
            return ()
        found = find_llama_server(explicit=explicit, env=env)
        key = (found.fingerprint, nodes)
        if key not in self._gpus:
            self._gpus[key] = list_gpus(found, env)
        return self._gpus[key]

    def known_gpus(self) -> tuple[Gpu, ...]:
        """Every GPU that was listed so far, as it was then."""
        by_index = {gpu.index: gpu for listed in self._gpus.values() for gpu in listed}
        return tuple(by_index[index] for index in sorted(by_index))

    def gpu_totals(self) -> dict[int, int]:
        """Bytes of every GPU that was listed so far."""
        return {gpu.index: gpu.total for listed in self._gpus.values() for gpu in listed}

    def _table(self, found: FoundBinary, env: Mapping[str, str]) -> FlagTable:
        key = found.fingerprint
        table = self._tables.get(key) or self._read(key)
        if table is None:
            table = _asked(found, env)
            # A wrapper's help may differ the next time: only a real table outlives this process.
            if table.trusted:
                self._write(key, table.as_json())
        self._tables[key] = table
        return table

    def _path(self, key: str) -> str:
        return os.path.join(self._folder, f"{key[:32]}.json")

    def _read(self, key: str) -> FlagTable | None:
        """The table on disk; None when there is none, or it is torn or of another version."""
        return table_from_json(self._load(key))

    def _load(self, key: str) -> Any:
        """The document on disk; None when there is none, or it is torn."""
        try:
            with open(self._path(key), encoding="utf-8") as file:
                return json.load(file)
        except (OSError, ValueError):
            return None

    def _write(self, key: str, document: Any) -> None:
        """Keep a table, whole or not at all. A cache that cannot be written is no error."""
        with contextlib.suppress(OSError):
            os.makedirs(self._folder, mode=0o700, exist_ok=True)
            part = f"{self._path(key)}.{os.getpid()}.{threading.get_ident()}"
            try:
                with open(part, "w", encoding="utf-8", opener=_private) as file:
                    file.write(json.dumps(document))
                os.replace(part, self._path(key))
            except OSError:
                os.unlink(part)
                raise
            self._prune()

    def _prune(self) -> None:
        tables = [entry for entry in os.scandir(self._folder) if entry.name.endswith(".json")]
        tables.sort(key=lambda entry: entry.stat().st_mtime_ns)
        for entry in tables[:-_KEPT]:
            os.unlink(entry.path)


def _asked(found: FoundBinary, env: Mapping[str, str]) -> FlagTable:
    """Run the binary for its help. Imported here, for a known binary needs none of it."""
    from orchestrator.engines.help_parser import parse_help
    from orchestrator.runtime.binary_help import read_help

    return parse_help(read_help(found, env))


def _asked_of_ollama(found: FoundBinary, env: Mapping[str, str]) -> Variables:
    from orchestrator.engines.ollama_settings import parse_serve_help
    from orchestrator.runtime.binary_help import read_help

    return parse_serve_help(read_help(found, env, "serve"))


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
