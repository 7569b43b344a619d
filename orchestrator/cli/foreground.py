"""The loop in this very process: for systemd, containers, and whoever wants to watch it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence

import click

from orchestrator.cli.apply import reject
from orchestrator.cli.client import RejectedError
from orchestrator.cli.render import event_line, plan_lines
from orchestrator.cli.sources import applied_sources
from orchestrator.control.applied import Accepted, Rejected
from orchestrator.core.event import Event
from orchestrator.daemon.main import run
from orchestrator.daemon.options import Options
from orchestrator.settings import Settings


def serve(files: Sequence[str], *, leave_running: bool, force: bool, as_json: bool) -> None:
    """Until a signal ends it. SIGTERM, SIGINT and a closing terminal stop the instances too, unless
    `leave_running`; a second one kills them. Without a terminal, SIGHUP reads the files again."""
    settings = Settings.from_env(os.environ)

    def show_applied(outcome: Accepted | Rejected) -> None:
        if isinstance(outcome, Rejected):
            # Ends the loop before it began: there is nothing to stay in the foreground for.
            errors = [problem.as_json() for problem in outcome.problems]
            reject(RejectedError(errors[0]["message"], "", errors), as_json=as_json)
        elif not as_json:
            for line in plan_lines([action.as_json() for action in outcome.actions]):
                click.echo(line)

    def show_event(event: Event) -> None:
        if as_json:
            click.echo(json.dumps(event.as_json()))
        elif not event.transient:
            click.echo(event_line(event.as_json()), err=True)
        sys.stdout.flush()

    options = Options(
        first=applied_sources(files, settings, os.environ),
        force=force,
        stops_instances=not leave_running,
        has_terminal=_has_terminal(),
        on_applied=show_applied,
        on_event=show_event,
    )
    try:
        run(settings, options)
    finally:
        _let_go_of_the_terminal()


def _let_go_of_the_terminal() -> None:
    """One that was closed takes no last words: that is no failure."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _has_terminal() -> bool:
    """Whether there is one whose end would come as SIGHUP."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True
