"""`install-service`: the daemon as a systemd service, of this user or of the machine.

Only files are written: what starts and stops services stays a word of the user's, and is said.
"""

from __future__ import annotations

import os
import pwd
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import click

from orchestrator.cli.unit import (
    NAME,
    config_home,
    env_text,
    names_in,
    sources_here,
    unit_here,
    unit_name,
)
from orchestrator.core.export_systemd import Unit, is_ours, is_sealed, render_unit
from orchestrator.errors import InputError, OrchestrateError
from orchestrator.settings import Settings


@click.command(
    "install-service",
    epilog="Examples: orchestrate install-service profiles/coding.yaml | "
    "install-service --dry-run coding.yaml | install-service --uninstall",
)
@click.argument("files", nargs=-1, metavar="[FILE|DIR|NAME]...")
@click.option("--system", is_flag=True, help="For the machine, not for this user: needs root.")
@click.option("--run-as", metavar="USER", help="With --system: the account that it runs as.")
@click.option("--name", default=NAME, show_default=True, help="What the service is called.")
@click.option("--dry-run", is_flag=True, help="Only print the unit.")
@click.option("--force", is_flag=True, help="Also over a unit that was edited, or is another's.")
@click.option("--uninstall", is_flag=True, help="Remove it again.")
def install_service_command(files: tuple[str, ...], **options: Any) -> None:
    """Write a systemd service that applies these profiles at each start of the machine.

    Without FILE: what is applied now. The service takes over the instances that run, leaves them
    running when it is stopped or updated, and is restarted by systemd when it ends or hangs.
    Variables that profiles refer to, and secrets, go into a file that only its user may read.
    """
    name, system = unit_name(options["name"]), options["system"]
    place = _place(name, system=system)
    if options["uninstall"]:
        if files or options["dry_run"]:
            raise InputError("--uninstall takes neither profiles nor --dry-run")
        _uninstall(place, force=options["force"])
        return
    run_as = _account(options["run_as"], system=system)
    settings = Settings.from_env(os.environ)
    sources = sources_here(files, settings)
    _validate([source.path for source in sources], settings, run_as)
    unit, private = unit_here(sources, name=name, system=system, run_as=run_as)
    if options["dry_run"]:
        click.echo(render_unit(unit), nl=False)
        _note_private(place.env_file, private)
        return
    _refuse_what_is_anothers(place.unit, force=options["force"])
    _install(place, unit, private, force=options["force"])
    _say_what_next(place, unit, settings)


class _Place(NamedTuple):
    """Where a service lies, and how it is spoken of."""

    name: str
    unit: str
    env_file: str
    wants: str
    """Made by `systemctl enable`: what has it started."""
    systemctl: str
    journal: str


def _place(name: str, *, system: bool) -> _Place:
    from orchestrator.cli.unit import env_file

    folder = "/etc/systemd/system" if system else os.path.join(config_home(), "systemd/user")
    target = "multi-user" if system else "default"
    file = f"{name}.service"
    return _Place(
        name=name,
        unit=os.path.join(folder, file),
        env_file=env_file(name, system=system),
        wants=os.path.join(folder, f"{target}.target.wants", file),
        systemctl="systemctl" if system else "systemctl --user",
        journal=f"journalctl {'-u' if system else '--user -u'} {name}",
    )


def _account(named: str | None, *, system: bool) -> str:
    """Who it runs as: whoever asked by `sudo`, unless somebody is named."""
    if not system:
        if named:
            raise InputError("--run-as goes with --system: a user's service runs as that user")
        return ""
    account = named or os.environ.get("SUDO_USER") or "root"
    try:
        pwd.getpwnam(account)
    except KeyError:
        raise InputError(f"there is no account {account!r} on this machine") from None
    return account


def _validate(paths: Sequence[str], settings: Settings, run_as: str) -> None:
    """What the daemon would refuse at its start is refused now, where somebody looks."""
    if run_as and pwd.getpwnam(run_as).pw_uid != os.getuid():
        # Its models and programs are those of another home.
        return
    from orchestrator.cli.apply import reject
    from orchestrator.cli.check import resolve_here
    from orchestrator.cli.client import RejectedError

    resolution = resolve_here(paths, settings, force=False)
    if resolution.problems:
        errors = [problem.as_json() for problem in resolution.problems]
        reject(RejectedError(errors[0]["message"], "", errors), as_json=False)


def _refuse_what_is_anothers(path: str, *, force: bool, does: str = "overwrites") -> None:
    text = _text_of(path)
    if text is None or is_sealed(text) or force:
        return
    if is_ours(text):
        raise InputError(
            f"{path} was edited since it was made",
            hint=f"--force {does} it; `systemctl edit` keeps changes in a file of their own",
        )
    raise InputError(
        f"{path} was not made by orchestrate", hint=f"--name another, or --force {does} it"
    )


def _install(place: _Place, unit: Unit, private: Mapping[str, str], *, force: bool) -> None:
    kept: list[str] = [] if force else _kept(place.env_file, private)
    lines = {name: value for name, value in private.items() if name not in kept}
    if lines:
        before = "" if force else _text_of(place.env_file) or ""
        if before and not before.endswith("\n"):
            before += "\n"
        _write(place.env_file, before + env_text(lines), 0o600)
        click.echo(f"wrote {place.env_file}, for its user alone: {', '.join(lines)}")
    if kept:
        click.echo(f"kept {place.env_file}: {', '.join(kept)}")
    again = _text_of(place.unit) == render_unit(unit)
    if not again:
        _write(place.unit, render_unit(unit), 0o644)
    click.echo(f"{'unchanged:' if again else 'wrote'} {place.unit}")


def _kept(path: str, private: Mapping[str, str]) -> list[str]:
    """What the file says already: it may be newer than this shell."""
    there = set(names_in(_text_of(path) or ""))
    return [name for name in private if name in there]


def _note_private(path: str, private: Iterable[str]) -> None:
    if names := ", ".join(private):
        click.echo(f"note: {path} (0600) would hold {names}", err=True)


def _say_what_next(place: _Place, unit: Unit, settings: Settings) -> None:
    from orchestrator.runtime import lock

    click.echo("next:")
    steps = [f"{place.systemctl} daemon-reload", f"{place.systemctl} enable --now {place.name}"]
    if not unit.system and unit.run_as == "":
        user = pwd.getpwuid(os.getuid()).pw_name
        steps.append(f"loginctl enable-linger {shlex.quote(user)}   # at boot, not at login")
    pid = lock.holder(settings.lock_path)
    if pid is not None and unit.run_as in ("", pwd.getpwuid(os.getuid()).pw_name):
        # It has the state folder; the service takes over what it leaves running.
        steps.insert(0, f"orchestrate daemon stop   # pid {pid}; its instances go on")
    for step in [*steps, f"{place.journal} -f"]:
        click.echo(f"  {step}")


def _uninstall(place: _Place, *, force: bool) -> None:
    if _text_of(place.unit) is None:
        raise InputError(f"{place.unit} does not exist", hint="--name, --system: which one is it?")
    _refuse_what_is_anothers(place.unit, force=force, does="removes")
    for path in (place.wants, place.unit, place.env_file):
        if os.path.lexists(path):
            _removed(path)
            click.echo(f"removed {path}")
    click.echo("next:")
    click.echo(f"  {place.systemctl} stop {place.name}   # the instances go on")
    click.echo(f"  {place.systemctl} daemon-reload")
    click.echo("  orchestrate down   # ends the instances, too")


def _text_of(path: str) -> str | None:
    """None when there is no such file. Raises `OrchestrateError` when it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="\n") as file:
            return file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _refused(path, error) from error


def _write(path: str, text: str, mode: int) -> None:
    """At once, or not at all; nobody sees it with another mode."""
    aside = f"{path}.new"
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if os.path.lexists(aside):
            os.unlink(aside)
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with open(
            descriptor, "w", encoding="utf-8", errors="surrogateescape", newline="\n"
        ) as file:
            os.fchmod(file.fileno(), mode)
            file.write(text)
        os.replace(aside, path)
    except OSError as error:
        raise _refused(path, error) from error


def _removed(path: str) -> None:
    try:
        os.unlink(path)
    except OSError as error:
        raise _refused(path, error) from error


def _refused(path: str, error: OSError) -> OrchestrateError:
    hint = "--system needs root: sudo" if isinstance(error, PermissionError) else ""
    return OrchestrateError(f"{path}: {error.strerror}", hint=hint)
