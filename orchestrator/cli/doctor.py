"""`doctor`: what is here, what is missing, and what to do about it. Needs no daemon."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Iterator

import click

from orchestrator import __version__
from orchestrator.cli.finding import Finding
from orchestrator.cli.options import json_option
from orchestrator.cli.render import inert, print_json
from orchestrator.errors import OrchestrateError
from orchestrator.settings import Settings

ANSWERS_WITHIN = 5.0
"""Seconds that a daemon may take: a silent one is a finding, not a reason to hang."""

COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


@click.command("doctor", epilog="Examples: orchestrate doctor | orchestrate doctor --json")
@json_option
def doctor_command(as_json: bool) -> None:
    """Look at everything that orchestrate stands on, and say what to do about each problem.

    Engines, GPUs, memory, ports, models, the state folder and the daemon. Changes nothing.
    Exits 1 when a problem would keep `apply` from working.
    """
    settings = Settings.from_env(os.environ)
    socket.setdefaulttimeout(ANSWERS_WITHIN)
    findings: list[Finding] = []
    for finding in examine(settings):
        findings.append(finding)
        if not as_json:
            _show(finding)
    count = {mark: sum(one.mark == mark for one in findings) for mark in COLOURS}
    if as_json:
        usable = not count["fail"]
        found = [finding.as_json() for finding in findings]
        print_json({"ok": usable, "version": __version__, "findings": found})
    else:
        click.echo(_summary(count["fail"], count["warn"]))
    if count["fail"]:
        raise click.exceptions.Exit(OrchestrateError.exit_code)


def examine(settings: Settings) -> Iterator[Finding]:
    """Everything, one after the other; what cannot be examined is a finding too."""
    from orchestrator.cli import doctor_engines, doctor_machine, doctor_ollama, doctor_state

    examinations: list[tuple[str, Callable[[Settings], Iterator[Finding]]]] = [
        ("system", _system),
        ("engine", doctor_engines.engines),
        ("gpu", doctor_engines.gpus),
        ("ollama", doctor_ollama.program),
        ("ollama", doctor_ollama.server),
        ("ollama", doctor_ollama.stores),
        ("memory", doctor_machine.memory),
        ("models", doctor_machine.models),
        ("ports", doctor_machine.ports),
        ("state", doctor_state.folders),
        ("state", doctor_state.store),
        ("daemon", doctor_state.daemon),
        ("watch", doctor_machine.inotify),
    ]
    for topic, examination in examinations:
        try:
            yield from examination(settings)
        except OrchestrateError as error:
            yield Finding(topic, "fail", error.message, error.hint)
        except OSError as error:
            yield Finding(topic, "warn", f"cannot be examined: {error}")


def _system(_settings: Settings) -> Iterator[Finding]:
    release = os.uname()
    python = ".".join(str(part) for part in sys.version_info[:3])
    data = {"python": python, "system": release.sysname, "release": release.release}
    message = f"orchestrate {__version__}, Python {python}, {release.sysname} {release.release}"
    if release.sysname != "Linux":
        yield Finding("system", "fail", message, "it runs on Linux and WSL only", data)
        return
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError:
        hint = "Linux 5.3 or newer is needed; a container's seccomp profile may forbid pidfd_open"
        yield Finding("system", "fail", f"{message}: no pidfd", hint, data)
    else:
        yield Finding("system", "ok", message, data=data)


def _show(finding: Finding) -> None:
    mark = click.style(f"{finding.mark:<4}", fg=COLOURS[finding.mark])
    click.echo(f"{mark}  {finding.topic:<7} {inert(finding.message)}")
    if finding.hint:
        click.echo(f"{'':4}  {'':7} {click.style('hint:', fg='cyan')} {inert(finding.hint)}")


def _summary(failures: int, warnings: int) -> str:
    if failures:
        return click.style("not usable: see the lines marked fail", fg="red", bold=True)
    if warnings:
        return click.style("usable, with warnings", fg="yellow", bold=True)
    return click.style("all is well", fg="green", bold=True)
