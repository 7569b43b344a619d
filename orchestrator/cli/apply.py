"""`apply`, `serve` and `remove`: what is applied."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

import click

from orchestrator.cli import head_start
from orchestrator.cli.client import Client, RejectedError
from orchestrator.cli.listening import insist_on, listen_option, settings_with
from orchestrator.cli.model_lines import doing, unfinished
from orchestrator.cli.options import DURATION, json_option
from orchestrator.cli.render import every_row, inert, plan_lines, print_json, problem_text
from orchestrator.cli.sources import SUFFIXES, sources_json
from orchestrator.errors import InputError, NoDaemonError, OrchestrateError, TimedOutError
from orchestrator.settings import Settings

TROUBLE = frozenset({"failed", "backoff", "unready"})


@click.command(
    "apply",
    epilog="Examples: orchestrate apply coding.yaml | apply profiles/ | apply --add embed.yaml",
)
@click.argument("files", nargs=-1, required=True, metavar="FILE|DIR|NAME...")
@click.option("--add", is_flag=True, help="Add to what is applied, instead of replacing it.")
@click.option("--force", is_flag=True, help="Also what does not fit into memory.")
@click.option("--no-wait", is_flag=True, help="Return once the apply is taken up.")
@click.option("--timeout", type=DURATION, help="Stop waiting after this time (as in 5m).")
@click.option("--dry-run", is_flag=True, help="Only show the plan (the same as `plan`).")
@click.option("--foreground", is_flag=True, help="Run the loop here, with no daemon.")
@click.option(
    "--leave-running", is_flag=True, help="With --foreground: the end leaves instances running."
)
@listen_option
@json_option
def apply_command(files: tuple[str, ...], **options: Any) -> None:
    """Make these profiles the applied set, and wait until all of it is ready.

    Only what changed is touched. Saving an applied file later applies it again.
    """
    if options["leave_running"] and not options["foreground"]:
        raise InputError("--leave-running goes with --foreground")
    if options["dry_run"] and options["listen"] is not None:
        raise InputError("--listen does not go with --dry-run")
    contradicting = ("add", "no_wait", "timeout", "dry_run")
    if options["foreground"] and (given := [one for one in contradicting if options[one]]):
        raise InputError(f"--{given[0].replace('_', '-')} does not go with --foreground")
    if options["foreground"]:
        from orchestrator.cli.foreground import serve

        settings = settings_with(options["listen"])
        leave, force = options["leave_running"], options["force"]
        serve(files, settings, leave_running=leave, force=force, as_json=options["as_json"])
    elif options["dry_run"]:
        from orchestrator.cli.check import show_plan

        add, force = options["add"], options["force"]
        show_plan(files, add=add, force=force, as_json=options["as_json"])
    else:
        _apply(files, options)


@click.command("serve", epilog="Example: orchestrate serve --leave-running profiles/coding.yaml")
@click.argument("files", nargs=-1, required=True, metavar="FILE|DIR|NAME...")
@click.option("--leave-running", is_flag=True, help="The end leaves the instances running.")
@click.option("--force", is_flag=True, help="Also what does not fit into memory.")
@listen_option
@json_option
def serve_command(
    files: tuple[str, ...], leave_running: bool, force: bool, listen: str | None, as_json: bool
) -> None:
    """Apply, and run the loop here: for systemd and containers (`apply --foreground`)."""
    from orchestrator.cli.foreground import serve

    settings = settings_with(listen)
    serve(files, settings, leave_running=leave_running, force=force, as_json=as_json)


@click.command("remove", epilog="Example: orchestrate remove coding")
@click.argument("profiles", nargs=-1, required=True, metavar="FILE|NAME...")
@json_option
def remove_command(profiles: tuple[str, ...], as_json: bool) -> None:
    """Take profiles out of the applied set; what only they declare is stopped."""
    from orchestrator.cli.at_hand import daemon_at_hand

    words = [os.path.abspath(word) if _is_path(word) else word for word in profiles]
    with daemon_at_hand(Settings.from_env(os.environ)) as client:
        removed = client.post("/v1/remove", {"profiles": words})
    if as_json:
        print_json(removed)
    else:
        for path in removed["removed"]:
            click.echo(f"removed {inert(path)}")


def _is_path(word: str) -> bool:
    """Whether FILE is meant, which need not exist any more, or NAME."""
    return os.path.exists(word) or "/" in word or word.endswith(SUFFIXES)


def _apply(files: tuple[str, ...], options: Mapping[str, Any]) -> None:
    settings = settings_with(options["listen"])
    insist_on(settings, options["listen"])
    as_json, began = options["as_json"], time.monotonic()
    sources = sources_json(files, settings, os.environ)
    task = {"sources": sources, "add": options["add"], "force": options["force"]}
    try:
        outcome = hand_over(settings, task)
    except RejectedError as error:
        reject(error, as_json=as_json)
        return
    if not as_json:
        for warning in outcome["warnings"]:
            click.echo(f"warning: {problem_text(warning)}", err=True)
        for line in plan_lines(outcome["actions"]):
            click.echo(line)
    if options["no_wait"]:
        if as_json:
            print_json(outcome)
        return
    try:
        _wait(settings, outcome, options["timeout"], began, as_json=as_json)
    except KeyboardInterrupt:
        click.echo("\ndetached: the daemon goes on; `orchestrate status` shows how far", err=True)
        raise


def hand_over(settings: Settings, task: dict[str, Any]) -> dict[str, Any]:
    """To the daemon that runs, else to one that is started with it."""
    client = Client(settings)
    if client.answers():
        head_start.drop()
        try:
            return client.post("/v1/apply", task)
        except NoDaemonError:
            # It was just ending: begin another.
            pass
    from orchestrator.cli.launch import launch

    launched = launch(settings, task)
    if launched is None:
        return client.post("/v1/apply", task)
    launched.wait_until_listening()
    assert launched.outcome is not None, "a daemon with a task says what became of it"
    return launched.outcome


def reject(error: RejectedError, *, as_json: bool) -> None:
    """Show every problem and exit 2: nothing was changed."""
    if as_json:
        print_json({"ok": False, "errors": error.errors})
    else:
        for one in error.errors:
            click.echo(problem_text(one), err=True)
        count = len(error.errors)
        click.echo(f"{count} problem{'s' if count > 1 else ''}; nothing was changed", err=True)
    raise click.exceptions.Exit(InputError.exit_code)


def _wait(
    settings: Settings,
    outcome: Mapping[str, Any],
    timeout: float | None,
    began: float,
    *,
    as_json: bool,
) -> None:
    """Until everything is ready, or has settled otherwise."""
    # Loaded while the instances are, and not before they are asked for.
    from orchestrator.cli.progress import progress

    shown = progress(as_json=as_json)
    status: dict[str, Any] = {}
    moved: dict[tuple[str, str], int] = {}
    for snapshot in Client(settings).snapshots(after=outcome["after"], refresh_ms=250):
        status = snapshot["status"]
        if status["applied"] < outcome["number"]:
            # Taken up, but not yet by the reconciler: this is still what was before.
            continue
        shown.show(snapshot)
        if status["applied"] > outcome["number"]:
            raise OrchestrateError("superseded by a later apply", hint="orchestrate status")
        if status["converged"] or status["settled"]:
            break
        if moved != (moved := _bytes_done(status)):
            # The time is for what stands still: a large model takes as long as it takes.
            began = time.monotonic()
        if timeout is not None and time.monotonic() - began > timeout:
            shown.close()
            raise TimedOutError(
                f"not ready within {timeout:g} s: {'; '.join(status['missing'])}",
                hint="the daemon goes on; `orchestrate status` shows how far",
            )
    else:
        shown.close()
        raise NoDaemonError(
            "the daemon went away", hint="`orchestrate daemon start` goes on with what was applied"
        )
    shown.close()
    _finish(status, as_json=as_json)


def _bytes_done(status: Mapping[str, Any]) -> dict[tuple[str, str], int]:
    """How far each model of each instance has come."""
    return {
        (one["name"], model["name"]): model["bytes_done"]
        for one in status["instances"]
        for model in one["models"]
        if model["bytes_done"]
    }


def _finish(status: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        import json

        click.echo(json.dumps(status))
    else:
        from orchestrator.cli.status_table import summary

        for line in summary(status):
            click.echo(line)
    if status["converged"]:
        return
    if not as_json:
        for one in every_row(status):
            if one["phase"] in TROUBLE:
                message = inert(one["message"])
                click.echo(f"{one['name']}: {one['phase']}, {one['reason']}: {message}", err=True)
                if one["reason"] not in NEVER_RAN:
                    click.echo(f"hint: orchestrate logs {one['name']}", err=True)
            elif one["phase"] == "ready":
                _say_what_lacks(one)
    raise click.exceptions.Exit(OrchestrateError.exit_code)


NEVER_RAN = frozenset({"port-taken", "nothing-to-attach", "log-unwritable", "too-many-files"})
"""Reasons for which there is no log to look into: nothing was started."""


def _say_what_lacks(one: Mapping[str, Any]) -> None:
    """The models of a server that is ready itself: which are not as declared, and why."""
    for model in unfinished(one):
        name, word, why = inert(model["name"]), doing(model), inert(model["message"])
        reason = f", {model['reason']}" if model["reason"] not in ("", word) else ""
        click.echo(f"{one['name']}: model {name}: {word}{reason}: {why}", err=True)
    if unfinished(one):
        hint = f"orchestrate logs {one['name']}; another `orchestrate apply` tries again"
        click.echo(f"hint: {hint}", err=True)
