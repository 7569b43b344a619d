"""`dashboard`: asks the daemon for a link that logs in once, and opens it."""

from __future__ import annotations

import os
from collections.abc import Mapping

import click

from orchestrator.cli.client import Client
from orchestrator.cli.launch import ensure_daemon
from orchestrator.cli.options import json_option
from orchestrator.cli.render import print_json
from orchestrator.settings import Settings


@click.command(
    "dashboard", epilog="Examples: orchestrate dashboard | orchestrate dashboard --no-open"
)
@click.option("--no-open", is_flag=True, help="Print the link, and open no browser.")
@json_option
def dashboard_command(no_open: bool, as_json: bool) -> None:
    """Open the dashboard in a browser.

    Prints a link that logs in once, without the token. The daemon is started if none runs; it
    listens on loopback alone, unless it was told otherwise (ORCHESTRATE_LISTEN). On a machine
    without a screen the link is only printed.
    """
    settings = Settings.from_env(os.environ)
    ensure_daemon(settings)
    url: str = Client(settings).post("/v1/dashboard", {})["url"]
    if as_json:
        print_json({"url": url})
    else:
        click.echo(url)
    if no_open or as_json:
        return
    if not _has_screen(os.environ):
        click.echo(f"hint: {_without_a_screen(url)}", err=True)
    elif not _opened(url):
        click.echo("hint: no browser could be opened: open the link yourself", err=True)


def _has_screen(env: Mapping[str, str]) -> bool:
    """Whether a window could appear before whoever asked."""
    return any(env.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER", "WSL_INTEROP"))


def _without_a_screen(url: str) -> str:
    from urllib.parse import urlsplit

    port = urlsplit(url).port or 80
    return f"open it here, or elsewhere after `ssh -L {port}:127.0.0.1:{port} THIS-MACHINE`"


def _opened(url: str) -> bool:
    import webbrowser

    try:
        return webbrowser.open(url)
    except (webbrowser.Error, OSError):
        return False
