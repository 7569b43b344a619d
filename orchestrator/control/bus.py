"""The way events travel: posted by anyone, folded by the reconciler, then shown to subscribers.

A subscriber that does not keep up is dropped, never waited for.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Generator, Iterable

from msgspec import Struct
from msgspec.structs import replace

from orchestrator.core.event import Event
from orchestrator.core.spec import Desired
from orchestrator.runtime.identity import boot_clock

SUBSCRIBER_LIMIT = 1000
"""Events that a subscriber may lag behind."""


class NewDesired(Struct, frozen=True):
    """The applied files mean something else now. `renew`: it was the verb `apply`, not an edit, and
    of those instances alone that it was about (`only`, None for all).

    `number` counts the applied sets; an edit stays within one. `forced`: whether it fits into
    memory is not asked.
    """

    desired: Desired
    renew: bool
    number: int = 0
    event: Event | None = None
    forced: bool = False
    only: frozenset[str] | None = None


class Subscription:
    """Events as they are published. `lost` is True once the reader was too slow."""

    def __init__(self) -> None:
        self._waiting: deque[Event] = deque()
        self._wake = asyncio.Event()
        self.lost = False

    def push(self, events: Iterable[Event]) -> None:
        self._waiting.extend(events)
        if len(self._waiting) > SUBSCRIBER_LIMIT:
            self._waiting.clear()
            self.lost = True
        self._wake.set()

    async def next(self) -> list[Event]:
        """All that came since the last call; waits for at least one push (it may be empty)."""
        await self._wake.wait()
        return self.pending()

    def pending(self) -> list[Event]:
        """All that came since the last call, which may be nothing."""
        self._wake.clear()
        events = list(self._waiting)
        self._waiting.clear()
        return events


class Bus:
    """Inbox of the reconciler and feed of everybody else."""

    def __init__(self, *, last_id: int = 0) -> None:
        self._last_id = last_id
        self._inbox: deque[Event | NewDesired] = deque()
        self._wake = asyncio.Event()
        self._subscriptions: set[Subscription] = set()
        self.over = False
        """Whether the daemon takes its leave: who follows is to end."""

    @property
    def last_id(self) -> int:
        """The id of the newest event."""
        return self._last_id

    def stamp(self, event: Event) -> Event:
        """The event with its id and its instants."""
        self._last_id += 1
        return replace(event, id=self._last_id, time=time.time(), at=boot_clock())

    def post(self, item: Event | NewDesired) -> None:
        """Hand over to the reconciler. Never blocks, never fails."""
        self._inbox.append(self.stamp(item) if isinstance(item, Event) else item)
        self._wake.set()

    def drain(self) -> list[Event | NewDesired]:
        """Everything posted since the last call."""
        self._wake.clear()
        items = list(self._inbox)
        self._inbox.clear()
        return items

    async def posted(self) -> None:
        """Wait until there is something to drain."""
        await self._wake.wait()

    def publish(self, events: Iterable[Event]) -> None:
        """Show the folded events of a pass to every subscriber, by rising id."""
        # What a pass adds of its own has later ids than what waited for it, wherever it is folded.
        shown = sorted(events, key=lambda event: event.id)
        for subscription in self._subscriptions:
            subscription.push(shown)

    def close(self) -> None:
        """Wake everybody who follows, a last time."""
        self.over = True
        for subscription in self._subscriptions:
            subscription.push(())

    def subscribe(self) -> Subscription:
        subscription = Subscription()
        self._subscriptions.add(subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        self._subscriptions.discard(subscription)

    @contextlib.contextmanager
    def listening(self) -> Generator[Subscription]:
        """A subscription for as long as it is used."""
        subscription = self.subscribe()
        try:
            yield subscription
        finally:
            self.unsubscribe(subscription)
