"""Which models of an Ollama server are to be in its memory, and for how long. Pure.

It is decided by blob: models that share their weights are in memory once, whoever loaded them.
The server owns its memory. What somebody's request pushed out comes back when there is room, after
a pause that grows: a fight over memory would only reload models for ever.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from enum import StrEnum

from msgspec import Struct, field
from msgspec.structs import replace

from orchestrator.core.spec import ModelSpec

FOREVER = math.inf
SLACK = 1.5
"""Seconds by which an expiry may be early: it is looked at some time after it was set."""
SETTLE = 6.0
"""Seconds before what left memory is brought back: it may be on its way out for another, which is
not there yet. Ollama itself waits up to five for the memory of a GPU."""
STEADY = 600.0
"""Seconds in memory after which earlier losses do not count."""


class Loaded(Struct, frozen=True):
    """A model in memory: by which name it was loaded, until when (FOREVER: no end in sight)."""

    name: str
    blob: str
    expires_at: float
    context: int = 0


class Resident(Struct, frozen=True):
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


class Tenure(Struct, frozen=True):
    """What is remembered of weights in memory. Instants are wall-clock seconds.

    `since` is when they were first seen there, None while they are not; `left_at` is when they were
    last seen there. `expires_at` is what the server said last, `looked_at` when. `crowd` is how
    many were in memory when they had to leave it, None where that is not known.
    """

    was: bool = False
    since: float | None = None
    expires_at: float | None = None
    looked_at: float | None = None
    losses: int = 0
    absence: Absence | None = None
    load_at: float = 0.0
    left_at: float = 0.0
    crowd: int | None = None

    @property
    def rested(self) -> bool:
        return self.absence is Absence.RESTED

    def told(self, now: float) -> Tenure:
        """The server was just told how long to keep it: what it said before is void."""
        return replace(self, was=True, expires_at=None, looked_at=now, absence=None)


class Outlook(Struct, frozen=True):
    """`load` is to be brought into memory, `hold` to be told again how long it stays there (under
    the name by which it is there), `lost` has just left it, or found its place taken. `tenures` is
    what to remember, and so is `arrived`: since when each is in memory."""

    load: tuple[Resident, ...] = ()
    hold: tuple[tuple[Resident, Loaded], ...] = ()
    lost: tuple[Resident, ...] = ()
    tenures: Mapping[str, Tenure] = field(default_factory=dict[str, Tenure])
    arrived: Mapping[str, float] = field(default_factory=dict[str, float])
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
    arrived: Mapping[str, float] | None = None,
) -> Outlook:
    """What to do about memory.

    `limit` is how many models the server keeps there, None where nobody says. `busy` are blobs that
    something is being done about right now, `dead` those whose process was killed: they are not in
    `loaded`, whatever their server says. `arrived` is what the last outlook said.
    """
    there = {one.blob: one for one in loaded}
    before = {blob: at for blob, at in (arrived or {}).items() if blob in there}
    since = {blob: before.get(blob, now) for blob in there}
    # When we loaded one is known better than when it was first seen there.
    known = {blob: tenures[blob].since for blob in there if blob in tenures}
    crowd = _Crowd(since | {blob: at for blob, at in known.items() if at is not None}, limit)
    count = len({*there, *busy})
    load: list[Resident] = []
    hold: list[tuple[Resident, Loaded]] = []
    lost: list[Resident] = []
    after: dict[str, Tenure] = {}
    wakes: list[float] = []
    for resident in wanted:
        tenure = tenures.get(resident.blob, Tenure())
        entry = there.get(resident.blob)
        if resident.blob in busy:
            after[resident.blob] = tenure
            continue
        if entry is not None:
            if _cut_short(resident, entry, tenure, now):
                hold.append((resident, entry))
            after[resident.blob] = _seen(tenure, entry, now)
            continue
        gone = _gone(resident, tenure, crowd, now=now, killed=resident.blob in dead)
        asked = resident.preload and not gone.rested and bool(resident.keep_alive)
        if asked and gone.load_at > now:
            wakes.append(gone.load_at)
        elif asked and not crowd.has_room_for(gone, count):
            gone = _waiting(gone, crowd, now)
        elif asked:
            count += 1
            load.append(resident)
        if gone.absence is not tenure.absence or gone.losses != tenure.losses:
            lost.append(resident)
        after[resident.blob] = gone
    wake_at = min(wakes, default=None)
    return Outlook(tuple(load), tuple(hold), tuple(lost), after, since, wake_at)


class _Crowd(Struct, frozen=True):
    """What is in memory: since when each, and how many there may be, where that is known."""

    since: Mapping[str, float]
    limit: int | None

    def has_pushed_out(self, left_at: float) -> bool:
        """Whether what was last seen then had to make room for another."""
        full = self.limit is not None and len(self.since) >= self.limit
        return full or any(at > left_at for at in self.since.values())

    def has_room_for(self, tenure: Tenure, count: int) -> bool:
        """Whether there is a place for it beside `count` others."""
        if not tenure.was:
            # Nothing has shown yet that there is none: the server makes room, if it can.
            return True
        if self.limit is not None:
            return count < self.limit
        # Nobody says how many fit. As many as were there when it had to leave leave no place.
        return tenure.absence is not Absence.EVICTED or count < self._crowded_at(tenure)

    def _crowded_at(self, tenure: Tenure) -> int:
        return max(len(self.since), 1) if tenure.crowd is None else tenure.crowd


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
        if made_way and crowd.has_pushed_out(before.left_at):
            # It was on its way out for another, as is seen only now.
            return _evicted(before, crowd, now)
        return before
    losses = before.losses + 1
    left_at = max(before.since, before.looked_at or 0.0)
    gone = Tenure(was=True, losses=losses, left_at=left_at)
    if killed:
        return replace(gone, absence=Absence.KILLED, load_at=now + _pause(losses - 1))
    expired = before.expires_at is not None and before.expires_at <= now + SLACK
    if expired and resident.keep_alive != FOREVER:
        return replace(gone, losses=before.losses, absence=Absence.RESTED)
    if crowd.has_pushed_out(left_at):
        return _evicted(gone, crowd, now)
    pause = max(_pause(losses - 1), SETTLE)
    return replace(gone, absence=Absence.UNLOADED, load_at=now + pause)


def _evicted(gone: Tenure, crowd: _Crowd, now: float) -> Tenure:
    return replace(
        gone,
        absence=Absence.EVICTED,
        load_at=now + _pause(gone.losses),
        crowd=max(len(crowd.since), 1),
    )


def _waiting(gone: Tenure, crowd: _Crowd, now: float) -> Tenure:
    """Of what finds no room: it is not on its way, and whoever waits for it is to know."""
    if gone.absence is Absence.EVICTED:
        return gone if gone.crowd is not None else replace(gone, crowd=max(len(crowd.since), 1))
    return gone if gone.absence is None else _evicted(gone, crowd, now)


def _pause(losses: int) -> float:
    """Seconds before what was lost so often is loaded again; none before the first time."""
    return min(5.0 * 2.0 ** (losses - 1), 300.0) if losses > 0 else 0.0
