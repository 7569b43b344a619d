"""How a daemon is to behave."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec import Struct, field

from orchestrator.control.applied import Accepted, Rejected
from orchestrator.core.event import Event
from orchestrator.runtime.notify import Notifier
from orchestrator.runtime.state import AppliedSource


class Options(Struct, frozen=True):
    """What whoever starts it asks for. `first` is applied before anything else is loaded."""

    first: Sequence[AppliedSource] | None = None
    add: bool = False
    force: bool = False
    stops_instances: bool = False
    """In the foreground: a signal ends the instances too."""
    has_terminal: bool = False
    """SIGHUP says that it was closed; else that the applied files are to be read again."""
    continues: bool = False
    """What is applied already, if it is just `first`, is gone on with: a restart of the daemon."""
    notifier: Notifier = field(default_factory=Notifier)
    """Who wants to know how the daemon is."""
    on_applied: Callable[[Accepted | Rejected], None] | None = None
    on_listening: Callable[[], None] | None = None
    on_event: Callable[[Event], None] | None = None
