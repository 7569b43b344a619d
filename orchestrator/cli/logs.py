"""`logs` and `events`."""

from __future__ import annotations

import json
import os
import time
from typing import Any

import click

from orchestrator.cli.client import Client
from orchestrator.cli.completion import instance_names
from orchestrator.cli.log_output import LogOutput
from orchestrator.cli.options import json_option
from orchestrator.cli.render import event_line
from orchestrator.core.event import is_transient
from orchestrator.errors import InputError, NoDaemonError
from orchestrator.settings import Settings

FOLLOW = 0.2
"""Seconds between looks at the daemon's log: no daemon is needed to follow it."""


@click.command("logs", epilog="Examples: orchestrate logs coder -f | logs coder --previous")
@click.argument("name", required=False, shell_complete=instance_names)
@click.option("--follow", "-f", is_flag=True, help="Go on as it is written.")
@click.option("--lines", "-n", default=200, show_default=True, type=click.IntRange(0))
@click.option("--previous", is_flag=True, help="Of the run before.")
@click.option("--daemon", "of_daemon", is_flag=True, help="Of the daemon itself.")
def logs_command(
    name: str | None, follow: bool, lines: int, previous: bool, of_daemon: bool
) -> None:
    """Show an instance's own output."""
    settings = Settings.from_env(os.environ)
    if of_daemon:
        _copy_file(settings.daemon_log, lines, follow=follow)
        return
    if name is None:
        raise InputError("whose logs?", hint="orchestrate logs NAME, or --daemon")
    output = LogOutput()
    try:
        query = {"lines": lines, "previous": int(previous), "follow": int(follow)}
        while True:
            for chunk in Client(settings).chunks(f"/v1/instances/{name}/logs", **query):
                output.write(chunk)
            if not follow:
                break
            # The daemon has ended: another may be there already, and else that is said.
            query["lines"] = 0
    except NoDaemonError:
        if follow:
            raise
        _log_without_daemon(settings, name, lines, previous)


def _log_without_daemon(settings: Settings, name: str, lines: int, previous: bool) -> None:
    from orchestrator.cli.offline import observed_without_daemon
    from orchestrator.core.fields import is_name
    from orchestrator.core.successor import base_of, family
    from orchestrator.runtime.logs import Logs

    status = observed_without_daemon(settings).get(name)
    pid = status.process.pid if status is not None and status.process is not None else None
    fd = None
    if is_name(base_of(name)) and name in family(name):
        fd = Logs(settings.logs_dir).open_for_reading(name, back=int(previous), pid=pid)
    if fd is None:
        raise InputError(f"no log of an instance named {name!r}", hint="orchestrate status")
    _copy(fd, lines)
    raise click.exceptions.Exit(NoDaemonError.exit_code)


def _copy_file(path: str, lines: int, *, follow: bool) -> None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    _copy(fd, lines, follow=follow)


def _copy(fd: int, lines: int, *, follow: bool = False) -> None:
    from orchestrator.runtime.logs import tail

    output = LogOutput()
    with open(fd, "rb") as file:
        shown = tail(fd, lines, limit=64 << 20)
        while True:
            output.write(shown)
            if not follow:
                break
            # A daemon that has died writes nothing, and the next one goes on in the same file.
            time.sleep(FOLLOW)
            shown = file.read()


@click.command("events", epilog="Example: orchestrate events -f coder")
@click.argument("name", required=False, shell_complete=instance_names)
@click.option("--follow", "-f", is_flag=True, help="Go on as they happen.")
@click.option("--lines", "-n", default=50, show_default=True, type=click.IntRange(0))
@json_option
def events_command(name: str | None, follow: bool, lines: int, as_json: bool) -> None:
    """Show the timeline with causes; it is kept across daemon restarts."""
    settings = Settings.from_env(os.environ)
    try:
        query = {"recent": lines, "instance": name or "", "follow": int(follow)}
        while True:
            for line in Client(settings).lines("/v1/events", **query):
                if line.startswith(b"id: "):
                    query["after"] = int(line[4:])
                elif line.startswith(b"data: "):
                    _show(json.loads(line[6:]), as_json)
            if not follow:
                break
            # The daemon has ended, or we were too slow for it: what was missed is kept.
            query["recent"] = 0
    except NoDaemonError:
        if follow:
            raise
        from orchestrator.runtime.state import Store

        store = Store.open_to_read(settings.store_path)
        for event in store.events(last=lines, instance=name or "") if store else []:
            _show(event, as_json)
        raise click.exceptions.Exit(NoDaemonError.exit_code) from None


def _show(event: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(event))
    elif event["type"] == "progress" or not is_transient(
        event["type"], event["reason"], event["data"]
    ):
        # Bytes that move are for a bar: line by line they would hide everything else.
        click.echo(event_line(event))
