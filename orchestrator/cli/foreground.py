"""The loop in this very process: for systemd, containers, and whoever wants to watch it."""

from __future__ import annotations

import faulthandler
import json
import os
import sys
from collections.abc import Sequence

import click

from orchestrator.cli.apply import reject
from orchestrator.cli.client import RejectedError
from orchestrator.cli.render import event_line, plan_lines, problem_text
from orchestrator.cli.sources import applied_sources
from orchestrator.control.applied import Accepted, Rejected
from orchestrator.core.event import Event
from orchestrator.daemon.main import run
from orchestrator.daemon.options import Options
from orchestrator.runtime.notify import VARIABLES, Notifier
from orchestrator.settings import Settings


def serve(
    files: Sequence[str], settings: Settings, *, leave_running: bool, force: bool, as_json: bool
) -> None:
    """Until a signal ends it. SIGTERM, SIGINT and a closing terminal stop the instances too, unless
    `leave_running`; a second one kills them. Without a terminal, SIGHUP reads the files again."""
    shown = _Shown(as_json=as_json, may_go_on=leave_running)
    options = Options(
        first=applied_sources(files, settings, os.environ),
        force=force,
        stops_instances=not leave_running,
        has_terminal=_has_terminal(),
        continues=leave_running,
        notifier=_notifier(),
        on_applied=shown.applied,
        on_listening=shown.listening,
        on_event=shown.event,
    )
    try:
        run(settings, options)
        shown.ended()
    finally:
        _let_go_of_the_terminal()


class _Shown:
    """What a person, or a journal, sees of it."""

    def __init__(self, *, as_json: bool, may_go_on: bool) -> None:
        self._as_json = as_json
        self._may_go_on = may_go_on
        self._rejected: RejectedError | None = None

    def applied(self, outcome: Accepted | Rejected) -> None:
        if isinstance(outcome, Rejected):
            errors = [problem.as_json() for problem in outcome.problems]
            self._rejected = RejectedError(errors[0]["message"], "", errors)
            if not self._may_go_on:
                # Ends the loop before it began: there is nothing to stay in the foreground for.
                self.ended()
        elif not self._as_json:
            for line in plan_lines([action.as_json() for action in outcome.actions]):
                click.echo(line)

    def listening(self) -> None:
        if self._rejected is None:
            return
        # There is something to go on with: what was applied before.
        for error in self._rejected.errors:
            click.echo(problem_text(error), err=True)
        click.echo("warning: not applied; what was applied before goes on", err=True)
        self._rejected = None

    def event(self, event: Event) -> None:
        if self._as_json:
            click.echo(json.dumps(event.as_json()))
        elif not event.transient:
            click.echo(event_line(event.as_json()), err=True)
        sys.stdout.flush()

    def ended(self) -> None:
        """Raises when it never came to anything."""
        if self._rejected is not None:
            reject(self._rejected, as_json=self._as_json)


def _notifier() -> Notifier:
    """Whom the init system wants to be told; that is for this process alone."""
    notifier = Notifier.from_env(os.environ)
    for name in VARIABLES:
        os.environ.pop(name, None)
    if notifier.watchdog is not None:
        # Where the loop hangs, the watchdog aborts this process: the journal has the place then.
        faulthandler.enable()
    return notifier


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
