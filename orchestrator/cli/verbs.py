"""`start`, `stop`, `restart` and `kill`: by hand, several at once."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import click
from msgspec import Struct
from msgspec.structs import replace

from orchestrator.cli.at_hand import daemon_at_hand
from orchestrator.cli.client import Client
from orchestrator.cli.completion import instance_names
from orchestrator.cli.main import show_error
from orchestrator.cli.options import json_option
from orchestrator.cli.render import inert, print_json
from orchestrator.cli.status import only
from orchestrator.cli.waiting import while_watching
from orchestrator.errors import InputError, OrchestrateError
from orchestrator.settings import Settings

INTERRUPTED = 130


def _verb(name: str, text: str) -> click.Command:
    @click.command(name, help=text, epilog=f"Example: orchestrate {name} coder embed")
    @click.argument(
        "names", nargs=-1, required=True, metavar="NAME...", shell_complete=instance_names
    )
    @click.option("--no-wait", is_flag=True, help="Return once it is asked for.")
    @json_option
    def command(names: tuple[str, ...], no_wait: bool, as_json: bool, force: bool = False) -> None:
        settings = Settings.from_env(os.environ)
        with daemon_at_hand(settings) as client:
            asked = _Asked(settings, client, name, tuple(dict.fromkeys(names)), not no_wait, force)
            _act(asked, as_json=as_json)

    if name == "restart":
        told = "Also what would not come up again, as it looks."
        command = click.option("--force", is_flag=True, help=told)(command)
    return command


class _Asked(Struct, frozen=True):
    """A verb for some instances."""

    settings: Settings
    client: Client
    verb: str
    names: tuple[str, ...]
    wait: bool
    force: bool

    def post(self, name: str) -> dict[str, Any] | InputError:
        """What became of one; what is refused does not stop the others."""
        path = f"/v1/instances/{name}/{self.verb}"
        query = {"force": 1} if self.force else {}
        try:
            return self.client.post(path, {}, wait=int(self.wait), **query)
        except InputError as error:
            return error


def _act(asked: _Asked, *, as_json: bool) -> None:
    # All names are known before the first is touched.
    before = asked.client.get("/v1/status")
    asked = replace(asked, names=tuple(only(before, asked.names)))
    threads = ThreadPoolExecutor(min(len(asked.names), 16))
    try:
        ends = while_watching(
            asked.settings,
            asked.names if asked.wait else (),
            lambda: list(threads.map(asked.post, asked.names)),
        )
    except KeyboardInterrupt:
        # The threads still wait for the outcome, and the interpreter would for the threads.
        os._exit(INTERRUPTED)
    threads.shutdown()
    outcomes = [one for one in ends if not isinstance(one, InputError)]
    refused = [one for one in ends if isinstance(one, InputError)]
    if as_json and (outcomes or not refused):
        print_json({"outcomes": outcomes})
    elif not as_json:
        theirs = {row["name"] for row in before["instances"] if not row["managed"]}
        _tell(asked.verb, outcomes, theirs)
    for error in refused[:-1]:
        show_error(error)
    if refused:
        raise refused[-1]
    if not all(one["ok"] for one in outcomes):
        raise click.exceptions.Exit(OrchestrateError.exit_code)


def _tell(verb: str, outcomes: Sequence[Mapping[str, Any]], theirs: set[str]) -> None:
    for one in outcomes:
        detail = f": {inert(one['message'])}" if one["message"] else ""
        click.echo(f"{one['instance']}: {one['phase']}{detail}")
        if verb == "restart" and one["instance"] in theirs:
            click.echo("  it was let go of and looked for again: the server itself is not ours")


start_command = _verb("start", "Start instances that are stopped, held or failed.")
stop_command = _verb(
    "stop", "Stop instances and hold them down until `start`, `restart` or `apply`."
)
restart_command = _verb("restart", "Stop instances and start them again.")
kill_command = _verb("kill", "Stop instances at once, without grace, and hold them down.")
