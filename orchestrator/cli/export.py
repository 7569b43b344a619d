"""`export`: a profile for another world, where this very daemon runs it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence

import click

from orchestrator.cli.render import problem_text
from orchestrator.cli.sources import applied_sources
from orchestrator.cli.unit import NAME, sources_here, unit_here, unit_name
from orchestrator.control.reading import Reading, folders_without, read_files
from orchestrator.core.exported import Exported, exported, strays, written_secrets
from orchestrator.core.parse import LoadedProfile, parse_profile
from orchestrator.core.problem import Place, Problem
from orchestrator.errors import InputError
from orchestrator.settings import Settings

IMAGE = "orchestrate-sidecar"


@click.group("export", epilog="Example: orchestrate export compose profiles/coding.yaml")
def export_command() -> None:
    """Print profiles for compose, systemd or Kubernetes.

    What is printed runs this very daemon there, with these very profiles: they mean the same, and
    go on being edited as they are. Variables are named, never written out.
    """


@export_command.command(
    "compose", epilog="Example: orchestrate export compose profiles/coding.yaml > compose.yaml"
)
@click.argument("files", nargs=-1, required=True, metavar="FILE|DIR|NAME...")
@click.option("--image", default=IMAGE, show_default=True, help="The image to run.")
@click.option("--name", metavar="NAME", help="What the service is called. Default: the profile's.")
def compose(files: tuple[str, ...], image: str, name: str | None) -> None:
    """Print a compose file: one service, that runs all of it.

    Profiles and models are mounted where they lie on this machine, read-only; ports that profiles
    name are reached on its loopback. Saving a profile is an edit, inside as outside.
    """
    from orchestrator.cli.mounts import mounts_of, user_of
    from orchestrator.core.export_compose import render_compose

    settings = Settings.from_env(os.environ)
    readings = _read(files, settings)
    found = _exported(readings)
    mounts = mounts_of(files, found, settings)
    _warn(found.warnings)
    service = _label(name or found.name)
    user = user_of(mounts)
    click.echo(render_compose(found, mounts, image=image, name=service, user=user), nl=False)


@export_command.command(
    "kubernetes",
    epilog="Example: orchestrate export kubernetes profiles/coding.yaml | kubectl apply -f -",
)
@click.argument("files", nargs=-1, required=True, metavar="FILE|DIR|NAME...")
@click.option("--image", default=IMAGE, show_default=True, help="The image to run.")
@click.option("--name", metavar="NAME", help="What all is called. Default: as the profile.")
@click.option(
    "--models", "claim", default="models", show_default=True, help="The claim with the models."
)
def kubernetes(files: tuple[str, ...], image: str, name: str | None, claim: str) -> None:
    """Print a ConfigMap with the profiles, a Deployment that runs them, and a Service.

    Nothing of this machine is looked at but the profiles. Models come from a volume that is
    mounted at /models, and are named by file; variables come from a Secret named NAME-env. Edits
    of the ConfigMap are taken up without a rollout.
    """
    from orchestrator.core.export_kubernetes import key_of, render_kubernetes

    settings = Settings.from_env(os.environ)
    readings = _read(files, settings)
    found = _exported(readings)
    secrets = [
        problem
        for profile, reading in zip(found.profiles, readings, strict=True)
        for problem in written_secrets(profile, reading.data or b"")
    ]
    if secrets:
        _reject(secrets)
    texts: dict[str, str] = {}
    for reading in readings:
        key = key_of(reading.file)
        if key in texts:
            raise InputError(f"two profiles would both be {key} in the ConfigMap")
        texts[key] = (reading.data or b"").decode("utf-8")
    _warn([*found.warnings, *strays(found)])
    label = _label(name or found.name)
    text = render_kubernetes(found, texts, name=label, image=image, claim=claim)
    click.echo(text, nl=False)


@export_command.command(
    "systemd", epilog="Example: orchestrate export systemd --system profiles/coding.yaml"
)
@click.argument("files", nargs=-1, required=True, metavar="FILE|DIR|NAME...")
@click.option("--system", is_flag=True, help="For the machine's init system, not for a user's.")
@click.option("--run-as", metavar="USER", default="", help="With --system: its account.")
@click.option("--name", default=NAME, show_default=True, help="What the service is called.")
def systemd(files: tuple[str, ...], system: bool, run_as: str, name: str) -> None:
    """Print a unit, as `install-service` would write it."""
    from orchestrator.core.export_systemd import render_unit

    if run_as and not system:
        raise InputError("--run-as goes with --system: a user's service runs as that user")
    settings = Settings.from_env(os.environ)
    _exported(_read(files, settings))
    sources = sources_here(files, settings)
    unit, private = unit_here(sources, name=unit_name(name), system=system, run_as=run_as)
    if private:
        click.echo(f"note: {unit.env_file} (0600) is to set {', '.join(private)}", err=True)
    click.echo(render_unit(unit), nl=False)


def _read(files: Sequence[str], settings: Settings) -> list[Reading]:
    sources = applied_sources(files, settings, os.environ)
    readings = read_files(sources)
    return [*readings, *folders_without(sources, readings)]


def _exported(readings: Sequence[Reading]) -> Exported:
    """Of valid profiles; else all of their errors are shown, and nothing is printed."""
    problems: list[Problem] = []
    loaded: list[LoadedProfile] = []
    texts: list[str] = []
    for reading in readings:
        if reading.data is None:
            problems.append(Problem(reading.error, Place(reading.file, 1, 1)))
            continue
        parsed = parse_profile(reading.data, file=reading.file, env=reading.source.env)
        problems += parsed.problems
        if parsed.profile is not None:
            loaded.append(parsed.profile)
            texts.append(reading.data.decode("utf-8"))
    if problems:
        _reject(problems)
    return exported(loaded, texts)


def _reject(problems: Sequence[Problem]) -> None:
    errors = [problem.as_json() for problem in problems]
    for error in errors:
        click.echo(problem_text(error), err=True)
    count = len(errors)
    click.echo(f"{count} problem{'s' if count > 1 else ''}; nothing was exported", err=True)
    raise click.exceptions.Exit(InputError.exit_code)


def _warn(problems: Iterable[Problem]) -> None:
    for problem in problems:
        click.echo(f"warning: {problem_text(problem.as_json())}", err=True)


def _label(name: str) -> str:
    """Raises `InputError` for what neither compose nor Kubernetes takes as a name."""
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,48}[a-z0-9])?", name):
        raise InputError(
            f"{name!r} cannot be a name there", hint="small letters, digits and - in between"
        )
    return name
