"""`--listen`: where the control API is served over TCP, for what may begin a daemon."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import click

from orchestrator.cli.client import Client
from orchestrator.errors import InputError
from orchestrator.settings import Listen, Settings, parse_listen

listen_option = click.option(
    "--listen",
    metavar="HOST:PORT",
    help="Serve the control API over TCP too, with a token; a PORT alone is on loopback.",
)


def settings_with(listen: str | None) -> Settings:
    """Those of the environment, but that the word of the command line goes before it."""
    settings = Settings.from_env(os.environ)
    if listen is None:
        return settings
    return replace(settings, listen=parse_listen(listen, "--listen"))


def insist_on(settings: Settings, listen: str | None) -> None:
    """A daemon that runs already listens where it does. Raises `InputError` if it is elsewhere."""
    client = Client(settings)
    if listen is None or settings.listen is None or not client.answers():
        return
    url = client.get("/v1/status")["daemon"]["listen"]
    if not _is_there(url or "", settings.listen):
        where = f"listens on {url}" if url else "does not listen on TCP"
        raise InputError(
            f"--listen {listen}: a daemon runs already, and {where}",
            hint=f"orchestrate daemon restart --listen {listen}",
        )


def _is_there(url: str, wanted: Listen) -> bool:
    host, _, port = url.removeprefix("http://").rpartition(":")
    near = {"0.0.0.0": "127.0.0.1", "::": "::1", "localhost": "127.0.0.1"}
    same = host.strip("[]") == near.get(wanted.host, wanted.host)
    return bool(url) and same and wanted.port in (0, int(port))


def kept(settings: Settings, daemon: Mapping[str, Any]) -> Settings:
    """For the daemon that comes after `daemon`: a page that is open finds it again."""
    url = daemon.get("listen")
    if settings.listen is not None or not url:
        return settings
    return replace(settings, listen=parse_listen(str(url).removeprefix("http://"), "listen"))
