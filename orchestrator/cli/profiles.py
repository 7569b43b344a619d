"""`profiles` and `schema`: which profiles there are, and what one may say."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click
from msgspec import Struct

from orchestrator.cli.options import json_option
from orchestrator.cli.render import inert, print_json
from orchestrator.cli.sources import SUFFIXES, applied_sources
from orchestrator.cli.tables import counted, table
from orchestrator.errors import InputError
from orchestrator.settings import Settings

if TYPE_CHECKING:
    from orchestrator.core.parse import LoadedProfile

HEAD = ("PROFILE", "ACTIVE", "INSTANCES", "VALID", "FILE", "DESCRIPTION, OR FIRST ERROR")


@click.command("profiles", epilog="Examples: orchestrate profiles | orchestrate profiles --json")
@json_option
def profiles_command(as_json: bool) -> None:
    """List the profiles found: which are applied, and which are valid.

    Looks into ORCHESTRATE_PROFILES (./profiles), and adds what is applied from elsewhere.
    """
    settings = Settings.from_env(os.environ)
    rows = profile_rows(settings)
    if as_json:
        print_json({"profiles": rows})
        return
    if not rows:
        click.echo(f"no profiles in {settings.profiles_dir}", err=True)
        click.echo("hint: `orchestrate init` writes a first one", err=True)
        return
    for line in table(HEAD, [_cells(row) for row in rows]):
        click.echo(line)


@click.command("schema", epilog="Example: orchestrate schema --out profiles/profile.schema.json")
@click.option("--out", type=click.Path(dir_okay=False), help="Write to this file instead.")
def schema_command(out: str | None) -> None:
    """Print the JSON Schema of a profile, for editors.

    A profile's first line names it:
    `# yaml-language-server: $schema=./profile.schema.json`
    """
    text = schema_text()
    if out is None:
        click.echo(text, nl=False)
    else:
        write_text(out, text)
        click.echo(f"wrote {out}")


def schema_text() -> str:
    """The schema as it is written to a file."""
    from orchestrator.core.schema import profile_schema

    return json.dumps(profile_schema(), indent=2) + "\n"


def write_text(path: str, text: str) -> None:
    """Write a whole file, and its folder when that is missing. Raises `InputError`."""
    try:
        os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from error


def profile_rows(settings: Settings) -> list[dict[str, Any]]:
    """Every profile, as in `profiles --json`.

    Of an applied one the daemon's judgement counts: it has the variables of the shell that
    applied it.
    """
    from orchestrator.cli.status import fetch

    status = fetch(settings)
    applied = {one["file"]: one for one in status["profiles"]}
    judged = applied if status["daemon"] is not None else {}
    rows: list[dict[str, Any]] = []
    for file in [*_found(settings), *(file for file in applied if file not in _found(settings))]:
        loaded = load(file, settings, os.environ)
        errors = judged[file]["errors"] if file in judged else _errors(file, settings)
        rows.append(
            {
                "name": loaded.name if loaded else os.path.splitext(os.path.basename(file))[0],
                "file": file,
                "active": file in applied,
                "ok": not errors,
                "errors": errors,
                "description": (loaded.config.description if loaded else None) or "",
                "instances": list(loaded.config.instances) if loaded else [],
                "gateway": loaded is not None and loaded.config.gateway is not None,
            }
        )
    return rows


def _errors(file: str, settings: Settings) -> list[dict[str, Any]]:
    """What `validate` says of one file, for itself."""
    from orchestrator.cli.check import resolve_here
    from orchestrator.core.problem import Place, Problem

    if not os.path.isfile(file):
        return [Problem("the file does not exist", Place(file, 1, 1)).as_json()]
    return [problem.as_json() for problem in resolve_here([file], settings, force=True).problems]


def profile_files(settings: Settings) -> list[str]:
    """The files in the profiles folder, then those that were applied from elsewhere."""
    from orchestrator.runtime.state import Store

    files = _found(settings)
    store = Store.open_to_read(settings.store_path)
    applied = store.applied() if store is not None else None
    if store is not None:
        store.close()
    if applied is not None:
        files += [one.file for one in applied.files if one.file not in files]
    return files


def load(file: str, settings: Settings, env: Mapping[str, str]) -> LoadedProfile | None:
    """A profile as this shell reads it; None when it is not valid in itself, or not there."""
    from orchestrator.control.reading import read_files
    from orchestrator.core.parse import parse_profile

    if not os.path.isfile(file):
        return None
    reading = read_files(applied_sources([file], settings, env))[0]
    if reading.data is None:
        return None
    return parse_profile(reading.data, file=file, env=reading.source.env).profile


class NamedFolders(Struct, frozen=True):
    """Folders with models that profiles name, absolute: by `catalog.dirs`, and as the stores of
    their Ollama instances."""

    dirs: tuple[str, ...]
    stores: tuple[str, ...]


def named_folders(settings: Settings, env: Mapping[str, str]) -> NamedFolders:
    """What the profiles found, and those applied, name."""
    from orchestrator.core.promise import Promises

    dirs: dict[str, None] = {}
    promises = Promises()
    home = env.get("HOME") or os.path.expanduser("~")
    for file in profile_files(settings):
        loaded = load(file, settings, env) if _mentions_folders(file) else None
        if loaded is None:
            continue
        for folder in loaded.config.catalog.dirs:
            whole = os.path.join(os.path.dirname(file), os.path.expanduser(folder))
            dirs[os.path.normpath(whole)] = None
        promises = promises.and_of(loaded.config, loaded.folder, home)
    return NamedFolders(tuple(dirs), promises.stores)


def _mentions_folders(file: str) -> bool:
    """Cheap, so that only profiles that can matter are parsed."""
    if not os.path.isfile(file):
        return False
    try:
        with open(file, "rb") as opened:
            text = opened.read(1 << 20)
    except OSError:
        return False
    return b"catalog" in text or (b"ollama" in text and b"settings" in text)


def _found(settings: Settings) -> list[str]:
    """The profile files of the profiles folder; none when there is no such folder."""
    try:
        names = sorted(os.listdir(settings.profiles_dir))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        message = f"{settings.profiles_dir} cannot be read: {error.strerror}"
        raise InputError(message, hint="name another with ORCHESTRATE_PROFILES") from error
    return [
        os.path.join(settings.profiles_dir, name)
        for name in names
        if name.endswith(SUFFIXES) and not name.startswith(".")
    ]


def _cells(row: Mapping[str, Any]) -> list[str]:
    count = len(row["errors"])
    first = f"line {row['errors'][0]['line']}: {row['errors'][0]['message']}" if count else ""
    return [
        inert(row["name"]),
        "yes" if row["active"] else "-",
        _kept(row) if row["instances"] or not count else "-",
        f"no: {counted(count, 'error')}" if count else "yes",
        inert(os.path.relpath(str(row["file"]))),
        inert(first or row["description"]),
    ]


def _kept(row: Mapping[str, Any]) -> str:
    return str(len(row["instances"])) + " + gateway" * bool(row["gateway"])
