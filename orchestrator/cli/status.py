"""`status` and `wait`."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import click

from orchestrator import __version__
from orchestrator.cli.client import Client
from orchestrator.cli.completion import instance_names
from orchestrator.cli.model_lines import failed
from orchestrator.cli.options import DURATION, json_option
from orchestrator.cli.render import every_row, inert, print_json
from orchestrator.cli.status_table import (
    in_full,
    models_table,
    names_table,
    status_table,
    summary,
)
from orchestrator.core.wording import is_idle
from orchestrator.errors import InputError, NoDaemonError, OrchestrateError, TimedOutError
from orchestrator.settings import Settings


@click.command("status", epilog="Examples: orchestrate status | status coder --json | status -w")
@click.argument("names", nargs=-1, metavar="[NAME...]", shell_complete=instance_names)
@click.option("--watch", "-w", is_flag=True, help="Live, with keys: ? shows them.")
@click.option("--check", is_flag=True, help="Exit 1 unless converged.")
@json_option
def status_command(names: tuple[str, ...], watch: bool, check: bool, as_json: bool) -> None:
    """Show every instance: phase, port, process, memory, restarts, and what is wrong.

    The only one, or the one that is named, is shown with its models. Those that are named are
    shown with the whole of their messages. `gateway` shows the names that clients may ask for.
    """
    settings = Settings.from_env(os.environ)
    if watch:
        _watch(settings, names, as_json=as_json)
        return
    document = fetch(settings)
    only(document, names)
    if as_json:
        print_json(document)
    else:
        _print(document, names)
    if document["daemon"] is None:
        raise click.exceptions.Exit(NoDaemonError.exit_code)
    if check and not document["converged"]:
        raise click.exceptions.Exit(OrchestrateError.exit_code)


def fetch(settings: Settings) -> dict[str, Any]:
    """From the daemon, else from the store."""
    try:
        document = Client(settings).get("/v1/status")
    except NoDaemonError:
        from orchestrator.cli.offline import status_without_daemon

        return status_without_daemon(settings)
    if document["version"] != __version__:
        click.echo(
            f"warning: the daemon is version {document['version']}, this is {__version__}"
            " (orchestrate daemon restart)",
            err=True,
        )
    return document


def only(document: dict[str, Any], names: Sequence[str]) -> list[str]:
    """Leave just the named instances, and say which: whoever names what has replicas means all of
    them; the gateway can be named like an instance. Raises `InputError` for one that is not there.
    """
    rows = every_row(document)
    known = [one["name"] for one in rows]
    meant: list[str] = []
    for name in names:
        found = [name] * (name in known) or [
            # A daemon of an earlier version knows of none.
            one["name"]
            for one in rows
            if one.get("replica_of") == name
        ]
        if not found:
            from orchestrator.core.problem import did_you_mean, listing

            hint = did_you_mean(name, known) or f"instances: {listing(sorted(known)) or 'none'}"
            raise InputError(f"unknown instance {name!r}", hint=hint)
        meant += found
    if names:
        document["instances"] = [one for one in rows if one["name"] in meant]
    return list(dict.fromkeys(meant))


def _print(document: Mapping[str, Any], names: Sequence[str]) -> None:
    if document["instances"]:
        more = in_full(document) if names else []
        tables = [*models_table(document), *names_table(document)]
        for line in [*status_table(document), *tables, *more]:
            click.echo(line)
    for line in summary(document):
        click.echo(line)


def _watch(settings: Settings, names: Sequence[str], *, as_json: bool) -> None:
    """The live screen on a terminal; else the table again at every change and every second."""
    if not as_json and sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb":
        from orchestrator.cli.watch import watch

        watch(settings, names)
        return
    for snapshot in Client(settings).snapshots(refresh_ms=1000):
        document = snapshot["status"]
        only(document, names)
        if as_json:
            click.echo(json.dumps(document))
        else:
            lines = [*status_table(document), *models_table(document), "", *summary(document)]
            click.echo("\n".join(lines) + "\n")
    raise NoDaemonError("the daemon went away", hint="orchestrate daemon start")


@click.command("wait", epilog="Example: orchestrate wait coder --for ready --timeout 2m")
@click.argument("names", nargs=-1, metavar="[NAME...]", shell_complete=instance_names)
@click.option(
    "--for", "goal", type=click.Choice(["ready", "stopped"]), default="ready", show_default=True
)
@click.option("--timeout", type=DURATION, default="60s", show_default=True)
@json_option
def wait_command(names: tuple[str, ...], goal: str, timeout: float, as_json: bool) -> None:
    """Wait until the named instances (all, by default) are ready or stopped.

    Ready includes the models of an Ollama instance. Exits 1 as soon as one has failed, or was
    rolled back, 4 when the time is over.
    """
    settings = Settings.from_env(os.environ)
    until = time.monotonic() + timeout
    for snapshot in Client(settings).snapshots(refresh_ms=200):
        document = snapshot["status"]
        only(document, names)
        verdict = _verdict(document, goal, named=bool(names))
        if verdict is not None:
            break
        if time.monotonic() >= until:
            rows = document["instances"] if names else every_row(document)
            missing = [_missed(o) for o in rows if not _reached(o, goal)]
            held = [o["name"] for o in rows if o["held"] and goal == "ready"]
            raise TimedOutError(
                f"not {goal} within {timeout:g} s: {', '.join(missing)}",
                hint=f"orchestrate start {held[0]}" if held else "orchestrate status",
            )
    else:
        raise NoDaemonError("the daemon went away", hint="orchestrate daemon start")
    if as_json:
        print_json(document)
    if not verdict:
        reasons = "; ".join(_failures(document["instances"] if names else every_row(document)))
        raise OrchestrateError(f"failed: {reasons}", hint="orchestrate logs NAME")


def _verdict(document: Mapping[str, Any], goal: str, *, named: bool) -> bool | None:
    rows = document["instances"] if named else every_row(document)
    if goal == "ready" and _failures(rows):
        return False
    if goal == "ready" and not named:
        return True if document["converged"] else None
    return True if all(_reached(one, goal) for one in rows) else None


def _failures(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What will not become ready by waiting: instances that were given up, and models."""
    found: list[str] = []
    for one in rows:
        if one["phase"] == "failed":
            found.append(f"{one['name']}: {inert(one['message'])}")
        elif one["phase"] == "ready" and one["reason"] == "rolled-back":
            found.append(f"{one['name']}: rolled-back: {inert(one['message'])}")
        elif one["phase"] == "ready":
            # What is known of the models of a server that is not there is old.
            found += [
                f"{one['name']}: model {inert(m['name'])}: {inert(m['message'])}"
                for m in failed(one)
            ]
    return found


def _missed(one: Mapping[str, Any]) -> str:
    """What was waited for in vain, with the models that are why."""
    held = ["held by hand"] if one["held"] else []
    lacks = one["lacking"] if one["phase"] == "ready" else [one["phase"], *held]
    return f"{one['name']} ({inert(', '.join(lacks))})" if lacks else one["name"]


def _reached(one: Mapping[str, Any], goal: str) -> bool:
    if goal == "ready":
        return is_idle(one) or (one["phase"] == "ready" and not one["lacking"])
    return one["phase"] in ("stopped", "failed")
