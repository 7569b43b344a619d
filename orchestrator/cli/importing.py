"""`import`: a profile that does what another tool's configuration does, as far as one can.

    text -> read and translated in `core.import_*` -> YAML -> checked as a profile -> shown, written

Nothing that a foreign file names is run: its programs are looked at, and no more.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli.options import json_option
from orchestrator.cli.render import inert, print_json, problem_text
from orchestrator.errors import InputError, OrchestrateError
from orchestrator.settings import Settings

if TYPE_CHECKING:
    from orchestrator.core.import_draft import Imported
    from orchestrator.core.import_gateway import Listening
    from orchestrator.core.import_instance import Here
    from orchestrator.core.problem import Problem

MOST = 1 << 20
"""Bytes of a foreign file that are read at all, less one."""

_out = click.option("-o", "--out", metavar="FILE", help="Write the profile there.")
_force = click.option("--force", is_flag=True, help="Overwrite what is there.")
_cwd = click.option(
    "--cwd",
    metavar="DIR",
    help="What relative paths are relative to: where that tool is started. "
    "Default: the folder of the file.",
)
_listen = click.option(
    "--listen",
    metavar="HOST:PORT",
    help="Where the gateway is to listen: where that tool does. A PORT alone is on loopback. "
    "Default: 127.0.0.1:8080.",
)


@click.group(
    "import", epilog="Example: orchestrate import llama-swap config.yaml -o profiles/models.yaml"
)
def import_command() -> None:
    """Make a profile of another tool's configuration.

    It is printed, or written with -o. What could not be carried over is said on stderr, and as a
    comment at its place in the profile. Nothing is started, and nothing is downloaded. Secrets are
    not written out: variables take their place. Exits 1 when nothing of it can be run here.
    """


@import_command.command(
    "llama-swap",
    epilog="Example: orchestrate import llama-swap config.yaml -o profiles/models.yaml",
)
@click.argument("file", metavar="FILE")
@_out
@_force
@_cwd
@_listen
@json_option
def llama_swap(
    file: str,
    out: str | None,
    force: bool,
    cwd: str | None,
    listen: str | None,
    as_json: bool,
) -> None:
    """Make a profile of a llama-swap configuration.

    Each model whose command starts a llama-server becomes an instance that is started on demand,
    behind a gateway. FILE may be `-` for stdin.
    """
    from orchestrator.core.import_draft import UnreadableError
    from orchestrator.core.import_llama_swap import translate_llama_swap
    from orchestrator.core.import_swap_config import read_llama_swap

    _refuse_to_overwrite(out, force=force)
    listening = _listening(listen)
    data, name = _read(file)
    try:
        config = read_llama_swap(data, name)
        here = _here(_folder(file, cwd), programs=config.programs, dirs=())
        imported = translate_llama_swap(config, here, listening)
    except UnreadableError as error:
        _reject(error.problems, as_json=as_json)
        return
    head = f"From {os.path.basename(name)} of llama-swap, by `orchestrate import llama-swap`."
    _give(imported, head, file=name, out=out, as_json=as_json)


@import_command.command(
    "router", epilog="Example: orchestrate import router preset.ini --models-dir ~/models"
)
@click.argument("file", metavar="FILE")
@click.option(
    "--models-dir", metavar="DIR", help="As the router is given it. A model may lie there."
)
@_out
@_force
@_cwd
@_listen
@json_option
def router(
    file: str,
    models_dir: str | None,
    out: str | None,
    force: bool,
    cwd: str | None,
    listen: str | None,
    as_json: bool,
) -> None:
    """Make a profile of presets for llama-server's router (`--models-preset`).

    Each section becomes an instance that is started on demand, behind a gateway; `[*]` are their
    defaults. FILE may be `-` for stdin.
    """
    from orchestrator.core.import_draft import UnreadableError
    from orchestrator.core.import_ini import read_ini
    from orchestrator.core.import_router import translate_router

    _refuse_to_overwrite(out, force=force)
    listening = _listening(listen)
    data, name = _read(file)
    dirs = (os.path.abspath(os.path.expanduser(models_dir)),) if models_dir else ()
    try:
        sections = read_ini(data, name)
    except UnreadableError as error:
        _reject(error.problems, as_json=as_json)
        return
    here = _here(_folder(file, cwd), programs=(), dirs=dirs)
    imported = translate_router(sections, here, listening)
    if dirs:
        imported.document = {"catalog": {"dirs": list(dirs)}, **imported.document}
    head = (
        f"From {os.path.basename(name)} of llama-server's router, by `orchestrate import router`."
    )
    _give(imported, head, file=name, out=out, as_json=as_json)


@import_command.command(
    "ollama", epilog="Example: orchestrate import ollama -o profiles/ollama.yaml"
)
@_out
@_force
@json_option
def ollama(out: str | None, force: bool, as_json: bool) -> None:
    """Make a profile of the Ollama on this machine.

    Its settings are those of OLLAMA_* in this shell, and of its systemd unit if there is one; its
    models those that it has.
    """
    from orchestrator.cli.import_ollama import ollama_here
    from orchestrator.core.import_ollama import translate_ollama

    _refuse_to_overwrite(out, force=force)
    here, remarks = ollama_here(Settings.from_env(os.environ))
    imported = translate_ollama(here)
    imported.remarks = (*remarks, *imported.remarks)
    head = "From the Ollama on this machine, by `orchestrate import ollama`."
    _give(imported, head, file="", out=out, as_json=as_json)


def _refuse_to_overwrite(out: str | None, *, force: bool) -> None:
    if out is not None and os.path.lexists(out) and not force:
        raise InputError(f"{out} exists", hint="--force overwrites it, or name another file")


def _listening(listen: str | None) -> Listening | None:
    """Raises `InputError` for what is no address."""
    from orchestrator.core.import_gateway import Listening
    from orchestrator.settings import parse_listen

    if listen is None:
        return None
    address = parse_listen(listen, "--listen")
    return Listening(address.host, address.port)


def _read(file: str) -> tuple[bytes, str]:
    """What a file holds, up to more than is ever taken, and how messages call it."""
    try:
        if file == "-":
            return sys.stdin.buffer.read(MOST + 1), "stdin"
        with open(file, "rb") as opened:
            return opened.read(MOST + 1), file
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}") from error


def _folder(file: str, cwd: str | None) -> str:
    if cwd is not None:
        return os.path.abspath(os.path.expanduser(cwd))
    return os.getcwd() if file == "-" else os.path.dirname(os.path.abspath(file))


def _here(folder: str, *, programs: Iterable[str], dirs: tuple[str, ...]) -> Here:
    """What of this machine decides how things are said. Of the programs that a foreign file names
    none is run: only the llama-server that was found here is asked for its flags."""
    from orchestrator.cli.models import catalog_here
    from orchestrator.control.toolchain import Toolchain
    from orchestrator.core.import_flags import Table
    from orchestrator.core.import_instance import Here

    settings = Settings.from_env(os.environ)
    env = dict(os.environ)
    if dirs:
        env["ORCHESTRATE_MODELS"] = ":".join((*dirs, env.get("ORCHESTRATE_MODELS", "")))
    present = frozenset(one for one in programs if _is_there(one, folder))
    catalog = catalog_here(settings, env)
    try:
        engine = Toolchain(settings.cache_dir).llama_server(None, os.environ)
    except InputError:
        return Here(folder, None, "", present, catalog)
    server = "" if engine.embedded else engine.binary.path
    program = "the embedded engine" if engine.embedded else "the llama-server found here"
    table = Table(engine.table.by_spelling, engine.table.by_env, program)
    return Here(folder, table, server, present, catalog)


def _is_there(program: str, folder: str) -> bool:
    from orchestrator.core.import_draft import expanded, located
    from orchestrator.runtime.binaries import find_llama_server

    whole = expanded(located(program, folder) if "/" in program else program, os.environ)
    try:
        find_llama_server(explicit=whole, env=os.environ)
    except InputError:
        return False
    return True


def _reject(problems: Iterable[Problem], *, as_json: bool) -> None:
    errors = [problem.as_json() for problem in problems]
    if as_json:
        print_json({"ok": False, "errors": errors})
    else:
        for error in errors:
            click.echo(problem_text(error), err=True)
    raise click.exceptions.Exit(InputError.exit_code)


def _give(imported: Imported, head: str, *, file: str, out: str | None, as_json: bool) -> None:
    """Print or write the profile, and say what is to be said of it."""
    from orchestrator.cli.profiles import write_text
    from orchestrator.core.import_text import render

    text = render(imported, [head])
    if not as_json:
        _say_remarks(imported, file)
    if not imported.instances:
        if as_json:
            print_json(_document(imported, text, file=file, out=None))
        raise OrchestrateError(
            "nothing of it can be run here", hint="what is run are llama-servers and Ollama"
        )
    _check(text)
    if out is not None:
        write_text(out, text)
    if as_json:
        print_json(_document(imported, text, file=file, out=out))
    elif out is None:
        click.echo(text, nl=False)
    else:
        click.echo(f"wrote {inert(out)}: {', '.join(imported.instances)}")
        click.echo(f"next: orchestrate validate {inert(out)}")


def _say_remarks(imported: Imported, file: str) -> None:
    from orchestrator.core.import_text import KINDS, grouped, told

    for group in grouped(imported.remarks):
        remark = group[0]
        place = f"{inert(file)}:{remark.line}: " if file and remark.line else ""
        about = "" if remark.path or not remark.instance else f"{remark.instance}: "
        colour = "yellow" if remark.kind == "lost" else "cyan"
        kind = click.style(f"{KINDS[remark.kind]}:", fg=colour)
        click.echo(
            f"{place}{kind} {about}{inert(told(remark, [one.path for one in group]))}", err=True
        )


def _document(imported: Imported, text: str, *, file: str, out: str | None) -> dict[str, Any]:
    from orchestrator.core.import_draft import spelled

    return {
        "file": os.path.abspath(out) if out is not None else None,
        "profile": spelled(imported.document),
        "text": text,
        "remarks": [remark.as_json(file) for remark in imported.remarks],
    }


def _check(text: str) -> None:
    """Nothing is given out that is no profile. What a variable is to be is not known yet."""
    from orchestrator.core.parse import parse_profile
    from orchestrator.core.reference import env_names

    env = {**dict.fromkeys(env_names(text), "1"), **os.environ}
    problems = parse_profile(text.encode(), file="profile", env=env).problems
    if problems:
        first = problems[0]
        raise InputError(f"no profile can say this: {first.message}", hint=first.hint)
