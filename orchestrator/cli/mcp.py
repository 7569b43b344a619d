"""`mcp`: an agent's way in, on standard input and output."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from typing import Any

import click

from orchestrator.errors import InputError
from orchestrator.settings import Settings

PASSED_ON = ("PATH", "OLLAMA_MODELS", "HF_HOME", "HF_HUB_CACHE", "LLAMA_CACHE", "XDG_STATE_HOME")
"""Of the environment, what agents do not pass on by themselves."""


@click.command(
    "mcp", epilog="Examples: orchestrate mcp --print-config | orchestrate mcp --read-only"
)
@click.option("--read-only", is_flag=True, help="Offer only the tools that change nothing.")
@click.option("--stop-on-exit", is_flag=True, help="Stop everything at the end, as `down` does.")
@click.option(
    "--print-config", is_flag=True, help="Print what an agent's configuration says, and end."
)
def mcp_command(read_only: bool, stop_on_exit: bool, print_config: bool) -> None:
    """Let an agent drive this: serve the Model Context Protocol on stdin and stdout.

    An agent (Claude, Cursor, VS Code) starts it by itself, once its configuration names it. It
    ends when the agent closes it; what it has started goes on, unless --stop-on-exit is given.
    """
    if read_only and stop_on_exit:
        raise InputError(
            "--stop-on-exit does not go with --read-only", hint="leave one of them out"
        )
    if print_config:
        options = [("--read-only", read_only), ("--stop-on-exit", stop_on_exit)]
        click.echo(json.dumps(configuration([name for name, given in options if given]), indent=2))
        return
    _need_package()
    settings = Settings.from_env(os.environ)
    if sys.stdin.isatty():
        click.echo("serving the Model Context Protocol on stdin and stdout; Ctrl-D ends", err=True)
        click.echo("hint: `orchestrate mcp --print-config` says how an agent starts it", err=True)
    from orchestrator.cli.mcp_server.serve import serve

    serve(settings, read_only=read_only, stop_on_exit=stop_on_exit)


def configuration(options: list[str]) -> dict[str, Any]:
    """What most agents take: how to start this very installation, as seen from this shell."""
    env = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    env |= {
        name: value
        for name, value in sorted(os.environ.items())
        if name.startswith("ORCHESTRATE_") and name != "ORCHESTRATE_TOKEN"
    }
    # The agent starts it in a folder of its own.
    env["ORCHESTRATE_PROFILES"] = Settings.from_env(os.environ).profiles_dir
    program = os.path.join(os.path.dirname(sys.executable), "orchestrate")
    command = [program] if os.access(program, os.X_OK) else [sys.executable, "-m", "orchestrator"]
    server = {"command": command[0], "args": [*command[1:], "mcp", *options], "env": env}
    return {"mcpServers": {"orchestrate": server}}


def _need_package() -> None:
    """Raise `InputError` where the `mcp` package is missing, or older than what this needs."""
    try:
        found = importlib.util.find_spec("mcp.server.mcpserver") is not None
    except ImportError:
        found = False
    if not found:
        raise InputError(
            "the MCP server needs the package 'mcp', version 2.3 or later, which is not installed",
            hint=f"{sys.executable} -m pip install 'orchestrate[mcp]'",
        )
