"""`down` and `daemon`: the end, and the process in the background."""

from __future__ import annotations

import contextlib
import os
import select
from collections.abc import Generator
from typing import Any

import click

from orchestrator.cli.client import Client
from orchestrator.cli.launch import ensure_daemon
from orchestrator.cli.listening import insist_on, kept, listen_option, settings_with
from orchestrator.cli.options import DURATION, json_option
from orchestrator.cli.render import inert, print_json, since
from orchestrator.cli.waiting import while_watching
from orchestrator.errors import InputError, NoDaemonError, OrchestrateError, TimedOutError
from orchestrator.runtime import lock
from orchestrator.settings import Settings

ENDS_WITHIN = 15.0
"""Seconds that a daemon may take to be gone once it has said that it goes."""

DIES_WITHIN = 2.0
"""Seconds that the kernel may take for the end of one whose connections are gone."""


@click.command("down", epilog="Example: orchestrate down")
@click.option("--keep-daemon", is_flag=True, help="Leave the daemon running, with nothing to do.")
@click.option("--timeout", type=DURATION, help="Stop waiting after this time.")
def down_command(keep_daemon: bool, timeout: float | None) -> None:
    """Stop all instances, forget the applied set, and end the daemon.

    A daemon that had died is started first: nothing of it is left behind.
    """
    settings = Settings.from_env(os.environ)
    if not anything_to_stop(settings):
        click.echo("nothing is running")
        return
    ensure_daemon(settings)
    rows = Client(settings).get("/v1/status")["instances"]
    end(settings, "/v1/down", {"keep_daemon": keep_daemon}, timeout, stays=keep_daemon)
    for row in rows:
        if not row["managed"] and row["phase"] == "ready":
            who = f"pid {row['pid']}" if row["pid"] else "the server"
            click.echo(f"{row['name']}: detached, {who} at {row['url']} goes on")
    click.echo("all instances are stopped" + ("" if keep_daemon else ", and the daemon has ended"))
    if not keep_daemon and _still_applied(settings):
        raise OrchestrateError(
            f"what was applied could not be forgotten: {settings.state_dir} cannot be written",
            hint="make room there, and `orchestrate down` again: until then it would be brought"
            " up by whatever starts a daemon",
        )


def anything_to_stop(settings: Settings) -> bool:
    """Without a daemon: something applied or recorded, or a process that carries our mark."""
    if Client(settings).answers():
        return True
    if not os.path.isdir(settings.state_dir):
        return False
    from orchestrator.runtime.identity import find_owned, state_id

    return _still_applied(settings) or bool(find_owned(state_id(settings.state_dir)))


def _still_applied(settings: Settings) -> bool:
    """Whether the next daemon would begin by bringing something up."""
    from orchestrator.runtime.state import Store

    store = Store.open_to_read(settings.store_path)
    if store is None:
        return False
    with contextlib.closing(store):
        applied = store.applied()
    return bool(applied and applied.sources)


def end(
    settings: Settings, path: str, body: dict[str, Any], timeout: float | None, *, stays: bool
) -> None:
    """Ask for the end, then wait for the process itself to be gone: its lock is free then."""
    client = Client(settings)
    pid = lock.holder(settings.lock_path)
    # Opened before asking, so that it is the daemon's and nobody's who comes after it.
    pidfd = None
    if pid is not None:
        with contextlib.suppress(ProcessLookupError):
            pidfd = os.pidfd_open(pid)
    if timeout is None:
        while_watching(settings, (), lambda: client.post(path, body))
    else:
        _post_within(client, path, body, timeout)
    if pidfd is not None:
        ended = stays or bool(select.select([pidfd], [], [], ENDS_WITHIN)[0])
        os.close(pidfd)
        if not ended:
            raise TimedOutError(
                f"the daemon (pid {pid}) said that it ends, but goes on",
                hint="`orchestrate logs --daemon` shows why",
            )


def _post_within(client: Client, path: str, body: dict[str, Any], timeout: float) -> None:
    from concurrent.futures import ThreadPoolExecutor
    from concurrent.futures import TimeoutError as NotYet

    threads = ThreadPoolExecutor(1)
    try:
        threads.submit(client.post, path, body).result(timeout)
    except NotYet:
        threads.shutdown(wait=False, cancel_futures=True)
        click.echo("error: still stopping; the daemon goes on with it", err=True)
        click.echo("hint: `orchestrate kill NAME` waits no longer", err=True)
        os._exit(TimedOutError.exit_code)


@click.group("daemon", epilog="Example: orchestrate daemon restart")
def daemon_command() -> None:
    """Start, stop or look at the process in the background."""


@daemon_command.command(
    "start", epilog="Examples: orchestrate daemon start | daemon start --listen 7717"
)
@listen_option
def start(listen: str | None) -> None:
    """Start the daemon; it takes up what was applied, and adopts what still runs."""
    settings = settings_with(listen)
    insist_on(settings, listen)
    if ensure_daemon(settings):
        click.echo(f"daemon started (pid {lock.holder(settings.lock_path)})")
    else:
        click.echo(f"a daemon is already running (pid {lock.holder(settings.lock_path)})")


@daemon_command.command("stop", epilog="Example: orchestrate daemon stop --instances")
@click.option("--instances", is_flag=True, help="Stop the instances too; they stay applied.")
def stop(instances: bool) -> None:
    """End the daemon. Instances go on, and the applied set is remembered."""
    settings = Settings.from_env(os.environ)
    if not Client(settings).answers():
        click.echo("no daemon is running")
        return
    # Of instances, only the daemon's own word says that they are stopped.
    with contextlib.nullcontext() if instances else _death_is_an_end(settings):
        end(settings, "/v1/daemon/stop", {"instances": instances}, None, stays=False)
    click.echo("daemon stopped; " + ("instances too" if instances else "instances go on"))


@daemon_command.command("restart", epilog="Example: orchestrate daemon restart")
@listen_option
def restart(listen: str | None) -> None:
    """End the daemon and start another; instances keep running, and it listens where it did."""
    settings = settings_with(listen)
    if Client(settings).answers():
        _refuse_to_replace_a_service(settings)
        with _death_is_an_end(settings):
            settings = kept(settings, Client(settings).get("/v1/status")["daemon"])
            end(settings, "/v1/daemon/stop", {}, None, stays=False)
    ensure_daemon(settings)
    click.echo(f"daemon restarted (pid {lock.holder(settings.lock_path)})")


@contextlib.contextmanager
def _death_is_an_end(settings: Settings) -> Generator[None]:
    """A daemon that dies instead of answering has ended all the same."""
    try:
        yield
    except NoDaemonError:
        if not _is_gone(lock.holder(settings.lock_path)):
            raise


def _is_gone(pid: int | None) -> bool:
    """A process that is killed lets go of its lock some time after its connections."""
    if pid is None:
        return True
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([pidfd], [], [], DIES_WITHIN)[0])
    finally:
        os.close(pidfd)


def _refuse_to_replace_a_service(settings: Settings) -> None:
    """A daemon in the background would take the place of one that systemd looks after."""
    from orchestrator.cli.unit import service_of

    pid = lock.holder(settings.lock_path)
    if pid is not None and (words := service_of(pid)):
        message = f"the daemon (pid {pid}) is a service of systemd: that restarts it"
        raise InputError(message, hint=f"systemctl {words[0]}restart {words[1]}")


@daemon_command.command("status", epilog="Example: orchestrate daemon status --json")
@json_option
def status(as_json: bool) -> None:
    """Say whether a daemon runs. Exits 3 when none does."""
    settings = Settings.from_env(os.environ)
    try:
        document = Client(settings).get("/v1/status")
    except NoDaemonError:
        if not as_json:
            raise
        print_json({"daemon": None})
        raise click.exceptions.Exit(NoDaemonError.exit_code) from None
    daemon = document["daemon"]
    if as_json:
        print_json({"daemon": daemon, "version": document["version"]})
        return
    click.echo(f"pid {daemon['pid']}, up {since(daemon['since'])}, version {document['version']}")
    click.echo(f"state folder {inert(settings.state_dir)}")
    if daemon.get("listen"):
        click.echo(f"listens on {daemon['listen']}")
