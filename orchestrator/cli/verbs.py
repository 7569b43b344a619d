"""`start`, `stop`, `restart` and `kill`: by hand, several at once."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import click

from orchestrator.cli.client import Client
from orchestrator.cli.completion import instance_names
from orchestrator.cli.launch import ensure_daemon
from orchestrator.cli.options import json_option
from orchestrator.cli.render import inert, print_json
from orchestrator.cli.status import only
from orchestrator.cli.waiting import while_watching
from orchestrator.errors import OrchestrateError
from orchestrator.settings import Settings

INTERRUPTED = 130


def _verb(name: str, text: str) -> click.Command:
    @click.command(name, help=text, epilog=f"Example: orchestrate {name} coder embed")
    @click.argument(
        "names", nargs=-1, required=True, metavar="NAME...", shell_complete=instance_names
    )
    @click.option("--no-wait", is_flag=True, help="Return once it is asked for.")
    @json_option
    def command(names: tuple[str, ...], no_wait: bool, as_json: bool) -> None:
        _act(name, names, wait=not no_wait, as_json=as_json)

    return command


def _act(verb: str, names: tuple[str, ...], *, wait: bool, as_json: bool) -> None:
    settings = Settings.from_env(os.environ)
    ensure_daemon(settings)
    client = Client(settings)
    # All names are known before the first is touched.
    before = client.get("/v1/status")
    only(before, names)
    theirs = {row["name"] for row in before["instances"] if not row["managed"]}
    post: Callable[[str], Any] = lambda name: client.post(  # noqa: E731 - one call, many threads
        f"/v1/instances/{name}/{verb}", {}, wait=int(wait)
    )
    threads = ThreadPoolExecutor(min(len(names), 16))
    try:
        outcomes = while_watching(
            settings, names if wait else (), lambda: list(threads.map(post, dict.fromkeys(names)))
        )
    except KeyboardInterrupt:
        # The threads still wait for the outcome, and the interpreter would for the threads.
        os._exit(INTERRUPTED)
    threads.shutdown()
    if as_json:
        print_json({"outcomes": outcomes})
    else:
        for one in outcomes:
            detail = f": {inert(one['message'])}" if one["message"] else ""
            click.echo(f"{one['instance']}: {one['phase']}{detail}")
            if verb == "restart" and one["instance"] in theirs:
                click.echo("  it was let go of and looked for again: the server itself is not ours")
    if not all(one["ok"] for one in outcomes):
        raise click.exceptions.Exit(OrchestrateError.exit_code)


start_command = _verb("start", "Start instances that are stopped, held or failed.")
stop_command = _verb(
    "stop", "Stop instances and hold them down until `start`, `restart` or `apply`."
)
restart_command = _verb("restart", "Stop instances and start them again.")
kill_command = _verb("kill", "Stop instances at once, without grace, and hold them down.")
