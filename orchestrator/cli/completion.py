"""`completion`, and the instance names that a shell offers."""

from __future__ import annotations

import os

import click

from orchestrator.errors import NoDaemonError, OrchestrateError
from orchestrator.settings import Settings

SHELLS = ("bash", "zsh", "fish")
VARIABLE = "_ORCHESTRATE_COMPLETE"
"""What the script sets to ask for completions: click's name for this program."""

FILES = {
    "bash": ("complete -o nosort -F", "complete -o nosort -o bashdefault -o default -F"),
    "zsh": (
        '    if [ -n "$completions" ]; then',
        '    if [ -z "$completions$completions_with_descriptions" ]; then\n'
        "        _files\n"
        "    fi\n\n"
        '    if [ -n "$completions" ]; then',
    ),
    "fish": ("complete --no-files --command", "complete --command"),
}
"""In click's scripts nothing to offer is nothing at all; here it is file names, as for profiles."""


@click.command(
    "completion",
    epilog='Examples: eval "$(orchestrate completion bash)" | orchestrate completion fish',
)
@click.argument("shell", type=click.Choice(SHELLS))
def completion_command(shell: str) -> None:
    """Print the script that completes commands, options and instance names.

    For bash and zsh, put the line with `eval` into ~/.bashrc or ~/.zshrc; for fish, write the
    script to ~/.config/fish/completions/orchestrate.fish.
    """
    click.echo(script(shell), nl=False)


def script(shell: str) -> str:
    """What the shell is to read."""
    from click.shell_completion import ShellComplete, get_completion_class

    from orchestrator.cli.main import main

    complete = get_completion_class(shell)
    assert complete is not None, "click knows these three"
    made = complete(main, {}, "orchestrate", VARIABLE)
    # Not `made.source()`: for bash that runs whichever bash is first on PATH, to warn of old ones.
    text = ShellComplete.source(made)
    return text.replace(*FILES[shell]).rstrip() + "\n"


def instance_names(
    _context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[str]:
    """What is kept and begins so: as the daemon has it, else the store. Never fails."""
    import sqlite3

    settings = Settings.from_env(os.environ)
    try:
        names = _names(settings)
    except (OrchestrateError, OSError, sqlite3.Error):
        return []
    return sorted(name for name in names if name.startswith(incomplete))


def _names(settings: Settings) -> list[str]:
    from orchestrator.cli.client import Client
    from orchestrator.cli.render import every_row

    try:
        return [one["name"] for one in every_row(Client(settings).get("/v1/status"))]
    except NoDaemonError:
        from orchestrator.core.successor import base_of
        from orchestrator.runtime.state import Store

        store = Store.open_to_read(settings.store_path)
        if store is None:
            return []
        applied = store.applied()
        declared = [name for file in applied.files for name in file.specs] if applied else []
        names = list(dict.fromkeys([*declared, *(base_of(one) for one in store.observed())]))
        store.close()
        return names
