"""`models pull`: from a registry into a store, through an Ollama server."""

from __future__ import annotations

import contextlib
import json
import os
import time
from typing import Any

import click

from orchestrator.cli.completion import instance_names
from orchestrator.cli.meter import meter, spent
from orchestrator.cli.ollama_servers import Reached, any_server
from orchestrator.cli.options import json_option
from orchestrator.cli.render import inert, size
from orchestrator.discovery.ollama_manifest import canonical_name
from orchestrator.errors import InputError, OrchestrateError
from orchestrator.runtime.ollama_calls import CallError, Listed
from orchestrator.settings import Settings

ABSENT = "file does not exist"
"""What Ollama says of a model that its registry does not have."""
NO_TLS = "server gave HTTP response to HTTPS client"


@click.command(
    "pull",
    epilog="Examples: orchestrate models pull llama3.1:8b"
    " | models pull 127.0.0.1:5000/lib/tiny --insecure",
)
@click.argument("ref")
@click.option(
    "--instance",
    metavar="NAME",
    shell_complete=instance_names,
    help="Pull through this Ollama instance, into its store.",
)
@click.option("--insecure", is_flag=True, help="The registry has no TLS.")
@json_option
def pull_command(ref: str, instance: str | None, insecure: bool, as_json: bool) -> None:
    """Pull a model from a registry into Ollama's store.

    Through the instance that is named, else the first one that is ready, else the server at
    OLLAMA_HOST (or Ollama's own address), else an `ollama serve` that is started for this and
    ended afterwards. What was interrupted goes on where it stopped when it is run again.

    With --json, each step is one line, and the last line says how it ended.
    """
    name = canonical_name(ref)
    if name is None:
        raise InputError(
            f"{ref!r} is no name that a registry could know a model by",
            hint="a name is [HOST/NAMESPACE/]NAME[:TAG], as in llama3.1:8b",
        )
    settings = Settings.from_env(os.environ)
    try:
        with any_server(settings, os.environ, instance) as server:
            began = time.monotonic()
            _pull(server, ref, name, insecure=insecure, as_json=as_json)
            listed = server.client.models().get(name)
            _check(settings, name, listed)
    except OrchestrateError as error:
        if as_json:
            _line({"ok": False, "model": name, "error": error.message, "hint": error.hint})
        raise
    except KeyboardInterrupt:
        click.echo("interrupted: run it again to go on from where it stopped", err=True)
        raise
    count, seconds = listed.size_bytes if listed else 0, time.monotonic() - began
    if as_json:
        where = {"server": server.client.url, "instance": server.instance}
        took = {"size_bytes": count, "seconds": round(seconds, 3)}
        _line({"ok": True, "model": name, **where, **took})
        return
    click.echo(f"pulled {inert(name)} through {inert(server)} ({size(count)} in {spent(seconds)})")


def _pull(server: Reached, ref: str, name: str, *, insecure: bool, as_json: bool) -> None:
    shown = meter(as_json=as_json)
    try:
        with contextlib.closing(server.client.pull(ref, insecure=insecure)) as steps:
            for step in steps:
                shown.show(f"{name}: {step.status}", step.completed, step.total)
                if as_json:
                    progress = {"total": step.total, "completed": step.completed}
                    _line({"status": step.status, "digest": step.digest, **progress})
    except CallError as error:
        raise _explained(error, server, name) from error
    finally:
        shown.close()


def _explained(error: CallError, server: Reached, name: str) -> OrchestrateError:
    """The server's own words, and what they mean for whoever typed the name."""
    what = f"{name} cannot be pulled through {server}: {error.message}"
    if ABSENT in error.message:
        return InputError(what, hint="the registry has no such model: check its name and its tag")
    if NO_TLS in error.message:
        return OrchestrateError(what, hint="the registry has no TLS: --insecure pulls without")
    return OrchestrateError(what, hint="run it again: it goes on from where it stopped")


def _check(settings: Settings, name: str, listed: Listed | None) -> None:
    """What is damaged in a store stays as it is: Ollama takes a blob that is there for whole."""
    from orchestrator.cli.model_stores import stores_here
    from orchestrator.discovery.ollama_manifest import StoreError, manifest_path
    from orchestrator.discovery.verify import quick_check

    for store in stores_here(settings, os.environ) if listed is not None else ():
        try:
            written = os.stat(manifest_path(store, name)).st_mtime_ns
        except (StoreError, OSError):
            continue
        fault = quick_check(store, name) if listed and written == listed.modified_ns else None
        if fault is not None and fault.reason != "unreadable":
            raise OrchestrateError(
                f"{name} was pulled, but {fault.path} {fault.message}",
                hint=f"orchestrate models rm {name} --force, then pull it again",
            )


def _line(document: dict[str, Any]) -> None:
    click.echo(json.dumps(document))
