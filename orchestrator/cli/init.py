"""`init`: a first profile, from the models that discovery found.

    catalog -> picks (a model to chat with, one to embed, an Ollama) -> YAML -> validated -> written

Nothing is written that `validate` would refuse.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable

import click
from msgspec.structs import replace

from orchestrator.cli.first_profile import FEW, SCHEMA, OllamaPick, Pick, chosen, named, render
from orchestrator.cli.models import catalog_here, find_model, no_models_hint
from orchestrator.cli.profiles import schema_text, write_text
from orchestrator.cli.render import inert
from orchestrator.cli.tables import counted
from orchestrator.errors import InputError, OrchestrateError
from orchestrator.settings import Settings

GATEWAY_PORT = 8080
FIRST_PORT = 8081


@click.command(
    "init", epilog="Examples: orchestrate init | orchestrate init my.yaml --model tiny | init -"
)
@click.argument("file", required=False)
@click.option("--model", "refs", multiple=True, metavar="REF", help="Use this one. Repeatable.")
@click.option("--force", is_flag=True, help="Overwrite what is there.")
def init_command(file: str | None, refs: tuple[str, ...], force: bool) -> None:
    """Write a first profile to FILE: by default, first.yaml in the profiles folder.

    Where there is an Ollama, it becomes an instance with the models that it has. Of all other
    models it picks the largest for chat that fits into memory, and one for embeddings; or it takes
    those that are named, and nothing else. Several instances get a gateway: one address for all of
    them. FILE may be `-` for stdout. Exits 1 when nothing is found.
    """
    settings = Settings.from_env(os.environ)
    target = os.path.join(settings.profiles_dir, "first.yaml") if file is None else file
    if target != "-" and os.path.exists(target) and not force:
        raise InputError(f"{target} exists", hint="--force overwrites it, or name another file")
    catalog = catalog_here(settings, os.environ)
    ollama = None if refs else _ollama()
    if refs:
        picks = named([find_model(catalog, ref) for ref in refs], _available())
    else:
        # What Ollama serves is not to lie in memory twice.
        tags = ollama.tags if ollama else ()
        others = [m for m in catalog.models if m.source != "ollama" or m.ref not in tags]
        picks = chosen(others, _available())
    if not picks and ollama is None:
        raise OrchestrateError("no models found", hint=no_models_hint(settings, os.environ))
    where = os.path.abspath(target if target != "-" else "profile.yaml")
    folder = os.path.dirname(where)
    ports = _free_ports(len(picks))
    # What there is only one of is at an address of its own already.
    several = len(picks) + (ollama is not None) > 1
    gateway = _free_port(GATEWAY_PORT, {*ports, ollama.port if ollama else 0}) if several else None
    text = render(picks, ports, catalog, folder, ollama=ollama, gateway=gateway)
    _validate(text, where, settings)
    if target == "-":
        click.echo(text, nl=False)
        return
    _write(target, text, force=force)
    _say_what_next(target, picks, ollama, gateway, settings)


def _ollama() -> OllamaPick | None:
    """The server that answers, else one of our own with the models of this user's store."""
    from orchestrator.cli.ollama_here import own_store, stored_tags, usual
    from orchestrator.runtime.binaries import OLLAMA_VARIABLE, find_ollama

    seen = usual(os.environ)
    if seen.server is not None:
        return OllamaPick(seen.port, seen.server.tags)
    try:
        find_ollama(explicit=None, env=os.environ)
    except InputError:
        if os.environ.get(OLLAMA_VARIABLE):
            raise
        return None
    port = seen.port if seen.holder is None else _free_ports(1, after=seen.port)[0]
    return OllamaPick(port, stored_tags(own_store(os.environ)))


def _available() -> int:
    import psutil

    return psutil.virtual_memory().available


def _free_ports(count: int, *, after: int = FIRST_PORT - 1) -> list[int]:
    ports: list[int] = []
    for _ in range(count):
        after = _free_port(after + 1, ())
        ports.append(after)
    return ports


def _free_port(first: int, others: Collection[int]) -> int:
    """The first port from there that nobody listens on, and that is none of `others`."""
    from orchestrator.runtime.ports import listeners

    taken = {one.port for one in listeners()}
    return next(port for port in range(first, 65536) if port not in taken and port not in others)


def _validate(text: str, file: str, settings: Settings) -> None:
    """As `validate` would. Raises `InputError` for what only this machine can mend."""
    from orchestrator.cli.check import machine_here
    from orchestrator.control.reading import Reading
    from orchestrator.control.resolution import resolve_readings
    from orchestrator.runtime.state import AppliedSource
    from orchestrator.settings import captured

    source = AppliedSource(file, False, captured(os.environ, ()), os.getcwd())
    reading = Reading(file, source, text.encode(errors="surrogateescape"))
    # Whether it fits is asked by what chose the models; what was named is to be tried.
    machine = replace(machine_here(settings), forced=True)
    problems = resolve_readings([reading], machine).problems
    if problems:
        first = problems[0]
        raise InputError(first.message, hint=first.hint or "orchestrate doctor")


def _write(target: str, text: str, *, force: bool) -> None:
    write_text(target, text)
    schema = os.path.join(os.path.dirname(target), SCHEMA)
    if force or not os.path.exists(schema):
        write_text(schema, schema_text())


def _say_what_next(
    target: str,
    picks: Iterable[Pick],
    ollama: OllamaPick | None,
    gateway: int | None,
    settings: Settings,
) -> None:
    said = [f"{pick.name} ({pick.model.ref})" for pick in picks]
    if ollama is not None:
        said.append(f"ollama ({counted(min(len(ollama.tags), FEW), 'model')})")
    before = f", and a gateway to them at port {gateway}" if gateway is not None else ""
    click.echo(f"wrote {os.path.relpath(target)}: {inert(', '.join(said))}{before}")
    click.echo(f"next: orchestrate apply {_word_for(target, settings)}")


def _word_for(target: str, settings: Settings) -> str:
    folder, name = os.path.split(os.path.abspath(target))
    stem, ending = os.path.splitext(name)
    if folder == settings.profiles_dir and ending in (".yaml", ".yml"):
        return stem
    return os.path.relpath(target)
