"""Which Ollama server does something to a store: an instance, the one at Ollama's usual address,
or one of our own that lives only as long as it is needed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator, Mapping, Sequence
from urllib.parse import urlsplit

from msgspec import Struct

from orchestrator.cli.client import Client
from orchestrator.cli.ollama_here import own_store
from orchestrator.discovery.ollama_store import read_manifests
from orchestrator.errors import InputError, OrchestrateError
from orchestrator.runtime.ollama_calls import CallError, OllamaCalls, host_url
from orchestrator.settings import Settings

LOCAL = frozenset({"127.0.0.1", "::1", "localhost"})


class Reached(Struct, frozen=True):
    """A server that answers. `instance` is empty for one that no profile declares."""

    client: OllamaCalls
    instance: str = ""

    def __str__(self) -> str:
        return (
            f"instance {self.instance!r}" if self.instance else f"the server at {self.client.url}"
        )


def reachable(settings: Settings, env: Mapping[str, str]) -> list[Reached]:
    """Every Ollama that answers: the ready instances, then the one at the usual address."""
    from orchestrator.cli.status import fetch

    rows = fetch(settings)["instances"]
    ready = [row for row in rows if row["engine"] == "ollama" and row["phase"] == "ready"]
    found = [Reached(OllamaCalls(row["url"]), row["name"]) for row in ready]
    usual = OllamaCalls(host_url(env))
    if usual.url not in {row["url"] for row in ready}:
        found.append(Reached(usual))
    return [one for one in found if one.client.version() is not None]


def instance_server(settings: Settings, name: str) -> Reached:
    """The Ollama instance of that name. Raises `InputError` for what is none, and
    `OrchestrateError` for one that is not ready."""
    from orchestrator.cli.status import only

    document = Client(settings).get("/v1/status")
    only(document, [name])
    [row] = document["instances"]
    if row["engine"] != "ollama":
        raise InputError(
            f"instance {name!r} is a {row['engine']}, which keeps no models",
            hint="name an instance with `engine: ollama`, or leave --instance out",
        )
    if row["phase"] != "ready":
        raise OrchestrateError(
            f"instance {name!r} is {row['phase']}, not ready",
            hint=f"orchestrate wait {name}",
        )
    return Reached(OllamaCalls(row["url"]), name)


@contextlib.contextmanager
def any_server(
    settings: Settings, env: Mapping[str, str], instance: str | None
) -> Generator[Reached]:
    """The one that is named; else the first that answers; else our own, over the caller's store."""
    if instance is not None:
        yield instance_server(settings, instance)
        return
    found = reachable(settings, env)
    if found:
        yield found[0]
        return
    url = host_url(env)
    if env.get("OLLAMA_HOST") and urlsplit(url).hostname not in LOCAL:
        raise OrchestrateError(
            f"no Ollama answers at {url} (OLLAMA_HOST)",
            hint="correct OLLAMA_HOST, or leave it out to use this machine's own",
        )
    with own_server(own_store(env), env) as client:
        yield Reached(client)


@contextlib.contextmanager
def server_of(
    store: str, found: Sequence[Reached], env: Mapping[str, str]
) -> Generator[OllamaCalls]:
    """The server among `found` that has the models in `store`, else our own. Raises
    `OrchestrateError` when that is not for us to change."""
    one = serving(store, found)
    if one is not None:
        yield one.client
        return
    if not os.access(os.path.join(store, "manifests"), os.W_OK | os.X_OK):
        raise OrchestrateError(
            f"the models in {store} belong to another user, and no server that has them answers",
            hint="start that server, or set OLLAMA_HOST to its address",
        )
    with own_server(store, env) as client:
        yield client


def serving(store: str, found: Sequence[Reached]) -> Reached | None:
    """The server that has this very store: it lists a model with the time of our manifest's file,
    to the nanosecond."""
    written: dict[str, int] = {}
    for manifest in read_manifests(store)[0]:
        with contextlib.suppress(OSError):
            written[manifest.tag] = os.stat(manifest.path).st_mtime_ns
    for one in found:
        try:
            listed = one.client.models()
        except CallError:
            continue
        if any(written.get(name) == model.modified_ns for name, model in listed.items()):
            return one
    return None


@contextlib.contextmanager
def own_server(store: str, env: Mapping[str, str]) -> Generator[OllamaCalls]:
    """An `ollama serve` for the store, for as long as the block runs."""
    from orchestrator.runtime.binaries import find_ollama
    from orchestrator.runtime.store_server import store_server

    try:
        binary = find_ollama(explicit=None, env=env).path
    except InputError as error:
        message = f"no Ollama server answers, and none can be started: {error.message}"
        raise InputError(message, hint=error.hint) from error
    with store_server(binary, store, env) as client:
        yield client
