"""Which models of an Ollama server are to be in its memory, and for how long. Pure.

It is decided by blob: models that share their weights are in memory once, whoever loaded them.
The server owns its memory. What somebody's request pushed out comes back when there is room, after
a pause that grows: a fight over memory would only reload models for ever.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from orchestrator.core.spec import ModelSpec

FOREVER = math.inf
SLACK = 1.5
"""Seconds by which an expiry may be early: it is looked at some time after it was set."""
SETTLE = 6.0
"""Seconds before what left memory is brought back: it may be on its way out for another, which is
not there yet. Ollama itself waits up to five for the memory of a GPU."""
STEADY = 600.0
"""Seconds in memory after which earlier losses do not count."""
DEFAULT_LIMIT = 3
"""How many models Ollama keeps in memory where nothing else is said, on a machine without GPUs."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model in memory: by which name it was loaded, until when (FOREVER: no end in sight)."""

    name: str
    blob: str
    expires_at: float
    context: int = 0


@dataclass(frozen=True, slots=True)
class Resident:
    """Weights that belong in memory, and all declared models that have them.

    `keep_alive` is the longest of theirs, in seconds, FOREVER, or None where nobody says.
    """

    blob: str
    names: tuple[str, ...]
    preload: bool
    keep_alive: float | None


class Absence(StrEnum):
    """Why what was in memory is not there any more."""

    RESTED = "rested"
    EVICTED = "evicted"
    UNLOADED = "unloaded"
    KILLED = "killed"


@dataclass(frozen=True, slots=True)
class Tenure:
    """What is remembered of weights in memory. Instants are wall-clock seconds.

    `since` is when they were first seen there, None while they are not. `expires_at` is what the
    server said last, `looked_at` when.
    """

    was: bool = False
    since: float | None = None
    expires_at: float | None = None
    looked_at: float | None = None
    losses: int = 0
    absence: Absence | None = None
    load_at: float = 0.0

    @property
    def rested(self) -> bool:
        return self.absence is Absence.RESTED

    def told(self, now: float) -> Tenure:
        """The server was just told how long to keep it: what it said before is void."""
        return replace(self, was=True, expires_at=None, looked_at=now, absence=None)


@dataclass(frozen=True, slots=True)
class Outlook:
    """`load` is to be brought into memory, `hold` to be told again how long it stays there (under
    the name by which it is there), `lost` has just left it. `tenures` is what to remember."""

    load: tuple[Resident, ...] = ()
    hold: tuple[tuple[Resident, Loaded], ...] = ()
    lost: tuple[Resident, ...] = ()
    tenures: Mapping[str, Tenure] = field(default_factory=dict[str, Tenure])
    wake_at: float | None = None


def residents(models: Sequence[ModelSpec], blobs: Mapping[str, str]) -> list[Resident]:
    """What the declared models ask for, by blob; `blobs` by name, of those that are present."""
    found: dict[str, Resident] = {}
    for model in models:
        blob = blobs.get(model.name)
        if blob is None:
            continue
        keep = _keep_alive(model)
        known = found.get(blob)
        if known is None:
            found[blob] = Resident(blob, (model.name,), model.preload, keep)
            continue
        both = [one for one in (known.keep_alive, keep) if one is not None]
        # The one that preloads comes first: by its name they are loaded.
        names = (*known.names, model.name)
        if model.preload and not known.preload:
            names = (model.name, *known.names)
        found[blob] = replace(
            known,
            names=names,
            preload=known.preload or model.preload,
            keep_alive=max(both, default=None),
        )
    return list(found.values())


def _keep_alive(model: ModelSpec) -> float | None:
    if model.keep_alive is None:
        return FOREVER if model.preload else None
    return FOREVER if model.keep_alive < 0 else model.keep_alive


def outlook(
    wanted: Sequence[Resident],
    loaded: Sequence[Loaded],
    tenures: Mapping[str, Tenure],
    *,
    now: float,
    limit: int | None,
    busy: Collection[str] = (),
    dead: Collection[str] = (),
) -> Outlook:
    """What to do about memory.

    `busy` are blobs that something is being done about right now, `dead` those whose process was
    killed: they are not in `loaded`, whatever their server says.
    """
    there = {one.blob: one for one in loaded}
    ours = {resident.blob for resident in wanted if resident.preload}
    crowd = _Crowd(
        full=len(loaded) >= (limit or DEFAULT_LIMIT),
        strangers=any(blob not in ours for blob in there),
    )
    room = (limit or DEFAULT_LIMIT) - len({*there, *busy})
    load: list[Resident] = []
    hold: list[tuple[Resident, Loaded]] = []
    lost: list[Resident] = []
    after: dict[str, Tenure] = {}
    wakes: list[float] = []
    for resident in wanted:
        before = tenures.get(resident.blob, Tenure())
        entry = there.get(resident.blob)
        if resident.blob in busy:
            after[resident.blob] = before
            continue
        if entry is not None:
            if _cut_short(resident, entry, before, now):
                hold.append((resident, entry))
            after[resident.blob] = _seen(before, entry, now)
            continue
        tenure = _gone(resident, before, crowd, now=now, killed=resident.blob in dead)
        if tenure is not before:
            lost.append(resident)
        after[resident.blob] = tenure
        if not resident.preload or tenure.rested or not resident.keep_alive:
            continue
        if tenure.load_at > now:
            wakes.append(tenure.load_at)
        elif not tenure.was or room > 0:
            room -= 1
            load.append(resident)
    return Outlook(tuple(load), tuple(hold), tuple(lost), after, min(wakes, default=None))


@dataclass(frozen=True, slots=True)
class _Crowd:
    """Whether there was somebody to make room for."""

    full: bool = False
    strangers: bool = False


def _cut_short(resident: Resident, entry: Loaded, before: Tenure, now: float) -> bool:
    """Whether somebody's request made it stay for less than is declared.

    An expiry that has not changed is only coming nearer. One that has was set by a request since
    the last look, and should be that much later.
    """
    keep = resident.keep_alive
    known = before.expires_at
    if not keep or entry.expires_at == known:
        return False
    if known is not None and abs(entry.expires_at - known) < SLACK:
        # As long as it was: a look at its health does not disturb it.
        return False
    if keep == FOREVER:
        return entry.expires_at != FOREVER
    return entry.expires_at < (before.looked_at or now) + keep - SLACK


def _seen(before: Tenure, entry: Loaded, now: float) -> Tenure:
    since = before.since if before.since is not None else now
    return Tenure(
        was=True,
        since=since,
        expires_at=entry.expires_at,
        looked_at=now,
        losses=before.losses if now - since < STEADY else 0,
    )


def _gone(resident: Resident, before: Tenure, crowd: _Crowd, *, now: float, killed: bool) -> Tenure:
    """Of what is not in memory; the same as before when that is no news."""
    if before.since is None:
        made_way = before.absence is Absence.UNLOADED and before.load_at > now
        if made_way and (crowd.full or crowd.strangers):
            # It was on its way out for another, as is seen only now.
            return replace(before, absence=Absence.EVICTED, load_at=now + _pause(before.losses))
        return before
    losses = before.losses + 1
    gone = Tenure(was=True, losses=losses)
    if killed:
        return replace(gone, absence=Absence.KILLED, load_at=now + _pause(losses - 1))
    expired = before.expires_at is not None and before.expires_at <= now + SLACK
    if expired and resident.keep_alive != FOREVER:
        return replace(gone, losses=before.losses, absence=Absence.RESTED)
    if crowd.full or crowd.strangers:
        return replace(gone, absence=Absence.EVICTED, load_at=now + _pause(losses))
    pause = max(_pause(losses - 1), SETTLE)
    return replace(gone, absence=Absence.UNLOADED, load_at=now + pause)


def _pause(losses: int) -> float:
    """Seconds before what was lost so often is loaded again; none before the first time."""
    return min(5.0 * 2.0 ** (losses - 1), 300.0) if losses > 0 else 0.0
