"""`plan` and `validate`: what would be, and what is wrong. Neither touches anything."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click
from msgspec.structs import replace

from orchestrator.cli.client import Client, RejectedError
from orchestrator.cli.options import json_option
from orchestrator.cli.render import plan_lines, print_json, problem_text
from orchestrator.cli.sources import applied_sources, sources_json
from orchestrator.cli.tables import counted
from orchestrator.errors import InputError
from orchestrator.settings import Settings

if TYPE_CHECKING:
    from orchestrator.control.resolution import Machine, Resolution


@click.command("plan", epilog="Example: orchestrate plan profiles/coding.yaml")
@click.argument("files", nargs=-1, required=True, metavar="FILE|DIR|NAME...")
@click.option("--add", is_flag=True, help="As `apply --add` would.")
@click.option("--force", is_flag=True, help="As `apply --force` would.")
@json_option
def plan_command(files: tuple[str, ...], add: bool, force: bool, as_json: bool) -> None:
    """Show what `apply` would do and why, field by field. Changes nothing."""
    show_plan(files, add=add, force=force, as_json=as_json)


@click.command("validate", epilog="Example: orchestrate validate profiles/*.yaml")
@click.argument("files", nargs=-1, required=True, metavar="FILE|DIR|NAME...")
@json_option
def validate_command(files: tuple[str, ...], as_json: bool) -> None:
    """Report all errors of all files. Touches no process, port or daemon."""
    from orchestrator.core.gateway_spec import GATEWAY
    from orchestrator.core.report import instances_of

    settings = Settings.from_env(os.environ)
    # What is too much for this machine may be meant for another: that is a warning here.
    resolution = resolve_here(files, settings, force=True, doubting=True)
    errors = [problem.as_json() for problem in resolution.problems]
    warnings = [problem.as_json() for problem in resolution.warnings]
    if as_json:
        print_json({"ok": not errors, "errors": errors, "warnings": warnings})
    else:
        for one in errors:
            click.echo(problem_text(one), err=True)
        for one in warnings:
            click.echo(f"warning: {problem_text(one)}", err=True)
        for file in resolution.files:
            if not any(one["file"] == file.file for one in errors):
                said = counted(len(instances_of(file.specs)), "instance")
                said += " and a gateway" * (GATEWAY in file.specs)
                click.echo(f"{file.file}: ok, {said}")
    if errors:
        raise click.exceptions.Exit(InputError.exit_code)


def show_plan(files: Sequence[str], *, add: bool, force: bool, as_json: bool) -> None:
    """Ask the daemon, which knows what runs; else work it out from the store."""
    try:
        answer = plan_document(files, Settings.from_env(os.environ), add=add, force=force)
    except RejectedError as error:
        from orchestrator.cli.apply import reject

        reject(error, as_json=as_json)
        return
    if as_json:
        print_json({"actions": answer["actions"]})
        return
    for warning in answer["warnings"]:
        click.echo(f"warning: {problem_text(warning)}", err=True)
    for line in plan_lines(answer["actions"]):
        click.echo(line)


def plan_document(
    files: Sequence[str], settings: Settings, *, add: bool, force: bool
) -> dict[str, list[dict[str, Any]]]:
    """The actions and warnings of a plan. Raises `RejectedError` when something is invalid."""
    client = Client(settings)
    if client.answers():
        sources = sources_json(files, settings, os.environ)
        return client.post("/v1/plan", {"sources": sources, "add": add, "force": force})
    return _plan_here(files, settings, force=force)


def _plan_here(
    files: Sequence[str], settings: Settings, *, force: bool
) -> dict[str, list[dict[str, Any]]]:
    from orchestrator.cli.offline import observed_without_daemon
    from orchestrator.core.preview import preview
    from orchestrator.runtime.identity import boot_clock

    resolution = resolve_here(files, settings, force=force)
    if resolution.problems:
        errors = [problem.as_json() for problem in resolution.problems]
        raise RejectedError(resolution.problems[0].message, "", errors)
    actions = preview(resolution.desired, observed_without_daemon(settings), boot_clock())
    return {
        "actions": [action.as_json() for action in actions],
        "warnings": [warning.as_json() for warning in resolution.warnings],
    }


def resolve_here(
    files: Sequence[str], settings: Settings, *, force: bool, doubting: bool = False
) -> Resolution:
    """What files mean, without a daemon. `force`: what is too much is a warning. `doubting`: what
    is most likely not meant is one, too."""
    from orchestrator.control.reading import folders_without, read_files
    from orchestrator.control.resolution import resolve_readings

    sources = applied_sources(files, settings, os.environ)
    readings = read_files(sources)
    readings += folders_without(sources, readings)
    machine = replace(machine_here(settings), forced=force, doubting=doubting)
    return resolve_readings(readings, machine)


def machine_here(settings: Settings) -> Machine:
    """This machine, as far as resolving without a daemon has to know it."""
    from orchestrator.cli.offline import observed_without_daemon, ports_without_daemon
    from orchestrator.control.resolution import Machine
    from orchestrator.control.toolchain import Toolchain
    from orchestrator.core.gpu import held_gpus
    from orchestrator.runtime import ports
    from orchestrator.runtime.memory_budget import MemoryBudget

    held = ports_without_daemon(settings)
    listening = {one.port for one in ports.listeners()}
    return Machine(
        toolchain=Toolchain(settings.cache_dir),
        cache_dir=settings.cache_dir,
        run_dir=settings.run_dir,
        held_ports=held,
        taken_ports=frozenset(listening.difference(held.values())),
        ephemeral=ports.ephemeral_range(),
        held_gpus=held_gpus(observed_without_daemon(settings)),
        budget=MemoryBudget(settings.memory).now({}),
    )
