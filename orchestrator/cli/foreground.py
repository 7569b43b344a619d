"""The loop in this very process: for systemd, containers, and whoever wants to watch it."""

from __future__ import annotations

import asyncio
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
from orchestrator.daemon import Options, run
from orchestrator.settings import Settings


def serve(files: Sequence[str], *, leave_running: bool, as_json: bool) -> None:
    """Until a signal ends it. SIGTERM, SIGINT and SIGHUP stop the instances too, unless
    `leave_running`; a second one kills them."""
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
        stops_instances=not leave_running,
        on_applied=show_applied,
        on_event=show_event,
    )
    asyncio.run(run(settings, options))
