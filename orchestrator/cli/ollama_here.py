"""Ollama on this machine, as far as it can be seen from this shell: the address of its server, who
answers there, and which models that one, or a server of our own, would have."""

from __future__ import annotations

import os
from collections.abc import Mapping
from urllib.parse import urlsplit

from msgspec import Struct

from orchestrator.core.address import hosts_overlap
from orchestrator.core.spec import Endpoint
from orchestrator.runtime.ollama_calls import CallError, OllamaCalls, host_url
from orchestrator.runtime.ports import Holder, conflicting, holder, listeners

PATIENCE = 2.0
"""Seconds for a server on this machine to answer."""


class Answering(Struct, frozen=True):
    """An Ollama that answers. `tags` are its models, the newest first."""

    version: str
    tags: tuple[str, ...]


class Usual(Struct, frozen=True):
    """The address that Ollama's own programs go by. `server` is None unless an Ollama answers
    there, `holder` unless somebody listens."""

    host: str
    port: int
    server: Answering | None
    holder: Holder | None


def usual(env: Mapping[str, str]) -> Usual:
    """What is at Ollama's usual address: that of OLLAMA_HOST, where it is on this machine."""
    host, port = address(env)
    found = conflicting(host, port, listeners())
    if not found:
        return Usual(host, port, None, None)
    return Usual(host, port, server_at(host, port), holder(found[0]))


def address(env: Mapping[str, str]) -> tuple[str, int]:
    """Host and port of OLLAMA_HOST; its default where it names another machine, or nothing."""
    try:
        parts = urlsplit(host_url(env))
    except ValueError:
        return address({})
    host, port = parts.hostname or "", parts.port
    if port is None or not (hosts_overlap(host, "127.0.0.1") or host == "::1"):
        return address({})
    return host, port


def server_at(host: str, port: int) -> Answering | None:
    """The Ollama that answers there, if one does."""
    server = OllamaCalls(Endpoint(host, port).url)
    try:
        version, models = server.version(within=PATIENCE), server.models()
    except CallError:
        return None
    newest = sorted(models.values(), key=lambda one: -one.modified_ns)
    return Answering(version, tuple(one.name for one in newest)) if version else None


def own_store(env: Mapping[str, str]) -> str:
    """The folder of models that a server started from this shell has."""
    from orchestrator.discovery.places import ollama_store

    home = env.get("HOME") or os.path.expanduser("~")
    return ollama_store(env, home=home, cwd=os.getcwd())


def stored_tags(store: str) -> tuple[str, ...]:
    """The models of a store that can be served from it, the newest first."""
    from orchestrator.discovery.ollama_store import is_store, read_store

    if not is_store(store):
        return ()
    models, _ = read_store(store)
    here = [one for one in models if not one.config.get("remote_host")]
    return tuple(one.tag for one in sorted(here, key=lambda one: -_written(one.manifest)))


def _written(path: str) -> float:
    try:
        return os.stat(path).st_mtime
    except OSError:
        return 0.0
