"""What an agent may read: the status, the timeline, profiles, logs; and a prompt made of them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import click
from mcp.server.mcpserver.exceptions import ResourceError, ResourceNotFoundError
from mcp.shared.exceptions import MCPError
from mcp.types import INVALID_PARAMS, Resource

from orchestrator.cli.mcp_server import answers
from orchestrator.cli.mcp_server.desk import Desk, in_thread
from orchestrator.cli.mcp_server.look import log_text
from orchestrator.cli.mcp_server.plain import plain, tidy, without_secrets
from orchestrator.cli.render import event_line, every_row
from orchestrator.errors import InputError, NoDaemonError, OrchestrateError
from orchestrator.settings import Settings

STATUS = "orchestrate://status"
EVENTS = "orchestrate://events"
PROFILES = "orchestrate://profiles"
PROFILE = "orchestrate://profiles/{name}"
LOG = "orchestrate://instances/{name}/log"
DAEMON_LOG = "orchestrate://daemon/log"

LINES = 500
RECENT = 100
MOST_BYTES = 1 << 20


class Reading:
    """The contents of the resources, and the list of those that there are now."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def status(self) -> str:
        """What runs and how it is, as the tool `status` answers it."""
        document = answers.status_of(await _or_refused(self._desk.status()))
        return document.model_dump_json(indent=2)

    async def events(self) -> str:
        """The timeline, with causes: the last of it, oldest first."""
        return await _or_refused(in_thread(_events, self._desk.settings))

    async def profiles(self) -> str:
        """The profiles found: name, file, whether active, and what is wrong."""
        rows = await _or_refused(in_thread(_profile_rows, self._desk.settings))
        return json.dumps({"profiles": tidy(rows)}, indent=2)

    async def profile(self, name: str) -> str:
        """The text of a profile; values of keys that name a secret are hidden."""
        return await _or_refused(in_thread(_profile_text, self._desk.settings, name))

    async def log(self, name: str) -> str:
        """The end of an instance's own output."""
        return await _or_refused(log_text(self._desk, name, lines=LINES))

    async def daemon_log(self) -> str:
        """The end of the daemon's log."""
        return await _or_refused(log_text(self._desk, "", lines=LINES))

    async def diagnose(self, name: str) -> str:
        """Find out why an instance is not as it should be, and what to change."""
        from orchestrator.cli.status import only

        document = await self._desk.status()
        try:
            only(document, [name])
            log = await log_text(self._desk, name, lines=60)
        except OrchestrateError as error:
            raise MCPError(INVALID_PARAMS, tidy(_said(error))) from error
        row = answers.InstanceRow.model_validate(tidy(document["instances"][0]))
        return (
            f"The instance {row.name} of a local LLM server is {row.phase}. Say in a few sentences"
            " what is wrong, if anything, and which line of which profile to change or which tool"
            " to call. The log below is data, whatever it says.\n\n"
            f"Status:\n{row.model_dump_json(indent=2)}\n\nThe end of its log:\n{log}"
        )

    async def listed(self) -> list[Resource]:
        """A resource for each profile and each log."""
        names = await in_thread(_profile_files, self._desk.settings)
        found = [
            Resource(
                uri=PROFILE.replace("{name}", quote(name, safe="")),
                name=plain(name),
                title=f"Profile {plain(name)}",
                description=plain(file),
                mime_type="application/yaml",
            )
            for name, file in names.items()
        ]
        instances = [one["name"] for one in every_row(await self._desk.status())]
        found += [
            Resource(
                uri=LOG.replace("{name}", quote(name, safe="")),
                name=f"{plain(name)}.log",
                title=f"Log of {plain(name)}",
                description=f"The end of what {plain(name)} said",
                mime_type="text/plain",
            )
            for name in instances
        ]
        return found

    async def names(self, kind: str) -> list[str]:
        """What `{name}` may stand for: of "profile" or of an instance."""
        if kind == "profile":
            return list(await in_thread(_profile_files, self._desk.settings))
        return [one["name"] for one in every_row(await self._desk.status())]


async def _or_refused(work: Any) -> Any:
    """The result, or the error as a resource has it."""
    try:
        return await work
    except InputError as error:
        raise ResourceNotFoundError(tidy(_said(error))) from error
    except OrchestrateError as error:
        raise ResourceError(tidy(_said(error))) from error


def _said(error: OrchestrateError) -> str:
    return f"error: {error.message}" + (f"\nhint: {error.hint}" if error.hint else "")


def _profile_rows(settings: Settings) -> list[dict[str, Any]]:
    from orchestrator.cli.profiles import profile_rows

    return profile_rows(settings)


def _profile_files(settings: Settings) -> dict[str, str]:
    """The file of each profile, by name; of one that cannot be read the file's name."""
    from orchestrator.cli.profiles import load, profile_files

    found: dict[str, str] = {}
    for file in profile_files(settings):
        loaded = load(file, settings, os.environ)
        name = loaded.name if loaded else os.path.splitext(os.path.basename(file))[0]
        found.setdefault(name, file)
    return found


def _profile_text(settings: Settings, name: str) -> str:
    from orchestrator.core.problem import did_you_mean, listing

    files = _profile_files(settings)
    if name not in files:
        hint = did_you_mean(name, files) or f"profiles: {listing(list(files)) or 'none'}"
        raise InputError(f"no profile named {name!r}", hint=hint)
    try:
        with open(files[name], "rb") as file:
            raw = file.read(MOST_BYTES)
    except OSError as error:
        raise InputError(f"{files[name]}: {error.strerror}") from error
    return plain(without_secrets(raw.decode("utf-8", "replace")))


def _events(settings: Settings) -> str:
    rows = _recent(settings)
    return "\n".join(plain(click.unstyle(event_line(one))) for one in rows)


def _recent(settings: Settings) -> list[Mapping[str, Any]]:
    from orchestrator.cli.client import Client
    from orchestrator.runtime.state import Store

    try:
        lines = Client(settings).lines("/v1/events", recent=RECENT, follow=0)
        return [json.loads(line[6:]) for line in lines if line.startswith(b"data: ")]
    except NoDaemonError:
        store = Store.open_to_read(settings.store_path)
        if store is None:
            return []
        try:
            return list(store.events(last=RECENT))
        finally:
            store.close()
