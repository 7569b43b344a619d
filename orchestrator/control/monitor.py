"""Watches one process: is it ready, does it stay well, how did it end. Posts what it sees.

It never acts. A process that hangs is condemned, by an event; the plan then stops it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable
from typing import Any
from zlib import crc32

from msgspec import Struct, field
from msgspec.structs import replace

from orchestrator.control.bus import Bus
from orchestrator.control.evidence import gather, levels, marks_of
from orchestrator.control.health import HEALTHY, Silence, health
from orchestrator.control.inference import InferenceProbe, Reports
from orchestrator.core.cause import Cause, Evidence, condemned, judge
from orchestrator.core.event import Event, EventType
from orchestrator.core.spec import InstanceSpec
from orchestrator.runtime import ports
from orchestrator.runtime.beat import on_beat
from orchestrator.runtime.identity import boot_clock, read_stat
from orchestrator.runtime.logs import Logs, last_lines
from orchestrator.runtime.oom import OomWatch
from orchestrator.runtime.probe import HttpProbe
from orchestrator.runtime.process import Exit, Process, signal_name
from orchestrator.runtime.socket_table import Listener

FIRST_POLL, LAST_POLL = 0.010, 0.050
"""Seconds between questions while loading: quick at first, then sparing."""

LINES_READ, LINES_SHOWN = 400, 8
"""Of its log: what is searched for the cause of its end, and what the event has of it."""

EVIDENCE_WITHIN = 3.0
"""Seconds that looking for the cause may take."""

LOADING_PROBE_TIMEOUT = 2.0
PROGRESS_EVERY = 0.5


class Watched(Struct):
    """Which run of which instance. `spec` is asked anew each time: live fields may change, and so
    may `name`, when a successor takes over."""

    name: str
    start_id: str
    process: Process
    began_at: float
    spec_of: Callable[[str], InstanceSpec]
    memory: OomWatch
    was_ready: bool = False
    """It was ready when an earlier daemon last saw it: it is not loading, whatever it says now."""
    was_unready: bool = False
    """It was not well then: that it is again has to be said."""
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once it serves, and the socket is its own."""
    retuned: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when live fields have changed: what waits by the old ones looks again."""
    condemned: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once it was found to hang, or not to come up."""

    def spec(self) -> InstanceSpec:
        """What is in force."""
        return self.spec_of(self.name)


async def watch(watched: Watched, *, bus: Bus, logs: Logs) -> Exit:
    """Until the process has ended, group and all. The last thing posted is `exited`."""
    # Before the engine has read much of it: what changes from now on has changed meanwhile.
    began = asyncio.create_task(asyncio.to_thread(marks_of, watched.spec()))
    probing = asyncio.create_task(_probe(watched, bus, logs), name=f"probe {watched.name}")
    try:
        status = await _ended(watched, bus)
    except BaseException:
        began.cancel()
        raise
    finally:
        probing.cancel()
        await asyncio.gather(probing, return_exceptions=True)
    lines = _said(watched, bus, logs)
    cause, hangs_on = await _why(watched, status, lines, began, bus)
    # Of what was condemned it is known why it had to end; how it took that says no more.
    had_to = watched.condemned.is_set()
    data = {
        "start_id": watched.start_id,
        "ended": str(status),
        "exit_code": status.code,
        "signal": status.signal,
        "log": lines[-LINES_SHOWN:],
        "permanent": cause.permanent and not had_to,
        "waits": cause.waits and not had_to,
        "hint": cause.hint,
        "hangs_on": hangs_on,
    }
    bus.post(Event(EventType.EXITED, watched.name, cause.reason, cause.told, data))
    return status


async def _ended(watched: Watched, bus: Bus) -> Exit:
    """How it ended, once all of its group is gone."""
    told = False
    while True:
        try:
            return await watched.process.ended()
        except Exception as error:  # noqa: BLE001 - a scarcity that passes must not hide an end
            if not told:
                bus.post(Event(EventType.BUG, watched.name, message=f"end its group: {error!r}"))
            told = True
            await asyncio.sleep(PROGRESS_EVERY)


def _said(watched: Watched, bus: Bus, logs: Logs) -> list[str]:
    """The end of its log; nothing where that cannot be read."""
    try:
        return last_lines(logs, watched.name, LINES_READ)
    except Exception as error:  # noqa: BLE001 - its end has to be told whatever happens
        bus.post(Event(EventType.BUG, watched.name, message=f"read its log: {error!r}"))
        return []


async def _why(
    watched: Watched,
    ended: Exit,
    lines: list[str],
    began: asyncio.Task[dict[str, str]],
    bus: Bus,
) -> tuple[Cause, dict[str, Any]]:
    """The cause of its end, and what another try hangs on. Never fails: the end has to be told."""
    spec, memory = watched.spec(), watched.memory
    was_ready = watched.was_ready or watched.ready.is_set()
    if watched.process.told_to_end and not watched.condemned.is_set():
        # That is the cause. What comes next need not wait for a look at what else there may be.
        began.cancel()
        return Cause("exited", str(ended)), {}

    def look(marks: dict[str, str]) -> tuple[Cause, dict[str, Any]]:
        evidence = gather(spec, ended, lines=lines, was_ready=was_ready, memory=memory, began=marks)
        cause = judge(evidence)
        return cause, levels(spec, cause, groups=memory.groups, began=marks)

    try:
        # A network mount that hangs must not hide that the process is gone.
        async with asyncio.timeout(EVIDENCE_WITHIN):
            return await asyncio.to_thread(look, await began)
    except TimeoutError:
        pass
    except Exception as error:  # noqa: BLE001 - its end has to be told whatever happens
        bus.post(Event(EventType.BUG, watched.name, message=f"look for the cause: {error!r}"))
    signal = signal_name(ended.signal) if ended.signal is not None else ""
    bare = judge(Evidence(str(ended), ended.code, signal, tuple(lines), was_ready))
    # What nobody knows how to look after has to be tried again.
    return replace(bare, permanent=False), {}


async def _probe(watched: Watched, bus: Bus, logs: Logs) -> None:
    spec = watched.spec()
    probe = HttpProbe(spec.endpoint, spec.readiness.path)
    try:
        if watched.was_ready or await _becomes_ready(watched, probe, bus, logs):
            watched.ready.set()
            # Kept while it was asked every few milliseconds; now it would only hold up the end of
            # the engine, which first waits 0.1 s for the next question.
            await probe.close()
            await _stays_alive(watched, probe, bus, logs)
    except Exception as error:  # noqa: BLE001 - a task boundary: the bug becomes an event
        bus.post(Event(EventType.BUG, watched.name, message=f"probe: {error!r}"))
    finally:
        await probe.close()


async def _becomes_ready(watched: Watched, probe: HttpProbe, bus: Bus, logs: Logs) -> bool:
    """Poll until it serves and the socket is its own; condemn it when it makes no progress."""
    pause = FIRST_POLL
    endpoint = watched.spec().endpoint
    progress = _Progress(watched)
    while True:
        readiness = watched.spec().readiness
        status = await probe.status(within=min(LOADING_PROBE_TIMEOUT, readiness.timeout))
        if status in HEALTHY:
            strangers = _others_on_port(watched)
            if strangers is None:
                took = boot_clock() - watched.began_at
                bus.post(_event(watched, EventType.READY, data={"ready_after_s": round(took, 3)}))
                return True
            if strangers != progress.strangers:
                progress.strangers = strangers
                progress.note = await asyncio.to_thread(_who_answers, endpoint.port, strangers)
        verdict = progress.verdict(readiness.timeout, readiness.deadline)
        if verdict:
            _condemn(
                watched,
                condemned(reason="timeout", verdict=verdict, lines=_tail(watched, logs)),
                bus,
            )
            return False
        if progress.changed_note:
            bus.post(_event(watched, EventType.PROGRESS, message=progress.take_note()))
        await asyncio.sleep(pause)
        pause = min(pause * 1.3, LAST_POLL)


def _others_on_port(watched: Watched) -> list[Listener] | None:
    """Whose else the port is; None when every listener belongs to the group that we started."""
    endpoint = watched.spec().endpoint
    sockets = ports.conflicting(endpoint.connect_host, endpoint.port, ports.listeners())
    if ports.all_owned_by(watched.process.ref, sockets):
        return None
    return [s for s in sockets if not ports.all_owned_by(watched.process.ref, [s])]


def _who_answers(port: int, others: list[Listener]) -> str:
    """For people. Walks the process table, so not for the event loop."""
    who = ports.holder(others[0]) if others else "nobody that is visible"
    return f"port {port} is answered by {who}, not by this instance"


class _Progress:
    """Notices whether a loading process still does something, and tells how far it is."""

    def __init__(self, watched: Watched) -> None:
        self._watched = watched
        self._began = self._moved = self._looked = time.monotonic()
        self._last: tuple[int, ...] = ()
        self._told = ""
        self.note = ""
        self.strangers: list[Listener] | None = None
        """Who else listened when the note was made."""

    def verdict(self, timeout: float, deadline: float) -> str:
        """Why to give up on it, or an empty string."""
        now = time.monotonic()
        self._watched.memory.look()
        if now - self._looked >= min(PROGRESS_EVERY, timeout / 4):
            self._looked = now
            self._look(now)
        if now - self._began >= deadline:
            return f"not ready within {deadline:g} s" + (f": {self.note}" if self.note else "")
        if now - self._moved >= timeout:
            return f"not ready, and no progress for {timeout:g} s" + (
                f": {self.note}" if self.note else ""
            )
        return ""

    def _look(self, now: float) -> None:
        pid = self._watched.process.ref.pid
        stat = read_stat(pid)
        read = _bytes_read(pid)
        seen = (stat.cpu_ticks, stat.rss_pages, read) if stat else ()
        if seen != self._last:
            self._last, self._moved = seen, now
            if stat and not self.note.startswith("port "):
                memory = stat.rss_pages * os.sysconf("SC_PAGE_SIZE") / 2**20
                self.note = f"loading: {memory:,.0f} MiB in memory after {now - self._began:.0f} s"

    @property
    def changed_note(self) -> bool:
        return self.note != self._told

    def take_note(self) -> str:
        self._told = self.note
        return self.note


def _bytes_read(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/io", "rb") as file:
            return int(file.readline().split()[1])
    except (OSError, ValueError, IndexError):
        return 0


async def _stays_alive(watched: Watched, probe: HttpProbe, bus: Bus, logs: Logs) -> None:
    """Probe at intervals; `failures` in a row condemn it."""
    failed = 1 if watched.was_unready else 0
    # Dozens that became ready together are not to be asked together for ever.
    spread = crc32(watched.start_id.encode()) / 2**32
    # Of one that is adopted nothing is known yet: it is asked soon.
    soon = min(1.0 / watched.spec().liveness.interval, 1.0)
    share = soon * spread if watched.was_ready else 0.5 + spread / 2
    await _until_due(watched, share)
    inference = InferenceProbe(watched.spec, lambda: watched.process.ref.pid)
    reports = Reports(watched.name, watched.start_id, bus)
    silence = Silence()
    while True:
        if inference.wanted:
            verdict, seconds = await inference.look()
            reports.post(verdict, seconds)
            silence = Silence()
        else:
            verdict = await health(probe, watched.spec(), watched.process.ref.pid, silence)
            reports.forget()
        # An edit may have come while it was asked.
        liveness = watched.spec().liveness
        if verdict.kind != "down":
            if failed:
                bus.post(_event(watched, EventType.READY))
            failed = 0
        else:
            failed = failed + 1 if verdict.counts else max(failed, 1)
            message = f"health check: {verdict.message} ({failed} of {liveness.failures})"
            bus.post(_event(watched, EventType.UNREADY, reason="unhealthy", message=message))
            if failed >= liveness.failures:
                _condemn(
                    watched,
                    condemned(reason="hung", verdict=message, lines=_tail(watched, logs)),
                    bus,
                )
                return
        await _until_due(watched)


async def _until_due(watched: Watched, share: float = 1.0) -> None:
    """Until that share of the interval has passed, of the one that is declared by then; to the
    beat, so that dozens of instances do not wake the daemon each for itself."""
    began = time.monotonic()

    def due() -> float:
        interval = watched.spec().liveness.interval
        return on_beat(began + share * interval, tolerance=interval / 8)

    while (left := due() - time.monotonic()) > 0:
        watched.retuned.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(left):
                await watched.retuned.wait()


def _condemn(watched: Watched, cause: Cause, bus: Bus) -> None:
    watched.condemned.set()
    data: dict[str, object] = {"hint": cause.hint}
    bus.post(
        _event(watched, EventType.CONDEMNED, reason=cause.reason, message=cause.told, data=data)
    )


def _tail(watched: Watched, logs: Logs) -> list[str]:
    return last_lines(logs, watched.name, LINES_SHOWN)


def _event(
    watched: Watched,
    kind: EventType,
    *,
    reason: str = "",
    message: str = "",
    data: dict[str, object] | None = None,
) -> Event:
    return Event(
        kind,
        watched.name,
        reason=reason,
        message=message,
        data={"start_id": watched.start_id, **(data or {})},
    )
