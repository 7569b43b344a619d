"""A start, up to the moment from which a process is watched: what must be so before, the process
itself, and what is told of it where it comes to nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Generator, Mapping
from typing import Any

from msgspec import Struct

from orchestrator.control import monitor
from orchestrator.control.evidence import levels
from orchestrator.core.cause import Cause
from orchestrator.core.event import Event, EventType
from orchestrator.core.spec import InstanceSpec
from orchestrator.errors import StartError
from orchestrator.runtime import descriptors, ports, process
from orchestrator.runtime.hard_limits import HardLimits
from orchestrator.runtime.identity import OWNER_VARIABLE, boot_clock
from orchestrator.runtime.logs import Logs
from orchestrator.runtime.process import Process

PORT_WAIT = 0.3
"""Seconds that a port may still look taken after its holder has gone."""

WAITS = frozenset({"port-taken", "log-unwritable", "nothing-to-attach", "too-many-files"})
"""Reasons that pass by themselves, and are no fault of the instance: looked at again and again."""


class Starter(Struct, frozen=True):
    """What every process is begun with."""

    logs: Logs
    inherited: Mapping[str, str]
    owner: str
    hard_limits: HardLimits

    def spawn(self, spec: InstanceSpec, start_id: str, log: int) -> Process:
        """Begin it, marked as ours, in a control group of its own where it has a hard limit.

        Raises `StartError`, and whatever else kept it from being begun: nothing is left of it then.
        """
        mark = (OWNER_VARIABLE, f"{self.owner}/{spec.name}/{start_id}")
        group = self.hard_limits.begin(spec.name, start_id, spec.limits.memory_max)
        try:
            return process.spawn(
                spec.command, inherited=self.inherited, owner=mark, log=log, group=group
            )
        except BaseException:
            self.hard_limits.end(group)
            raise

    @contextlib.contextmanager
    def log_of(self, name: str) -> Generator[int]:
        """The descriptor of a log that was just begun. Raises `StartError`."""
        try:
            log = self.logs.begin(name)
        except OSError as error:
            raise StartError(
                f"{self.logs.path(name)} cannot be written: {error.strerror}",
                reason="log-unwritable",
                permanent=False,
                hint="free some space, or mend the folder's permissions",
            ) from error
        try:
            yield log
        finally:
            os.close(log)


async def port_is_free(spec: InstanceSpec) -> None:
    """Raises `StartError` naming who holds the port."""
    host, port = spec.endpoint.host, spec.endpoint.port
    until = boot_clock() + PORT_WAIT
    while taken := ports.conflicting(host, port, ports.listeners()):
        if boot_clock() >= until:
            # In a thread: it walks the whole process table.
            holder = await asyncio.to_thread(ports.holder, taken[0])
            raise StartError(
                f"port {port} is taken by {holder}",
                reason="port-taken",
                permanent=False,
                hint="stop it, or give this instance another port, or `port: auto`",
            )
        await asyncio.sleep(0.005)


def can_be_watched(watched: int) -> None:
    """Raises `StartError` while there are too few descriptors for one more than are `watched`."""
    if descriptors.are_scarce(watched):
        raise StartError(
            f"too many files are open: the limit of the daemon is {descriptors.limit()}",
            reason="too-many-files",
            permanent=False,
            hint="raise it (ulimit -n, LimitNOFILE), then `orchestrate daemon restart`",
        )


async def start_failed(spec: InstanceSpec, start_id: str, error: StartError) -> Event:
    """What is told of a start that came to nothing, with what it hangs on."""
    cause = Cause(error.reason, error.message, error.hint, error.permanent)
    # Where there is no program, only somebody's server can come of a start: that is waited for.
    waits = error.reason in WAITS or not spec.command.argv
    hangs_on: dict[str, Any] = {}
    if not waits:
        # A network mount that hangs must not hide that it has failed.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(monitor.EVIDENCE_WITHIN):
                hangs_on = await asyncio.to_thread(levels, spec, cause)
    data = {
        "start_id": start_id,
        # What nobody knows how to look after has to be tried again.
        "permanent": error.permanent and bool(hangs_on),
        "waits": waits,
        "hint": error.hint,
        "hangs_on": hangs_on,
    }
    return Event(EventType.START_FAILED, spec.name, cause.reason, cause.told, data)
