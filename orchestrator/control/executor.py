"""Carries out actions, one at a time for each instance, side by side for all. Posts the outcome.

It keeps the running `Process` of every instance, and nothing else: what an instance is, or should
be, is the reconciler's to know.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Collection, Coroutine, Generator, Mapping
from typing import TYPE_CHECKING, Any

from orchestrator.control import attachment, monitor
from orchestrator.control.attachment import Attached
from orchestrator.control.bus import Bus
from orchestrator.control.served import Served
from orchestrator.control.starting import Starter, can_be_watched, port_is_free, start_failed
from orchestrator.control.workshop import Workshop
from orchestrator.core.event import Event, EventType
from orchestrator.core.spec import InstanceSpec
from orchestrator.core.status import AttachedTo, InstanceStatus, ModelStatus, Phase
from orchestrator.core.successor import is_aside, next_of, old_of
from orchestrator.errors import StartError
from orchestrator.runtime import process
from orchestrator.runtime.hard_limits import HardLimits
from orchestrator.runtime.identity import OWNER_VARIABLE, boot_clock, environment_of
from orchestrator.runtime.logs import Logs
from orchestrator.runtime.oom import OomWatch
from orchestrator.runtime.process import Process

if TYPE_CHECKING:
    from orchestrator.control.provisioner import Provisioner

SpecOf = Callable[[str], InstanceSpec]
"""The spec of an instance as it is in force now. Raises KeyError where nothing is known of it."""

Drained = Callable[..., Coroutine[Any, Any, None]]
"""`drained(start_id, within=seconds)`: until what was sent to that run is answered."""

RowsOf = Callable[[str], tuple[ModelStatus, ...]]
"""What the status has of the models of an instance."""


class Executor:
    """Starts, stops, adopts and lets go."""

    def __init__(
        self,
        *,
        bus: Bus,
        logs: Logs,
        inherited: Mapping[str, str],
        owner: str,
        spec_of: SpecOf,
        rows_of: RowsOf,
        workshop: Workshop,
        drained: Drained | None = None,
        hard_limits: HardLimits | None = None,
    ) -> None:
        self._bus = bus
        self._logs = logs
        self._owner = owner
        self._spec_of = spec_of
        self._rows_of = rows_of
        self._workshop = workshop
        self._drained = drained
        self._hard_limits = hard_limits or HardLimits()
        self._starter = Starter(logs, inherited, owner, self._hard_limits)
        self._watched: dict[str, monitor.Watched] = {}
        self._provisioners: dict[str, Provisioner] = {}
        self._attached: dict[str, tuple[Attached, asyncio.Task[None]]] = {}
        self._starting: dict[str, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self, spec: InstanceSpec, start_id: str) -> None:
        """Begin a start that was already recorded.

        Ends in `spawned`, in `attached` where somebody else runs a server, or in `start-failed`.
        """
        work = self._start_or_say_why(spec, start_id)
        starting = self._launch(work, f"start {spec.name}")
        self._starting[start_id] = starting
        starting.add_done_callback(lambda _: self._starting.pop(start_id, None))

    def stop(self, name: str, *, start_id: str, grace: float, drain: float = 0.0) -> None:
        """Begin a stop that was already recorded. The monitor posts `exited` at its end.

        Requests that came through the gateway get `drain` seconds to end, before any signal.

        A server that somebody else runs is only let go of: that ends in `detached`.
        """
        starting = self._starting.pop(start_id, None)
        if starting is not None:
            # At once: what is begun after this would bear a name that may be another's by then.
            starting.cancel()
        self._launch(self._stop(name, start_id, starting, grace, drain), f"stop {name}")

    def promote(self, name: str) -> None:
        """The successor of an instance bears its name from now on; so does its log."""
        if watched := self._watched.pop(name, None):
            watched.name = old_of(name)
            self._watched[watched.name] = watched
        if watched := self._watched.pop(next_of(name), None):
            watched.name = name
            self._watched[name] = watched
            self._keep_log(watched)

    def _keep_log(self, watched: monitor.Watched) -> None:
        """What a successor writes belongs to the instance once that is what it is."""
        try:
            self._logs.take_over(watched.name, next_of(watched.name), watched.process.ref.pid)
        except OSError as error:
            message = f"its log keeps the name {next_of(watched.name)}.log: {error.strerror}"
            self._bus.post(Event(EventType.BUG, watched.name, message=message))

    def kill(self, name: str) -> None:
        """End a stop's grace now."""
        if watched := self._watched.get(name):
            watched.process.signal(signal.SIGKILL)

    def retune(self, name: str) -> None:
        """Heed live fields that have changed, at once."""
        if watched := self._watched.get(name):
            with contextlib.suppress(KeyError):
                limit = self._spec_of(name).limits.memory_max
                group = self._hard_limits.of(watched.process.ref.pid)
                self._hard_limits.change(group, limit)
            watched.retuned.set()

    def provision(self, name: str) -> None:
        """Bring the models of a running instance to what is declared now."""
        self.retune(name)
        if provisioner := self._provisioners.get(name):
            provisioner.wake()

    def suspect(self, paths: Collection[str]) -> list[str]:
        """Have files of models read that somebody found damaged; the instances that do so."""
        return [name for name, one in self._provisioners.items() if one.suspect(paths)]

    def adopt(self, status: InstanceStatus, running: Process) -> None:
        """Watch a process that an earlier daemon started for this instance."""
        began = status.started_at or boot_clock()
        # Also one that was not well when it was last seen: it hangs, it does not load.
        was_ready = status.ready_at is not None
        was_unready = status.phase is Phase.UNREADY
        self._watch(
            status.spec,
            status.start_id,
            running,
            began,
            was_ready=was_ready,
            was_unready=was_unready,
        )
        watched = self._watched.get(status.name)
        if watched is not None and not is_aside(status.name):
            # An earlier daemon may have died before it did so.
            self._keep_log(watched)

    def attach_again(self, status: InstanceStatus) -> None:
        """Go on with the server that an earlier daemon had attached to, if that one is still there
        or may return.

        Ends in `attached`, or in `unready` while nobody answers there; in `detached` where it is
        another by now, and that is for a start to see.
        """
        assert status.attached is not None, "only what was attached to can be again"
        name = status.name
        attached = Attached(
            name, status.start_id, lambda: self._spec_of(name), self._bus, status.attached
        )
        self._attached[name] = (attached, self._launch(self._resume(attached), f"attached {name}"))

    async def _resume(self, attached: Attached) -> None:
        if await attachment.goes_on(attached):
            await self._watch_attached(attached)
            return
        del self._attached[attached.name]
        message = "looked for again: another has the place of what was attached to"
        self._post_detached(attached.name, attached.start_id, message)

    @property
    def idle(self) -> bool:
        """True while it watches no process."""
        return not self._watched

    async def let_go(self) -> None:
        """Leave every process running, and watch none any more."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for watched in self._watched.values():
            watched.process.let_go()
        self._watched.clear()
        self._attached.clear()

    def _launch(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(self._guarded(work, name), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _guarded(self, work: Coroutine[Any, Any, None], name: str) -> None:
        try:
            await work
        except Exception as error:  # noqa: BLE001 - a task boundary: the bug becomes an event
            self._bus.post(Event(EventType.BUG, message=f"{name}: {error!r}"))

    async def _start_or_say_why(self, spec: InstanceSpec, start_id: str) -> None:
        """A start that fails in a way nobody thought of must not look like one under way."""
        try:
            await self._start(spec, start_id)
        except Exception as error:  # noqa: BLE001 - a task boundary: the bug becomes an event
            data = {"start_id": start_id, "permanent": False, "waits": False}
            message = f"could not be started: {error!r}"
            event = Event(EventType.START_FAILED, spec.name, "bug", message, data)
            self._bus.post(event)

    async def _start(self, spec: InstanceSpec, start_id: str) -> None:
        try:
            if spec.attach != "never" and await self._attaches(spec, start_id):
                return
            await port_is_free(spec)
            attachment.must_be_ours(spec)
            can_be_watched(len(self._watched))
            with self._starter.log_of(spec.name) as log:
                # Of starts that come together, all get this far before the first is spawned: from
                # then on each step here has to wait its turn among engines that load.
                await asyncio.sleep(0)
                can_be_watched(len(self._watched))
                began = boot_clock()
                running = self._starter.spawn(spec, start_id, log)
        except StartError as error:
            self._bus.post(await start_failed(spec, start_id, error))
            return
        # No await since the spawn: a stop that comes now finds either no process or this one.
        self._watch(spec, start_id, running, began)
        ref = running.ref
        data = {
            "start_id": start_id,
            "pid": ref.pid,
            "start_ticks": ref.start_ticks,
            "boot_id": ref.boot_id,
        }
        self._bus.post(Event(EventType.SPAWNED, spec.name, data=data, message=f"pid {ref.pid}"))

    async def _attaches(self, spec: InstanceSpec, start_id: str) -> bool:
        """True when a server that somebody else runs is used instead of one of our own."""
        began = boot_clock()
        server = await attachment.find(spec.endpoint, within=attachment.FIRST_ANSWER)
        if server is None or self._is_ours(server):
            return False
        name = spec.name
        attached = Attached(name, start_id, lambda: self._spec_of(name), self._bus, server)
        attached.is_there(server, took=boot_clock() - began)
        task = self._launch(self._watch_attached(attached), f"attached {name}")
        self._attached[name] = (attached, task)
        return True

    def _is_ours(self, server: AttachedTo) -> bool:
        """One that we started, and that no instance accounts for any more: it is about to end."""
        mark = environment_of(server.pid).get(OWNER_VARIABLE, "") if server.pid else ""
        return mark.startswith(f"{self._owner}/")

    async def _watch_attached(self, attached: Attached) -> None:
        served = Served(
            attached.name,
            attached.start_id,
            attached.spec,
            managed=False,
            ready=attached.ready,
            rows=lambda: self._rows_of(attached.name),
            pid=lambda: attached.server.pid,
        )
        with contextlib.ExitStack() as models:

            def provision_anew() -> None:
                models.close()
                models.enter_context(self._provisioning(served))

            provision_anew()
            attached.on_return = provision_anew
            why = await attachment.watch(attached)
        del self._attached[attached.name]
        self._post_detached(attached.name, attached.start_id, why)

    def _post_detached(self, name: str, start_id: str, message: str) -> None:
        data = {"start_id": start_id}
        self._bus.post(Event(EventType.DETACHED, name, message=message, data=data))

    def _watch(
        self,
        spec: InstanceSpec,
        start_id: str,
        running: Process,
        began: float,
        *,
        was_ready: bool = False,
        was_unready: bool = False,
    ) -> None:

        def in_force(name: str) -> InstanceSpec:
            # What was adopted just now may not be known to anybody else yet.
            with contextlib.suppress(KeyError):
                return self._spec_of(name)
            return spec

        watched = monitor.Watched(
            spec.name,
            start_id,
            running,
            began,
            in_force,
            OomWatch(running.ref.pid),
            was_ready,
            was_unready,
        )
        self._watched[spec.name] = watched
        self._launch(self._watch_to_the_end(watched), f"watch {spec.name}")

    async def _watch_to_the_end(self, watched: monitor.Watched) -> None:
        served = Served(
            watched.name,
            watched.start_id,
            watched.spec,
            ready=watched.ready,
            rows=lambda: self._rows_of(watched.name),
            pid=lambda: watched.process.ref.pid,
        )
        group = self._hard_limits.of(watched.process.ref.pid)
        try:
            with self._provisioning(served):
                await monitor.watch(watched, bus=self._bus, logs=self._logs)
        finally:
            # What still runs is let go of, or there for a stop, whatever went wrong.
            gone = not watched.process.alive
            if gone:
                self._hard_limits.end(group)
            if gone and self._watched.get(watched.name) is watched:
                del self._watched[watched.name]

    @contextlib.contextmanager
    def _provisioning(self, served: Served) -> Generator[None]:
        """Keep the models of a server that has some, for as long as it runs."""
        if served.spec().holds is None:
            yield
            return
        # Of no use to what has no models of its own, so not before the first instances are started.
        from orchestrator.control.provisioner import Provisioner

        provisioner = Provisioner(served, bus=self._bus, workshop=self._workshop)
        self._provisioners[served.name] = provisioner
        task = self._launch(provisioner.keep(), f"provision {served.name}")
        try:
            yield
        finally:
            task.cancel()
            if self._provisioners.get(served.name) is provisioner:
                del self._provisioners[served.name]

    async def _stop(
        self,
        name: str,
        start_id: str,
        starting: asyncio.Task[None] | None,
        grace: float,
        drain: float,
    ) -> None:
        if starting is not None:
            await asyncio.gather(starting, return_exceptions=True)
        if name in self._attached:
            attached, watching = self._attached.pop(name)
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
            self._post_detached(name, start_id, attached.farewell())
            return
        # By its run: the name may be another's since it was asked for.
        found = (one for one in self._watched.values() if one.start_id == start_id)
        watched = next(found, None)
        if watched is None:
            # Cancelled before it had a process; or it ended just now, and this one comes late.
            message = "stopped before it had a process"
            data = {"start_id": start_id, "exit_code": None, "signal": None}
            self._bus.post(Event(EventType.EXITED, name, message=message, data=data))
            return
        if drain and self._drained is not None:
            await self._drained(start_id, within=drain)
        ended = await process.stop(watched.process, grace=grace)
        if ended is None:
            pid = watched.process.ref.pid
            message = f"pid {pid} does not end, not even by SIGKILL: it hangs in the kernel"
            event = Event(EventType.BUG, watched.name, reason="unkillable", message=message)
            self._bus.post(event)
