"""Composition root: makes the parts, wires them, runs them, ends them in the right order.

Start children first: what only serves people (API, file watching) is loaded once the first
instances are under way. However the daemon ends, instances go on unless somebody asked otherwise.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import orchestrator
from orchestrator.control import adoption, second_look
from orchestrator.control.applied import Accepted, AppliedSet, Rejected
from orchestrator.control.bus import Bus, NewDesired
from orchestrator.control.executor import Executor
from orchestrator.control.gauges import Gauges
from orchestrator.control.intents import Intents
from orchestrator.control.overview import Overview
from orchestrator.control.reconciler import Reconciler
from orchestrator.control.resolution import Machine
from orchestrator.control.toolchain import Toolchain
from orchestrator.control.workshop import Workshop
from orchestrator.core.event import Event, EventType, timestamp
from orchestrator.core.gpu import held_gpus
from orchestrator.core.promise import Promises, kept_promises
from orchestrator.core.status import ALIVE, Phase
from orchestrator.errors import OrchestrateError
from orchestrator.runtime import descriptors, lock, ports
from orchestrator.runtime.files import is_full
from orchestrator.runtime.identity import state_id
from orchestrator.runtime.logs import Logs
from orchestrator.runtime.memory_budget import MemoryBudget
from orchestrator.runtime.stall import StallWatch
from orchestrator.runtime.state import AppliedSource, Store, StoreError
from orchestrator.runtime.watch import RECHECK, Watch
from orchestrator.settings import Settings, inherited

HOUSEKEEPING = 15.0
"""Seconds between two looks at the sizes of the logs."""

FIRST_STARTS = 0.5
"""Seconds at most that loading the API waits for the first processes to be spawned."""


_SUPERSEDED = "superseded by a later apply: its instances run"


class AlreadyRunningError(OrchestrateError):
    """Another daemon has this state folder; `pid` is its process, where known."""

    exit_code = 2
    reason = "already-running"

    def __init__(self, pid: int | None) -> None:
        super().__init__(
            f"a daemon (pid {pid}) already runs for this state folder",
            hint="`orchestrate daemon stop` ends it, or set another ORCHESTRATE_STATE_DIR",
        )
        self.pid = pid


@dataclass(frozen=True, slots=True)
class Options:
    """How this daemon is to behave. `first` is applied before anything else is loaded."""

    first: Sequence[AppliedSource] | None = None
    add: bool = False
    force: bool = False
    stops_instances: bool = False
    """In the foreground: a signal ends the instances too."""
    has_terminal: bool = False
    """SIGHUP says that it was closed; else that the applied files are to be read again."""
    on_applied: Callable[[Accepted | Rejected], None] | None = None
    on_listening: Callable[[], None] | None = None
    on_event: Callable[[Event], None] | None = None


def run(settings: Settings, options: Options) -> None:
    """Until told to end. Raises `AlreadyRunningError`, or what the first apply could not do."""
    descriptors.raise_limit()
    stall = StallWatch()
    with asyncio.Runner(loop_factory=stall.new_loop) as runner:
        runner.run(_run(settings, options, stall))


async def _run(settings: Settings, options: Options, stall: StallWatch) -> None:
    settings.prepare()
    held = lock.acquire(settings.lock_path)
    if held is None:
        raise AlreadyRunningError(lock.holder(settings.lock_path))
    try:
        store = Store.open(settings.store_path)
        try:
            daemon = Daemon(settings, options, store)
            with stall.watching(daemon.tell_of_a_stall):
                await daemon.live()
        finally:
            store.close()
    finally:
        os.close(held)


class Daemon:
    """One life of the loop."""

    def __init__(self, settings: Settings, options: Options, store: Store) -> None:
        self._settings = settings
        self._options = options
        self._store = store
        self._ending = asyncio.Event()
        self._hung_up = asyncio.Event()
        self._stop_instances = options.stops_instances
        self._owner = state_id(settings.state_dir)
        self._logs = Logs(settings.logs_dir)
        self._bus = Bus(last_id=store.last_event_id())
        recorded = store.observed()
        self._toolchain = Toolchain(settings.cache_dir)
        self._budget = MemoryBudget(settings.memory, self._toolchain.gpu_totals)
        self._reconciler = Reconciler(
            bus=self._bus, store=store, observed=recorded, budget=self._budget.now
        )
        self._executor = Executor(
            bus=self._bus,
            logs=self._logs,
            inherited=inherited(os.environ),
            owner=self._owner,
            spec_of=self._reconciler.spec_in_force,
            rows_of=self._reconciler.models_of,
            workshop=Workshop(
                settings.cache_dir,
                lambda: self._reconciler.desired,
                lambda: self._reconciler.observed,
            ),
        )
        self._reconciler.attach(self._executor)
        self._gauges = Gauges(self._bus, self._reconciler)
        self._applied = AppliedSet(
            bus=self._bus, store=store, reconciler=self._reconciler, machine=self._machine
        )
        self._told = self._bus.subscribe()
        self._watch = Watch(lambda: self._applied.paths, lambda: self._applied.look_within)
        self._applied.on_change = self._watch.look_again
        self._born = time.time()

    def _machine(self) -> Machine:
        ours = {
            status.spec.endpoint.port
            for status in self._reconciler.observed.values()
            if status.phase in ALIVE and status.reason != "port-taken"
        }
        held = self._store.ports() | {
            name: status.spec.endpoint.port
            for name, status in self._reconciler.observed.items()
            if status.spec.auto_port and status.phase in ALIVE
        }
        listening = {one.port for one in ports.listeners()}
        return Machine(
            toolchain=self._toolchain,
            cache_dir=self._settings.cache_dir,
            run_dir=self._settings.run_dir,
            held_ports=held,
            taken_ports=frozenset(listening - ours),
            ephemeral=ports.ephemeral_range(),
            promises=Promises(kept=kept_promises(self._reconciler.observed)),
            held_gpus=held_gpus(self._reconciler.observed),
            budget=self._budget.now({}),
        )

    async def live(self) -> None:
        """Boot, serve, end."""
        os.chdir(self._settings.run_dir)
        self._announce()
        recorded = self._reconciler.observed
        desired = self._applied.known_desired()
        strays = adoption.take_over(
            recorded, owner=self._owner, bus=self._bus, executor=self._executor, desired=desired
        )
        tasks = [
            asyncio.create_task(work, name=name)
            for name, work in (
                ("report", self._report_events()),
                ("sweep", adoption.sweep(strays, self._bus)),
                ("reconcile", self._reconciler.run()),
            )
        ]
        try:
            # From here on: a signal during the first apply ends it as one later would.
            with _signals(self._on_signal, self._on_hangup):
                if await self._first_apply():
                    tasks.append(asyncio.create_task(self._serve(), name="serve"))
                    await self._until_ended(tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._executor.let_go()
            running = sum(status.phase in ALIVE for status in self._reconciler.observed.values())
            goes_on = f"{running} instances go on" if running else "nothing runs"
            event = self._bus.stamp(Event(EventType.DAEMON_STOPPED, message=goes_on))
            with contextlib.suppress(StoreError):
                self._store.save(self._reconciler.observed, [event])
            # What the last passes saw: whoever told it until now was cancelled with the rest.
            self._report([*self._told.pending(), event])

    def tell_of_a_stall(self, took: float, stack: list[str]) -> None:
        """The loop has not turned for so many seconds: a bug, or a disk that hangs."""
        message = f"nothing was looked at for {took:.1f} s: {stack[-1]}"
        data = {"seconds": round(took, 3), "stack": stack}
        self._bus.post(Event(EventType.STALLED, message=message, data=data))

    def _announce(self) -> None:
        self._bus.post(
            Event(EventType.DAEMON_STARTED, message=f"pid {os.getpid()}", data={"pid": os.getpid()})
        )
        if aside := self._store.set_aside:
            note = f"the state store could not be read; it is now {aside}"
            self._bus.post(Event(EventType.STORE_ERROR, reason="set-aside", message=note))

    async def _first_apply(self) -> bool:
        """False when it was rejected and there is nothing else to live for."""
        if self._options.first is None:
            self._applied.resume(nothing_runs=self._executor.idle)
            return True
        # What was applied before is about to be replaced: it is not started again in between.
        # But the ports of what was adopted count: fold that first.
        await asyncio.sleep(0)
        outcome = await self._applied.apply(
            self._options.first, add=self._options.add, force=self._options.force
        )
        if self._options.on_applied is not None:
            self._options.on_applied(outcome)
        if isinstance(outcome, Accepted):
            await self._first_spawned()
            return True
        self._applied.resume(nothing_runs=self._executor.idle)
        return bool(self._reconciler.observed) and not self._options.stops_instances

    async def _first_spawned(self) -> None:
        subscription = self._bus.subscribe()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FIRST_STARTS):
                while True:
                    await subscription.next()
                    observed = self._reconciler.observed.values()
                    if not any(s.phase is Phase.STARTING and s.process is None for s in observed):
                        break
        self._bus.unsubscribe(subscription)

    async def _serve(self) -> None:
        """The API, file watching, and housekeeping, until cancelled."""
        server = await asyncio.to_thread(importlib.import_module, "orchestrator.api.server")
        app = importlib.import_module("orchestrator.api.app")
        control = app.Control(
            bus=self._bus,
            store=self._store,
            logs=self._logs,
            reconciler=self._reconciler,
            applied=self._applied,
            intents=Intents(self._bus, self._reconciler),
            overview=Overview(
                version=orchestrator.__version__,
                reconciler=self._reconciler,
                applied=self._applied,
                describe=self._describe,
                notes=self._notes,
            ),
            suspect=self._executor.suspect,
            down=self._down,
            leave=self._leave,
        )
        sock = server.bind_unix(self._settings.socket_path)
        async with server.serving(control, sock):
            if self._options.on_listening is not None:
                self._options.on_listening()
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._watch_files(), name="watch files")
                    group.create_task(self._read_again(), name="read again")
                    group.create_task(self._keep_house(), name="keep house")
                    group.create_task(self._gauges.run(), name="gauges")
                    for look, name in second_look.looks(self._bus, self._reconciler, self._applied):
                        group.create_task(look, name=name)
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self._settings.socket_path)

    def _describe(self) -> dict[str, Any]:
        return {"pid": os.getpid(), "since": timestamp(self._born)}

    def _notes(self) -> list[str]:
        """What is wrong with the machine now, as far as it is ours to see."""
        notes: list[str] = []
        if is_full(where := self._settings.logs_dir):
            what = "instances go on, their output is lost"
            notes.append(f"the disk of the logs is full ({where}): {what}")
        if self._watch.lack:
            notes.append(f"edits are seen every {RECHECK:.0f} s only: {self._watch.lack}")
        return notes

    async def _until_ended(self, tasks: list[asyncio.Task[None]]) -> None:
        """Until somebody asks for the end; a task that fails ends all, loudly."""
        ending = asyncio.create_task(self._ending.wait(), name="ending")
        vital = [task for task in tasks if task.get_name() != "sweep"]
        done, _ = await asyncio.wait({ending, *vital}, return_when=asyncio.FIRST_COMPLETED)
        for task in done - {ending}:
            if error := task.exception():
                ending.cancel()
                raise error
        while self._stop_instances:
            await self._applied.clear()
            if await self._instances_gone():
                break

    def _on_signal(self) -> None:
        if self._ending.is_set() and self._stop_instances:
            # The second one: no more grace for anybody.
            for name in self._reconciler.observed:
                self._bus.post(Event(EventType.HELD, name, reason="kill", data={"hurry": True}))
        self._ending.set()

    def _on_hangup(self) -> None:
        """A terminal that closes ends what runs in it; without one, it asks to look again."""
        if self._options.has_terminal:
            self._on_signal()
        else:
            self._hung_up.set()

    async def _read_again(self) -> None:
        """The applied files, whenever SIGHUP asks for it."""
        while True:
            await self._hung_up.wait()
            self._hung_up.clear()
            await self._applied.refresh(anew=True)

    async def _instances_gone(self) -> bool:
        """Every instance stops, and is forgotten but for a hold: that outlives this daemon.

        What is applied stays on record unless it was cleared before. False when another set of
        files was applied meanwhile: then that is in force.
        """
        number = self._applied.number
        subscription = self._bus.subscribe()
        try:
            while self._applied.number == number:
                if self._reconciler.number == number and self._at_rest(number):
                    return True
                await subscription.next()
        finally:
            self._bus.unsubscribe(subscription)
        return False

    def _at_rest(self, number: int) -> bool:
        """True when only what is held is left; an edit in between is put right again."""
        observed = self._reconciler.observed
        held = {name for name, status in observed.items() if status.held}
        desired = self._reconciler.desired
        kept = {name: spec for name, spec in (desired or {}).items() if name in held}
        if desired != kept:
            self._bus.post(NewDesired(kept, renew=False, number=number))
            return False
        return all(name in kept and status.phase not in ALIVE for name, status in observed.items())

    async def _down(self, keep_daemon: bool) -> None:
        await self._applied.clear()
        if not await self._instances_gone():
            raise OrchestrateError(_SUPERSEDED, hint="orchestrate status")
        if not keep_daemon:
            self._ending.set()

    async def _leave(self, with_instances: bool) -> None:
        self._stop_instances = False
        if with_instances and not await self._instances_gone():
            raise OrchestrateError(_SUPERSEDED, hint="orchestrate status")
        self._ending.set()

    async def _watch_files(self) -> None:
        # What was edited while no daemon looked.
        await self._applied.refresh()
        async for _ in self._watch.changes():
            await self._applied.refresh()

    async def _keep_house(self) -> None:
        while True:
            await asyncio.sleep(HOUSEKEEPING)
            for name in list(self._reconciler.observed):
                with contextlib.suppress(OSError):
                    await asyncio.to_thread(self._logs.rotate_large, name)

    async def _report_events(self) -> None:
        while True:
            self._report(await self._told.next())

    def _report(self, events: Iterable[Event]) -> None:
        """Every event goes to the daemon's log, or to whoever watches in the foreground."""
        report: Callable[[Event], None] = self._options.on_event or _log_event
        for event in events:
            if event.transient and self._options.on_event is None:
                # Several a second while bytes move: the log would hold nothing else.
                continue
            # A full disk, or a terminal that was closed: no reason to end.
            with contextlib.suppress(OSError):
                report(event)


def _log_event(event: Event) -> None:
    words = [timestamp(event.time), event.instance or "-", event.type.value, event.reason]
    sys.stderr.write(" ".join(word for word in words if word) + f" {event.message}\n")
    sys.stderr.flush()


@contextlib.contextmanager
def _signals(end: Callable[[], None], hangup: Callable[[], None]) -> Generator[None]:
    """Signals only tell the loop; it acts."""
    loop = asyncio.get_running_loop()
    acts = {signal.SIGTERM: end, signal.SIGINT: end, signal.SIGHUP: hangup}
    for number, act in acts.items():
        loop.add_signal_handler(number, act)
    try:
        yield
    finally:
        for number in acts:
            loop.remove_signal_handler(number)


logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
