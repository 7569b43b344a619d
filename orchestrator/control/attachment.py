"""A server that somebody else runs at an instance's address: found, used, watched, never signalled.

It is looked for before a start of our own. As long as it answers it is ready; when it goes away,
`attach: auto` gives it a while to return (a service that restarts keeps its port) and then lets
go, so that the plan starts a server of our own; `attach: only` waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import Callable
from typing import Any

from msgspec import Struct, field

from orchestrator.control.bus import Bus
from orchestrator.control.inference import report
from orchestrator.core.drift import own_settings
from orchestrator.core.event import Event, EventType
from orchestrator.core.spec import Endpoint, InstanceSpec
from orchestrator.core.status import AttachedTo
from orchestrator.errors import StartError
from orchestrator.runtime import ports
from orchestrator.runtime.identity import boot_clock, boot_id, read_stat
from orchestrator.runtime.logs import printable
from orchestrator.runtime.probe import Answer, ask
from orchestrator.runtime.process import readable
from orchestrator.runtime.socket_table import Listener

VERSION_PATH = "/api/version"

FIRST_ANSWER = 2.0
"""Seconds within which a server must answer to be attached to."""

RETURNS_WITHIN = 10.0
"""Seconds that a server may be away before one of our own takes its place."""

LOOK_AGAIN = 1.0
"""Seconds between two looks at an address where nobody answers as an Ollama does."""

_WILDCARDS = ("0.0.0.0", "::")


async def find(
    endpoint: Endpoint, *, within: float, known: AttachedTo | None = None
) -> AttachedTo | None:
    """The healthy Ollama that answers there, and whose it is; None when there is none.

    `known` is who it was when it was last looked at: that is quickly seen to be so still.
    """
    version = _version_in(await _asked(endpoint, within))
    return None if version is None else await _of_version(endpoint, version, known)


async def _of_version(endpoint: Endpoint, version: str, known: AttachedTo | None) -> AttachedTo:
    """Whose the Ollama is that answered there just now."""
    taken = _listening(endpoint)
    if not taken:
        # Somewhere else than on this machine, or behind a port that the kernel passes on.
        return AttachedTo(None, "", version, boot_id=boot_id())
    # Whoever listens on the very address gets the connection, not who listens on all of them.
    pid, owner = await _holder(min(taken, key=lambda one: one.host in _WILDCARDS), known)
    stat = read_stat(pid) if pid is not None else None
    return AttachedTo(pid, owner, version, stat.start_ticks if stat else None, boot_id())


def is_same(server: AttachedTo, known: AttachedTo) -> bool:
    """Whether it is the one that an earlier daemon knew, as far as that can be seen."""
    if server.boot_id != known.boot_id:
        return False
    if server.pid is None:
        return known.pid is None and (server.owner, server.version) == (known.owner, known.version)
    return (server.pid, server.start_ticks) == (known.pid, known.start_ticks)


async def _asked(endpoint: Endpoint, within: float) -> Answer | None:
    return await ask(endpoint, "GET", VERSION_PATH, within=within)


def _version_in(answer: Answer | None) -> str | None:
    """What an Ollama says; None where it is none, or is not well."""
    if answer is None or answer.status != 200:
        return None
    try:
        said: Any = json.loads(answer.body)
        version = said["version"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return printable(version)[:40] or None if isinstance(version, str) else None


async def _holder(listener: Listener, known: AttachedTo | None) -> tuple[int | None, str]:
    if (
        known is not None
        and known.pid is not None
        and listener.inode in ports.socket_inodes(known.pid)
    ):
        return known.pid, known.owner
    # In a thread: it walks the whole process table.
    holder = await asyncio.to_thread(ports.holder, listener)
    return holder.pid, holder.owner


def _listening(endpoint: Endpoint) -> list[Listener]:
    return ports.conflicting(endpoint.connect_host, endpoint.port, ports.listeners())


def must_be_ours(spec: InstanceSpec) -> None:
    """Raises `StartError` when a server of our own may not be, or cannot be, started there."""
    where = spec.endpoint.authority
    if spec.attach == "only":
        raise StartError(
            f"no Ollama answers at {where}",
            reason="nothing-to-attach",
            permanent=False,
            hint="start it, or write `attach: auto` to have one started when there is none",
        )
    if not spec.command.argv:
        raise StartError(
            f"no Ollama answers at {where}, and no ollama was found that could be started",
            reason="binary-missing",
            permanent=False,
            hint="start it; or install it, or name it in ORCHESTRATE_OLLAMA, then apply again",
        )


def described(server: AttachedTo, spec: InstanceSpec) -> str:
    """For people: whose server it is, and what of the profile it therefore does not heed."""
    text = f"attached to {_who(server)} (Ollama {server.version})"
    ignored = ignored_settings(spec)
    return f"{text}; its settings are its own: {ignored}" if ignored else text


def ignored_settings(spec: InstanceSpec) -> str:
    """What a profile says to no effect, as in `num_parallel, env.X are ignored`; may be empty."""
    names = own_settings(spec)
    return f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} ignored" if names else ""


def _who(server: AttachedTo) -> str:
    if server.pid is not None:
        return f"pid {server.pid} of {server.owner}"
    whose = f"a server of {server.owner}" if server.owner else "a server"
    return f"{whose} that is not visible from here"


class Attached(Struct):
    """Which run of which instance uses whose server. `spec` is asked anew each time.

    `on_return` is called when it is back, or another is in its place: what was known of its models
    may not be so any more.
    """

    name: str
    start_id: str
    spec: Callable[[], InstanceSpec]
    bus: Bus
    server: AttachedTo
    on_return: Callable[[], None] = lambda: None
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    well: bool = False
    _said: str = ""
    _unwell: str = ""
    """How it was not well when that was last said: the same again is no news."""

    def is_there(self, server: AttachedTo, *, took: float | None = None) -> None:
        """It answers: said at first, when it is back, and when something about it is new."""
        before, self.server = self.server, server
        said = described(server, self.spec())
        if self.well and said == self._said:
            return
        reason = "back" if self._said and not self.well else ""
        message = said
        if server.version != before.version:
            reason, message = "version", f"{said}; it was Ollama {before.version} before"
        self.well, self._said, self._unwell = True, said, ""
        data: dict[str, Any] = {
            "start_id": self.start_id,
            "pid": server.pid,
            "owner": server.owner,
            "version": server.version,
            "start_ticks": server.start_ticks,
            "boot_id": server.boot_id,
        }
        if took is not None:
            data["ready_after_s"] = round(took, 3)
        self.bus.post(Event(EventType.ATTACHED, self.name, reason, message, data))
        self.ready.set()
        if reason or server.pid != before.pid:
            self.on_return()

    def farewell(self) -> str:
        """For people: what becomes of it once it is let go of."""
        if not self.well:
            return f"detached: {self.spec().endpoint.authority} is not looked at any more"
        return f"detached: {_who(self.server)} goes on"

    def is_not_well(self, *, away: bool) -> None:
        """Nobody answers there as an Ollama does; `away`: nobody so much as listens."""
        spec, self.well = self.spec(), False
        before, self._unwell = self._unwell, "away" if away else "unwell"
        if self._unwell == before:
            return
        # Whoever answers next is back, though another daemon attached to it.
        self._said = self._said or described(self.server, spec)
        where = spec.endpoint.authority
        if away:
            returns = "waiting for it to return"
            if gives_up(spec):
                returns += f" for {RETURNS_WITHIN:g} s"
            reason, message = "gone", f"{_who(self.server)} no longer answers at {where}: {returns}"
        else:
            reason = "unhealthy"
            message = f"whoever listens at {where} does not answer as an Ollama does"
        data = {"start_id": self.start_id}
        self.bus.post(Event(EventType.UNREADY, self.name, reason, message, data))


async def goes_on(attached: Attached) -> bool:
    """Whether to go on with the server that an earlier daemon had attached to.

    Where it answers, all that is known of it stays true, its models included. Where nobody
    answers, a service may be on its way, as after a boot: it gets the time that one has which goes
    away under our eyes. False where somebody else's answer came.
    """
    spec = attached.spec()
    answer = await _asked(spec.endpoint, FIRST_ANSWER)
    version = _version_in(answer)
    if version is not None:
        server = await _of_version(spec.endpoint, version, attached.server)
        if not is_same(server, attached.server):
            return False
        attached.is_there(server)
        return True
    # Who says that it is not well for now (5xx) may still be what is meant, or stand before it.
    if answer is not None and answer.status < 500:
        return False
    attached.is_not_well(away=not _listening(spec.endpoint))
    return True


def gives_up(spec: InstanceSpec) -> bool:
    """Whether a server of our own takes the place of one that does not return."""
    return spec.attach == "auto" and bool(spec.command.argv)


async def watch(attached: Attached) -> str:
    """Until it is given up, which only `attach: auto` does; why, for people."""
    telling = asyncio.create_task(_tell_its_health(attached), name=f"health {attached.name}")
    try:
        return await _until_given_up(attached)
    finally:
        telling.cancel()
        await asyncio.gather(telling, return_exceptions=True)


async def _tell_its_health(attached: Attached) -> None:
    try:
        await report(
            attached.name,
            attached.start_id,
            attached.spec,
            server=lambda: attached.server.pid,
            there=lambda: attached.well,
            bus=attached.bus,
        )
    except Exception as error:  # noqa: BLE001 - a task boundary: the bug becomes an event
        attached.bus.post(Event(EventType.BUG, attached.name, message=f"health: {error!r}"))


async def _until_given_up(attached: Attached) -> str:
    away_since: float | None = None
    while True:
        await _until_the_next_look(attached)
        spec = attached.spec()
        server = await find(spec.endpoint, within=spec.liveness.timeout, known=attached.server)
        if server is not None:
            attached.is_there(server)
            away_since = None
            continue
        away = not _listening(spec.endpoint)
        away_since = (away_since or boot_clock()) if away else None
        attached.is_not_well(away=away)
        given_time = away_since is not None and boot_clock() - away_since >= RETURNS_WITHIN
        if given_time and gives_up(spec):
            return f"nobody answers at {spec.endpoint.authority} any more"


async def _until_the_next_look(attached: Attached) -> None:
    """Until its process ends, or it is time to ask again."""
    if not attached.well:
        await asyncio.sleep(LOOK_AGAIN)
        return
    interval = attached.spec().liveness.interval
    try:
        # Somebody else's process can be waited for, too, where it is visible.
        pidfd = os.pidfd_open(attached.server.pid or -1)
    except OSError:
        pid_is_known = attached.server.pid is not None
        await asyncio.sleep(min(interval, LOOK_AGAIN) if pid_is_known else interval)
        return
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(interval):
                await readable(pidfd)
    finally:
        os.close(pidfd)
