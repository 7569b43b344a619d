"""The parts of a daemon, made and wired. What each owns is said in its own module."""

from __future__ import annotations

import os
from functools import cached_property

from orchestrator.control.applied import AppliedSet
from orchestrator.control.bus import Bus
from orchestrator.control.executor import Executor
from orchestrator.control.gauges import Gauges
from orchestrator.control.idling import Idling
from orchestrator.control.reconciler import Reconciler
from orchestrator.control.resolution import Machine
from orchestrator.control.toolchain import Toolchain
from orchestrator.control.traffic import Traffic
from orchestrator.control.workshop import Workshop
from orchestrator.core.gpu import held_gpus
from orchestrator.core.promise import Promises, kept_promises
from orchestrator.core.status import ALIVE
from orchestrator.core.successor import held_ports
from orchestrator.runtime import ports
from orchestrator.runtime.hard_limits import delegated
from orchestrator.runtime.identity import state_id
from orchestrator.runtime.listening import bind_tcp
from orchestrator.runtime.logs import Logs
from orchestrator.runtime.memory_budget import MemoryBudget
from orchestrator.runtime.state import Store
from orchestrator.runtime.token import kept_token
from orchestrator.settings import Settings, inherited


class Parts:
    """One of each. The reconciler begins with what the store knows."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self.settings = settings
        self.store = store
        listen = settings.listen
        # Before anything is started: an address that cannot be had is an error, not a surprise.
        self.tcp = bind_tcp(listen.host, listen.port) if listen is not None else None
        if self.tcp is not None:
            _ = self.token
        self.owner = state_id(settings.state_dir)
        self.logs = Logs(settings.logs_dir)
        self.bus = Bus(last_id=store.last_event_id())
        self.toolchain = Toolchain(settings.cache_dir)
        self.budget = MemoryBudget(settings.memory, self.toolchain.gpu_totals)
        self.reconciler = Reconciler(
            bus=self.bus,
            store=store,
            observed=store.observed(),
            budget=self.budget.now,
            use=lambda: self.traffic.use(),
        )
        self.traffic = Traffic(self.bus, self.reconciler)
        self.executor = Executor(
            drained=self.traffic.drained,
            hard_limits=delegated(),
            bus=self.bus,
            logs=self.logs,
            inherited=inherited(os.environ),
            owner=self.owner,
            spec_of=self.reconciler.spec_in_force,
            rows_of=self.reconciler.models_of,
            workshop=Workshop(
                settings.cache_dir,
                lambda: self.reconciler.desired,
                lambda: self.reconciler.observed,
            ),
        )
        self.reconciler.attach(self.executor)
        self.gauges = Gauges(self.bus, self.reconciler)
        self.idling = Idling(self.bus, self.reconciler, self.traffic)
        self.applied = AppliedSet(
            bus=self.bus, store=store, reconciler=self.reconciler, machine=self._machine
        )

    @cached_property
    def token(self) -> str:
        """What lets in over TCP: the one that was given, else one that is kept in a file."""
        return self.settings.token or kept_token(self.settings.token_path)

    def _machine(self) -> Machine:
        """What profiles are resolved against: this machine, as it is now."""
        observed = self.reconciler.observed
        ours = {
            status.spec.endpoint.port
            for status in observed.values()
            if status.phase in ALIVE and status.reason != "port-taken"
        }
        running = {
            name: status.spec.endpoint.port
            for name, status in observed.items()
            if status.spec.auto_port and status.phase in ALIVE
        }
        held = held_ports(self.store.ports(), running)
        listening = {one.port for one in ports.listeners()}
        return Machine(
            toolchain=self.toolchain,
            cache_dir=self.settings.cache_dir,
            run_dir=self.settings.run_dir,
            held_ports=held,
            taken_ports=frozenset(listening - ours),
            ephemeral=ports.ephemeral_range(),
            promises=Promises(kept=kept_promises(observed)),
            held_gpus=held_gpus(observed),
            budget=self.budget.now({}),
        )
