"""A simulated world around the real loop: processes, ports, servers of others, models, a clock.

`Reconciler` and `take_over` are the real ones, so events are folded, plans made and actions
submitted in the order in which a daemon does it. What they act on is here: an executor without
processes, a store without a disk, a clock that is turned by hand. `core_laws` watches every plan,
every fold and every act.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import patch

from msgspec import to_builtins
from msgspec.structs import asdict

from orchestrator.control.adoption import take_over
from orchestrator.control.attachment import RETURNS_WITHIN, gives_up
from orchestrator.control.bus import NewDesired
from orchestrator.control.executor import Executor
from orchestrator.control.intents import Intents, VerbName
from orchestrator.control.reconciler import Reconciler
from orchestrator.core.admission import HOST, Budget, Room
from orchestrator.core.event import Event, EventType
from orchestrator.core.on_demand import Use, is_at_rest
from orchestrator.core.promise import kept_promises
from orchestrator.core.spec import Desired, InstanceSpec, ModelSpec
from orchestrator.core.status import (
    ALIVE,
    EVICTED,
    InstanceStatus,
    ModelState,
    ModelStatus,
    Observed,
    ProcessRef,
    lost_its_port,
)
from orchestrator.core.successor import base_of
from orchestrator.runtime.identity import Owned
from orchestrator.runtime.state import Store, StoreError
from tests import core_laws
from tests.core_acts import Attachment, Run, WorldBus, WorldExecutor
from tests.core_wishes import AWAITED, BAD, MEMORY, OLLAMA, PORTS, Wish, means

PATIENCE = 5
"""Looks at a world in which nothing has changed, until it is said to be at rest."""

MISSES = 2
"""Probes in a row without an answer, after which a run is condemned."""

IN_ANY_ORDER = frozenset({EventType.SPAWNED, EventType.PROGRESS, EventType.EXITED})
"""Of the events of one run: those that other tasks post, or that nobody waits for."""

MAY_COME_TWICE = IN_ANY_ORDER | {EventType.START_FAILED, EventType.DETACHED, EventType.CONDEMNED}

MAY_BE_LOST = frozenset({EventType.SPAWNED, EventType.PROGRESS, EventType.UNREADY})
"""What another event makes up for. All others are only lost with the daemon that they were for."""

ABOUT_MODELS = frozenset({EventType.MODEL, EventType.LOOKED})


@dataclass
class World:
    """All there is. `strangers` is who else listens on a port: `other`, or an `ollama`."""

    clock: float = 1000.0
    boot: int = 1
    disk_full: bool = False
    others_memory: int = 0
    wishes: dict[str, Wish] = field(default_factory=dict[str, Wish])
    versions: dict[str, int] = field(default_factory=dict[str, int])
    strangers: dict[int, str] = field(default_factory=dict[int, str])
    models: set[str] = field(default_factory=set[str])
    runs: list[Run] = field(default_factory=list[Run])
    corpses: list[Run] = field(default_factory=list[Run])
    """What ended since the machine was started."""
    mail: list[Event] = field(default_factory=list[Event])
    history: list[Event] = field(default_factory=list[Event])
    starts: dict[str, tuple[InstanceSpec, str]] = field(
        default_factory=dict[str, tuple[InstanceSpec, str]]
    )
    attached: dict[str, Attachment] = field(default_factory=dict[str, Attachment])
    asked: set[str] = field(default_factory=set[str])
    """Who is to be ended, or begun anew, by somebody's word."""
    wanted: set[str] = field(default_factory=set[str])
    """For whom a request waits: the gateway asks for them until they are ready, or given up."""
    busy: set[str] = field(default_factory=set[str])
    """Who is at work for a client."""
    used: dict[str, float] = field(default_factory=dict[str, float])
    """When each was at work last."""
    saved: Observed = field(default_factory=dict[str, InstanceStatus])
    declared: Desired = field(default_factory=dict[str, InstanceSpec])
    number: int = 0
    counted: int = 0
    passes: int = 0
    wake_at: float | None = None
    circumstances: tuple[Any, ...] = ()
    """What the loop has last told the plan besides what is desired and observed, and the time."""

    def __post_init__(self) -> None:
        self.patches = ExitStack()
        self.same, self.seen = 0, self.saved
        loop: Any = "orchestrator.control.reconciler"
        adoption: Any = "orchestrator.control.adoption"
        replaced: list[tuple[Any, dict[str, Any]]] = [
            (loop, core_laws.watched(self)),
            (loop, {"boot_clock": lambda: self.clock, "uuid4": self._new_id}),
            (loop, {"identity_of": lambda path: means(path, self.versions)}),
            (loop, {"runs_as": self._runs_as}),
            (adoption, {"find_owned": self._owned, "boot_id": lambda: str(self.boot)}),
            (adoption, {"runs_as": self._runs_as, "command_of": self._command_of}),
            (adoption, {"environment_of": lambda pid: {}}),
            (adoption, {"process": SimpleNamespace(adopt=self._found)}),
        ]
        for where, what in replaced:
            self.patches.enter_context(patch.multiple(where, **what))
        self._new_daemon()
        self.declare(renew=False)

    def close(self) -> None:
        self.patches.close()

    # --- the daemon -------------------------------------------------------------------------------

    def _new_daemon(self) -> None:
        self.bus = WorldBus(self)
        self.executor = WorldExecutor(self)
        self.loop = Reconciler(
            bus=self.bus,
            store=cast(Store, self),
            observed=dict(self.saved),
            budget=lambda _: self._memory(),
            use=self.use,
        )
        self.loop.attach(cast(Executor, self.executor))
        self.intents = Intents(self.bus, self.loop)
        self.wake_at = None

    def save(self, observed: Observed, events: Iterable[Event]) -> None:
        """As the store does it."""
        if self.disk_full:
            raise StoreError("disk full")
        self.saved = dict(observed)

    def step(self) -> None:
        """One pass of the loop, and what must be so after it."""
        self.passes += 1
        self.wake_at = self.loop.step()
        core_laws.after_a_pass(self)

    def die_and_return(self, *, reboot: bool, first_pass_blind: bool, unwaited: bool) -> None:
        """The daemon is killed, with all that it had not folded yet; another one takes over.

        `unwaited`: what has ended is still in the process table, for nobody has waited for it.
        """
        self.mail.clear()
        self.starts.clear()
        self.attached.clear()
        if reboot:
            self.boot, self.clock = self.boot + 1, 10.0
            self.runs.clear()
        if reboot or not unwaited:
            self.corpses.clear()
        for run in self.runs:
            run.kill_at, run.misses, run.condemned = None, 0, False
        self._new_daemon()
        strays = take_over(
            self.saved,
            owner="world",
            bus=self.bus,
            executor=cast(Executor, self.executor),
            desired=self.declared,
        )
        core_laws.may_sweep(self, strays)
        ended = {stray.pid for stray in strays}
        self.runs = [run for run in self.runs if run.ref.pid not in ended]
        if first_pass_blind:
            self.step()
        self.bus.post(NewDesired(dict(self.declared), renew=False, number=self.number))
        self.step()

    def use(self) -> dict[str, Use]:
        """As the gateway tells it."""
        at_work = self.busy | self.wanted
        names = at_work | self.used.keys()
        return {name: Use(self.used.get(name, 0.0), name in at_work) for name in names}

    def _new_id(self) -> SimpleNamespace:
        self.counted += 1
        return SimpleNamespace(hex=f"{self.counted:016}")

    def _memory(self) -> Budget:
        """Each takes as much as is said of it now, be that true or not when it began."""
        known = {status.start_id: status for status in self.loop.observed.values()}
        taken: dict[str, int] = {}
        for run in self.runs:
            # Whoever has taken over bears another name already than its process.
            status = known.get(run.start_id)
            name, spec = (status.name, status.spec) if status is not None else (run.name, run.spec)
            taken[name] = spec.demand.host if spec.demand else 0
        free = MEMORY - sum(taken.values()) - self.others_memory
        return Budget({HOST: Room(MEMORY, free)}, taken)

    # --- what the process table tells ------------------------------------------------------------

    def _owned(self, owner: str) -> list[Owned]:
        # A mark says what a run was called when it began.
        return [Owned(r.spec.name, r.start_id, r.ref, True, r.ref.pid) for r in self.runs]

    def _living(self, ref: ProcessRef) -> Run | None:
        return next((run for run in self.runs if run.ref == ref), None)

    def _found(self, ref: ProcessRef) -> Run | None:
        corpse = next((run for run in self.corpses if run.ref == ref), None)
        return self._living(ref) or corpse

    def _runs_as(self, ref: ProcessRef, wanted: InstanceSpec) -> bool:
        run = self._living(ref)
        return run is not None and run.spec.command == wanted.command

    def _command_of(self, pid: int) -> list[str]:
        return next(list(run.spec.command.argv) for run in self.runs if run.ref.pid == pid)

    def run_of(self, name: str) -> Run | None:
        """The living process of an instance."""
        return next((run for run in self.runs if run.name == name), None)

    def listener(self, port: int) -> str:
        """Who has a port: `ours`, `other`, `ollama`, or nobody."""
        if port in self.strangers:
            return self.strangers[port]
        held = any(run.spec.endpoint.port == port for run in self.runs)
        return "ours" if held else ""

    # --- what happens to instances ---------------------------------------------------------------

    def tell(self, kind: EventType, name: str, start_id: str, **more: Any) -> None:
        """Something is seen: an event that will arrive, sometime."""
        reason, message = more.pop("reason", ""), more.pop("message", kind.value)
        data = {"start_id": start_id, **more}
        event = self.bus.stamp(Event(kind, name, reason, message, data))
        self.mail.append(event)
        self.history.append(event)

    def carry_out(self, name: str, fault: str = "") -> None:
        """A start comes to its end: a process, a server that was there, or the reason why not."""
        spec, start_id = self.starts.pop(name)
        port = spec.endpoint.port
        there = self.listener(port)
        if spec.attach != "never" and there == "ollama":
            self.attached[name] = Attachment(name, start_id, port)
            self.tell(EventType.ATTACHED, name, start_id, pid=1, owner="x", ready_after_s=0.1)
            return
        if there:
            fault = "port-taken"
        elif spec.attach == "only":
            fault = "nothing-to-attach"
        if fault:
            waits = fault in ("port-taken", "nothing-to-attach", "log-unwritable")
            self.tell(
                EventType.START_FAILED,
                name,
                start_id,
                reason=fault,
                waits=waits,
                permanent=fault == "bad-flag",
            )
            return
        self.counted += 1
        ref = ProcessRef(self.counted, int(self.clock * 100), str(self.boot))
        self.runs.append(Run(name, start_id, spec, ref))
        self.tell(EventType.SPAWNED, name, start_id, **asdict(ref))

    def load(self, run: Run) -> None:
        """It has loaded, or cannot with these settings."""
        if run.spec.command.argv[-1] == BAD:
            self.end(run, 1)
        elif self.strangers.get(run.spec.endpoint.port):
            self.end(run, 1, reason="port-taken", waits=True)
        else:
            run.state = "serving"
            if not run.told:
                run.told = True
                self.tell(EventType.READY, run.name, run.start_id, ready_after_s=0.1)

    def end(self, run: Run, code: int | None, *, reason: str = "", waits: bool = False) -> None:
        """Its end is told once, by the daemon that watches it."""
        self.runs.remove(run)
        self.corpses.append(run)
        data: dict[str, Any] = {"exit_code": code}
        if waits:
            data["waits"] = True
        reason = reason or ("exited" if code == 0 else "crashed")
        self.tell(EventType.EXITED, run.name, run.start_id, reason=reason, **data)

    def probe(self, run: Run) -> None:
        """The monitor looks whether it is well."""
        if run.condemned:
            return
        if run.state != "hung":
            if run.told and run.misses:
                run.misses = 0
                self.tell(EventType.READY, run.name, run.start_id)
            return
        run.misses += 1
        run.condemned = not run.told or run.misses >= MISSES
        if run.told:
            self.tell(EventType.UNREADY, run.name, run.start_id, reason="unhealthy")
        if run.condemned:
            reason = "hung" if run.told else "timeout"
            self.tell(EventType.CONDEMNED, run.name, run.start_id, reason=reason)

    def look_at(self, attached: Attachment) -> None:
        """Is the server of somebody else there still, or again?"""
        name, start_id = attached.name, attached.start_id
        there = self.strangers.get(attached.port) == "ollama"
        if attached.resumed:
            attached.resumed = False
            if there:
                self.tell(EventType.ATTACHED, name, start_id, pid=1, owner="x")
            else:
                del self.attached[name]
                self.tell(EventType.DETACHED, name, start_id)
        elif there and attached.away_since is not None:
            attached.away_since = None
            self.tell(EventType.ATTACHED, name, start_id, reason="back", pid=1)
        elif not there and attached.away_since is None:
            attached.away_since = self.clock
            self.tell(EventType.UNREADY, name, start_id, reason="gone")
        elif not there and self._is_given_up(attached):
            del self.attached[name]
            self.tell(EventType.DETACHED, name, start_id)

    def _is_given_up(self, attached: Attachment) -> bool:
        away = self.clock - (attached.away_since or self.clock)
        return away >= RETURNS_WITHIN and gives_up(self.loop.spec_in_force(attached.name))

    def provision(self, name: str, outcome: str = "there") -> None:
        """The provisioner goes round once; what it brings lies in the one store there is."""
        run, attached = self.run_of(name), self.attached.get(name)
        served = run is not None and run.serves
        if not served and (attached is None or attached.resumed or attached.away_since):
            return
        start_id = run.start_id if run is not None else attached.start_id if attached else ""
        status = self.loop.observed.get(name)
        on_its_way = any(mail.type in ABOUT_MODELS for mail in self.mail)
        if status is None or status.start_id != start_id or status.spec.holds is None or on_its_way:
            return
        rows = {row.name: row for row in status.models}
        wanted = {model.name: model for model in status.spec.holds.models}
        for row in [row for row in rows.values() if row.name not in wanted]:
            self._say(name, start_id, row, reason="gone")
        for model in wanted.values():
            row = self._seen(model, rows.get(model.name), outcome)
            if row != rows.get(model.name):
                self._say(name, start_id, row)
        if status.looking:
            self.tell(EventType.LOOKED, name, start_id)

    def _seen(self, model: ModelSpec, known: ModelStatus | None, outcome: str) -> ModelStatus:
        """What a look at one model finds, and makes of it."""
        if known and known.state is ModelState.PRESENT and model.name not in self.models:
            # Somebody removed it: that is said before anything is done about it.
            return ModelStatus(model.name)
        if outcome == "there":
            self.models.add(model.name)
        if model.name not in self.models:
            return ModelStatus(model.name, ModelState.FAILED)
        evicted = model.preload and outcome == "evicted"
        return ModelStatus(
            model.name,
            ModelState.PRESENT,
            loaded=model.preload and not evicted,
            reason=EVICTED if evicted else "",
        )

    def _say(self, name: str, start_id: str, row: ModelStatus, reason: str = "") -> None:
        self.tell(EventType.MODEL, name, start_id, reason=reason, model=to_builtins(row))

    # --- time and mail ---------------------------------------------------------------------------

    def pass_time(self, seconds: float) -> None:
        """The boot clock moves on, and grace periods end."""
        self.clock += seconds
        for run in list(self.runs):
            if run.kill_at is not None and run.kill_at <= self.clock:
                self.end(run, 137)

    def arrive(self, index: int, *, twice: bool = False) -> None:
        """An event reaches the daemon: some in any order, the others by turns for each run."""
        event = self.mail[index]
        if event.type not in IN_ANY_ORDER:
            same = event.data["start_id"]
            index = next(i for i, e in enumerate(self.mail) if e.data["start_id"] == same)
        event = self.mail[index]
        if not twice or event.type not in MAY_COME_TWICE:
            del self.mail[index]
        self.bus.deliver(event)

    def lose(self, index: int) -> None:
        if self.mail[index].type in MAY_BE_LOST:
            del self.mail[index]

    # --- people ----------------------------------------------------------------------------------

    def declare(self, *, renew: bool) -> None:
        """Files are edited, or (with `renew`) applied."""
        self.declared = self.meaning()
        if renew:
            self.number += 1
            self.asked |= {name for name in self.declared if self._is_taken_up_anew(name)}
        self.bus.post(NewDesired(dict(self.declared), renew=renew, number=self.number))

    def _is_taken_up_anew(self, name: str) -> bool:
        run, status = self.run_of(name), self.loop.observed.get(name)
        begun = self.starts[name][0] if name in self.starts else run.spec if run else None
        stale = begun is not None and begun.inputs != self.declared[name].inputs
        return stale or (status is not None and status.rejected is not None)

    def meaning(self) -> Desired:
        """What the wishes mean on this machine, as it is now."""
        kept = kept_promises(self.loop.observed)
        found: Desired = {}
        for name, wish in list(self.wishes.items()):
            promised = OLLAMA in self.wishes and AWAITED in self.wishes[OLLAMA].models
            if wish.borrows and AWAITED not in self.models and not promised:
                # Refused: nobody has the model, and nobody will.
                wish = self.wishes[name] = replace(wish, borrows=False)
            # Nobody needs what may be down: that is refused.
            needs = [n for n in wish.needs if n not in self.wishes or not self.wishes[n].on_demand]
            wish = replace(wish, needs=tuple(needs))
            status = self.loop.observed.get(name)
            runs_on = status.spec.endpoint.port if status and status.phase in ALIVE else 0
            found[name] = wish.resolve(name, self.versions, self.models, kept, runs_on)
        return found

    def ask(self, verb: VerbName, name: str) -> None:
        """A verb by hand, for what there is."""
        if name in self.loop.observed or name in (self.loop.desired or {}):
            self.asked.add(name)
            asking = self.intents.act(verb, name, wait=False)
            try:
                asking.send(None)
            except StopIteration:
                return
            raise AssertionError("an intent that is not waited for waits")

    def want(self, name: str) -> None:
        """A request comes, and waits."""
        spec = (self.loop.desired or {}).get(name)
        if spec is not None and spec.on_demand is not None:
            self.wanted.add(name)
            self.bus.post(Event(EventType.WANTED, name, reason="request", spec=spec))

    def serve(self) -> bool:
        """As the gateway does it: asks for what waits, and tells what came of it. True when it had
        to ask for something."""
        asks = False
        for name in list(self.wanted):
            status, spec = self.loop.observed.get(name), (self.loop.desired or {}).get(name)
            given_up = status is not None and (status.phase == "failed" or status.held)
            if spec is None or spec.on_demand is None or given_up:
                self.wanted.discard(name)
            elif status is not None and status.phase == "ready":
                self.wanted.discard(name)
                self.used[name] = self.clock
            elif is_at_rest(spec, status):
                self.want(name)
                asks = True
        return asks

    def idle(self, name: str) -> None:
        """Nobody has used it for long."""
        status = self.loop.observed.get(name)
        if status is not None and name not in self.busy | self.wanted:
            on_demand = status.spec.on_demand
            if on_demand is not None and on_demand.idle is not None:
                self.tell(EventType.IDLE, name, status.start_id, reason="idle")

    def look_again(self) -> bool:
        """As `control/second_look.py` does: True when it had all resolved anew."""
        desired, observed = self.loop.desired or {}, self.loop.observed
        kept = kept_promises(observed)
        due = any(
            spec.awaits is not None and spec.awaits.kept != (spec.awaits.model in kept)
            for spec in desired.values()
        )
        for name, status in observed.items():
            wish = self.wishes.get(base_of(name))
            port = status.spec.endpoint.port
            if wish is not None and lost_its_port(status) and port in wish.ports:
                ports = {port for one in self.wishes.values() for port in one.ports}
                free = [port for port in PORTS if port not in ports | set(self.strangers)]
                if free:
                    first, second = wish.ports
                    second = free[0] if port == second else second
                    first = free[0] if port == first else first
                    self.wishes[base_of(name)] = replace(wish, port=first, second=second)
                    due = True
        if due:
            self.declare(renew=False)
        return due

    # --- rest ------------------------------------------------------------------------------------

    def heal(self) -> None:
        """From now on nothing goes wrong any more by itself."""
        self.disk_full, self.others_memory = False, 0
        self.busy.clear()
        only = {wish.port for wish in self.wishes.values() if wish.attach == "only"}
        self.strangers = dict.fromkeys(only, "ollama")

    def turn(self) -> bool:
        """The next thing that happens in a world that is left alone. False: nothing any more."""
        while self.mail:
            self.arrive(0)
        if self.bus.waiting or (self.wake_at is not None and self.wake_at <= self.clock):
            self.step()
            self.look_again()
            self.serve()
        elif self.starts:
            self.carry_out(next(iter(self.starts)))
        elif not self._all_are_looked_at() and not self.serve():
            return self._wait()
        return True

    def _all_are_looked_at(self) -> bool:
        """True when something was seen."""
        for run in [run for run in self.runs if run.kill_at is None]:
            if run.state == "loading" or (run.state == "serving" and not run.told):
                self.load(run)
            else:
                self.probe(run)
        for attached in list(self.attached.values()):
            self.look_at(attached)
        for name in list(self.loop.observed):
            self.provision(name)
        return bool(self.mail)

    def _wait(self) -> bool:
        """Until the next instant at which something is due; False when nothing ever will be."""
        sure = [run.kill_at for run in self.runs if run.kill_at is not None]
        sure += [
            one.away_since + RETURNS_WITHIN
            for one in self.attached.values()
            if one.away_since is not None and gives_up(self.loop.spec_in_force(one.name))
        ]
        due = sure + ([self.wake_at] if self.wake_at is not None else [])
        # What waits for memory is looked at again and again, though there is no more of it.
        self.same = self.same + 1 if self.loop.observed is self.seen else 0
        self.seen = self.loop.observed
        if not due or (self.same > PATIENCE and not sure):
            return False
        self.pass_time(max(min(due) - self.clock, 0.0))
        return True

    def settle(self, at_most: int) -> None:
        """Leave it alone until nothing happens any more, and see that it is as it should be."""
        self.heal()
        self.same = 0
        for _ in range(at_most):
            if not self.turn():
                break
        else:
            raise AssertionError(f"no rest after {at_most} turns")
        core_laws.at_rest(self)
