"""Between the real loop and the simulated world: its bus, its executor, and what that begins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from msgspec.structs import replace

from orchestrator.control.bus import Bus
from orchestrator.core.event import Event, EventType
from orchestrator.core.spec import InstanceSpec
from orchestrator.core.status import InstanceStatus, Phase, ProcessRef
from orchestrator.core.successor import base_of, next_of, old_of
from tests import core_laws

if TYPE_CHECKING:
    from tests.core_world import World


@dataclass(eq=False)
class Run:
    """A process of ours, dead or alive. `told`: the monitor has said that it is ready."""

    name: str
    start_id: str
    spec: InstanceSpec
    ref: ProcessRef
    state: str = "loading"
    told: bool = False
    misses: int = 0
    condemned: bool = False
    kill_at: float | None = None

    @property
    def serves(self) -> bool:
        return self.state == "serving" and self.told


@dataclass(eq=False)
class Attachment:
    """The use of a server that somebody else runs."""

    name: str
    start_id: str
    port: int
    away_since: float | None = None
    resumed: bool = False
    """By a daemon that took over: whether it is the same server is still to be seen."""


class WorldBus(Bus):
    """A bus on the world's clock."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    def stamp(self, event: Event) -> Event:
        self._last_id += 1
        clock = self._world.clock
        return replace(event, id=self._last_id, time=1e9 + clock, at=clock)

    def deliver(self, event: Event) -> None:
        """Post what was stamped when it happened, or shall be stamped now."""
        self._inbox.append(event)

    @property
    def waiting(self) -> bool:
        return bool(self._inbox)


class WorldExecutor:
    """Takes the actions of the loop into the world, after a look at the laws."""

    def __init__(self, world: World) -> None:
        self._world = world

    def start(self, spec: InstanceSpec, start_id: str) -> None:
        core_laws.may_start(self._world, spec)
        self._world.asked.discard(base_of(spec.name))
        self._world.starts[spec.name] = (spec, start_id)

    def stop(self, name: str, *, start_id: str, grace: float, drain: float = 0.0) -> None:
        world = self._world
        core_laws.may_stop(world, name)
        world.asked.discard(name)
        run = world.run_of(name)
        if name in world.attached:
            del world.attached[name]
            world.tell(EventType.DETACHED, name, start_id)
        elif run is not None:
            run.kill_at = world.clock + grace
        else:
            # It had no process yet, or none any more: then this end is told a second time.
            world.starts.pop(name, None)
            world.tell(EventType.EXITED, name, start_id, exit_code=None)

    def promote(self, name: str) -> None:
        """Who runs bears another name, and who is started does."""
        world = self._world
        core_laws.may_take_over(world, name)
        for was, now in ((name, old_of(name)), (next_of(name), name)):
            for run in [run for run in world.runs if run.name == was]:
                run.name = now
            if was in world.starts:
                world.starts[now] = world.starts.pop(was)

    def kill(self, name: str) -> None:
        run = self._world.run_of(name)
        if run is not None:
            self._world.end(run, 137)

    def provision(self, name: str) -> None:
        """Nothing: the provisioner compares levels whenever it looks."""

    def retune(self, name: str) -> None:
        """Nothing: here everybody asks for the spec in force whenever it matters."""

    def attach_again(self, status: InstanceStatus) -> None:
        port = status.spec.endpoint.port
        again = Attachment(status.name, status.start_id, port, resumed=True)
        self._world.attached[status.name] = again

    def adopt(self, status: InstanceStatus, running: Run) -> None:
        if running in self._world.corpses:
            self._world.tell(EventType.EXITED, status.name, status.start_id, exit_code=None)
            return
        running.told, running.name = status.phase is Phase.READY, status.name
        # Of one that is on no record nobody knows what its files were when it began.
        running.spec = replace(running.spec, inputs=status.spec.inputs)
