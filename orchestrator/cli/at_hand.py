"""A daemon for a verb that needs one: started where there is none, and said so."""

from __future__ import annotations

import contextlib
from collections.abc import Generator

import click

from orchestrator.cli.client import Client
from orchestrator.cli.launch import ensure_daemon
from orchestrator.errors import InputError
from orchestrator.settings import Settings


@contextlib.contextmanager
def daemon_at_hand(settings: Settings) -> Generator[Client]:
    """Somebody who answers.

    Where what is asked of a daemon that was started for it is refused (`InputError`), and it has
    nothing else to look after, it is ended again: all is as it was.
    """
    started = ensure_daemon(settings)
    client = Client(settings)
    if not started:
        yield client
        return
    status = client.get("/v1/status")
    if status["instances"] or status["profiles"]:
        click.echo(f"started the daemon (pid {status['daemon']['pid']})", err=True)
        yield client
        return
    try:
        yield client
    except InputError:
        from orchestrator.cli.daemon import end

        end(settings, "/v1/daemon/stop", {}, None, stays=False)
        raise
