"""The part of `doctor` about Ollama: its program, a server that runs, the stores of its models."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import Any

from orchestrator.cli.doctor_engines import PATIENCE, version_line
from orchestrator.cli.finding import Finding, NoAnswerError, ask
from orchestrator.cli.ollama_here import own_store, stored_tags, usual
from orchestrator.cli.render import size
from orchestrator.cli.tables import counted
from orchestrator.errors import InputError
from orchestrator.runtime.binaries import OLLAMA_VARIABLE, find_ollama
from orchestrator.settings import Settings, inherited

LITTLE_DISK = 1 << 30
"""Bytes below which hardly any model can be pulled."""


def program(_settings: Settings) -> Iterator[Finding]:
    """The Ollama that managed instances would run. Nothing depends on there being one, unless it
    was named."""
    data: dict[str, Any] = {"path": None}
    try:
        found = find_ollama(explicit=None, env=os.environ)
    except InputError as error:
        if os.environ.get(OLLAMA_VARIABLE):
            yield Finding("ollama", "fail", error.message, error.hint, data)
        else:
            message = "no program is installed; its models on disk are found without it"
            yield Finding("ollama", "ok", message, data=data)
        return
    data = {"path": found.path, "version": "", "runner": _runner(found.path)}
    try:
        said = ask((found.path, "--version"), inherited(os.environ), timeout=PATIENCE)
    except NoAnswerError as error:
        hint = "is it built for this machine? Run it by hand with --version"
        yield Finding("ollama", "fail", f"{found.path} cannot be run: {error}", hint, data)
        return
    data["version"] = version_line(said)
    message = f"{found.path}, {data['version']} ({found.why})"
    if data["runner"] is None:
        hint = "install all of it: beside bin/ollama belongs lib/ollama, with a llama-server in it"
        yield Finding("ollama", "warn", f"{message}: no runner, so no model loads", hint, data)
    else:
        yield Finding("ollama", "ok", message, data=data)


def _runner(path: str) -> str | None:
    """The folder of the programs and libraries that run its models, where it looks for them."""
    folder = os.path.dirname(os.path.realpath(path))
    for candidate in (
        os.path.join(folder, "..", "lib", "ollama"),
        os.path.join(folder, "lib", "ollama"),
    ):
        candidate = os.path.normpath(candidate)
        try:
            if os.listdir(candidate):
                return candidate
        except OSError:
            continue
    return None


def server(_settings: Settings) -> Iterator[Finding]:
    """Whether an Ollama answers where instances with `attach:` would find it."""
    seen = usual(os.environ)
    where = f"{seen.host}:{seen.port}"
    data: dict[str, Any] = {"host": seen.host, "port": seen.port, "running": bool(seen.server)}
    if seen.holder is None:
        yield Finding("ollama", "ok", f"no server is running at {where}", data=data)
        return
    data |= {"pid": seen.holder.pid, "owner": seen.holder.owner}
    if seen.server is None:
        hint = "end it, or give Ollama instances another port"
        message = f"{seen.holder} listens at {where}, but does not answer as Ollama"
        yield Finding("ollama", "warn", message, hint, data)
        return
    data |= {"version": seen.server.version, "models": len(seen.server.tags)}
    models = counted(len(seen.server.tags), "model")
    message = f"version {seen.server.version} answers at {where} with {models}: {seen.holder}"
    yield Finding("ollama", "ok", message, data=data)


def stores(settings: Settings) -> Iterator[Finding]:
    """Each store of models: what it holds, and whether a server of ours could add to it."""
    from orchestrator.cli.models import places_here

    own = own_store(os.environ)
    places = [one.path for one in places_here(settings, os.environ) if one.source == "ollama"]
    others = [path for path in places if os.path.realpath(path) != os.path.realpath(own)]
    for path in [own, *others]:
        if path == own and not os.path.isdir(path):
            yield _to_be_made(path)
        else:
            yield _store(path, own=path == own)


def _store(path: str, *, own: bool) -> Finding:
    count, taken, free = len(stored_tags(path)), _taken(path), shutil.disk_usage(path).free
    writable = os.access(os.path.join(path, "blobs"), os.W_OK | os.X_OK) or (
        not os.path.isdir(os.path.join(path, "blobs")) and os.access(path, os.W_OK | os.X_OK)
    )
    data = {"path": path, "models": count, "bytes": taken, "free_bytes": free, "own": own}
    data["writable"] = writable
    can = "writable" if writable else "not writable from here"
    message = f"store {path}: {counted(count, 'model')}, {size(taken)}, {can}, {size(free)} free"
    if own and not writable:
        hint = "name a store of your own with OLLAMA_MODELS, or attach to the server that owns it"
        return Finding("ollama", "warn", message, hint, data)
    if writable and free < LITTLE_DISK:
        hint = "free some disk space (`orchestrate models prune`), or name another in OLLAMA_MODELS"
        return Finding("ollama", "warn", message, hint, data)
    return Finding("ollama", "ok", message, data=data)


def _to_be_made(path: str) -> Finding:
    above = path
    while not os.path.exists(above):
        above = os.path.dirname(above)
    data = {"path": path, "models": 0, "bytes": 0, "own": True}
    data["writable"] = os.path.isdir(above) and os.access(above, os.W_OK | os.X_OK)
    if data["writable"]:
        return Finding("ollama", "ok", f"store {path} is made when it is needed", data=data)
    hint = "name a folder of your own with OLLAMA_MODELS"
    return Finding("ollama", "warn", f"store {path} cannot be made in {above}", hint, data)


def _taken(path: str) -> int:
    """Bytes of its blobs."""
    try:
        with os.scandir(os.path.join(path, "blobs")) as entries:
            return sum(one.stat().st_size for one in entries if one.is_file())
    except OSError:
        return 0
