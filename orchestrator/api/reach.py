"""All that the API may reach of the daemon: owners' snapshots to read, and places to post to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from msgspec import Struct

from orchestrator.control.applied import AppliedSet
from orchestrator.control.bus import Bus
from orchestrator.control.history import History
from orchestrator.control.intents import Intents
from orchestrator.control.overview import Overview
from orchestrator.control.profile_files import ProfileFiles
from orchestrator.control.reconciler import Reconciler
from orchestrator.control.toolchain import Toolchain
from orchestrator.control.traffic import Traffic
from orchestrator.core.admission import BudgetNow
from orchestrator.runtime.logs import Logs
from orchestrator.runtime.state import Store


class Control(Struct, frozen=True):
    """One of each; nothing here is decided by whoever asks."""

    bus: Bus
    store: Store
    logs: Logs
    reconciler: Reconciler
    applied: AppliedSet
    profiles: ProfileFiles
    intents: Intents
    overview: Overview
    history: History
    toolchain: Toolchain
    traffic: Traffic
    budget: BudgetNow
    """What memory there is."""
    cache_dir: str
    token: Callable[[], str]
    """The bearer token of the API over TCP; made when it is asked for the first time."""
    suspect: Callable[[list[str]], list[str]]
    """Files of models were found damaged: the instances that look into it, and mend it."""
    down: Callable[[bool], Awaitable[None]]
    """Stop every instance and forget the applied set; True keeps the daemon."""
    leave: Callable[[bool], Awaitable[None]]
    """End the daemon; True stops the instances first, and remembers them all the same."""
