"""The loop, pass by pass: what it records before it acts, and that no event is indispensable.

The executor is a recording one, with a world behind it in which an instance has a process or not;
the store is a real one.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from orchestrator.control.bus import Bus, NewDesired
from orchestrator.control.executor import Executor
from orchestrator.control.reconciler import Reconciler
from orchestrator.core.event import Event, EventType
from orchestrator.core.spec import Desired, InstanceSpec
from orchestrator.core.status import InstanceStatus, Observed, Phase
from orchestrator.runtime.identity import boot_clock, boot_id
from orchestrator.runtime.state import Store
from tests.unit.test_plan import A, B, spec


@dataclass
class World:
    """Which processes there are: `start_id` by instance. Starting one twice is what must not be."""

    bus: Bus
    at_call: Callable[[str, str], None] = lambda _verb, _name: None
    deliver: Callable[[Event], bool] = lambda _event: True
    running: dict[str, str] = field(default_factory=dict[str, str])
    specs: dict[str, InstanceSpec] = field(default_factory=dict[str, InstanceSpec])
    calls: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])

    def start(self, spec: InstanceSpec, start_id: str) -> None:
        self._called("start", spec.name)
        assert spec.name not in self.running, f"{spec.name} was started twice"
        self.running[spec.name] = start_id
        self.specs[spec.name] = spec
        self.say(EventType.SPAWNED, spec.name, **self.process(spec.name))

    def stop(self, name: str, *, start_id: str, grace: float, drain: float = 0.0) -> None:
        self._called("stop", name)
        if name in self.running:
            self.ends(name, code=0)
        else:
            self.say(EventType.EXITED, name, start_id=start_id, exit_code=None, signal=None)

    def retune(self, name: str) -> None:
        self.at_call("retune", name)

    def kill(self, name: str) -> None:
        self._called("kill", name)

    def _called(self, verb: str, name: str) -> None:
        self.calls.append((verb, name))
        self.at_call(verb, name)

    def process(self, name: str) -> dict[str, object]:
        return {"pid": 100 + len(name), "start_ticks": 1, "boot_id": boot_id()}

    def ends(self, name: str, *, code: int) -> None:
        start_id = self.running.pop(name)
        event = Event(
            EventType.EXITED,
            name,
            reason="crashed" if code else "exited",
            message=f"exited with code {code}",
            data={"start_id": start_id, "exit_code": code, "signal": None},
        )
        if self.deliver(event):
            self.bus.post(event)

    def is_ready(self, name: str) -> None:
        self.say(EventType.READY, name, ready_after_s=0.1)

    def say(self, kind: EventType, name: str, **data: object) -> None:
        event = Event(kind, name, data={"start_id": self.running.get(name, "gone"), **data})
        if self.deliver(event):
            self.bus.post(event)

    def tell_the_truth(self, observed: Observed) -> None:
        """What a daemon that begins posts: of every recorded instance, whether it lives."""
        for name, start_id in self.running.items():
            data = {"start_id": start_id, "started_at": boot_clock(), **self.process(name)}
            self.bus.post(Event(EventType.ADOPTED, name, data=data, spec=self.specs[name]))
            self.bus.post(Event(EventType.READY, name, data={"start_id": start_id}))
        for name, status in observed.items():
            if name not in self.running:
                data = {"start_id": status.start_id, "exit_code": None, "signal": None}
                self.bus.post(Event(EventType.EXITED, name, reason="crashed", data=data))


class Loop:
    """A reconciler, its store and its world."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.store = Store.open(path)
        self.bus = Bus(last_id=self.store.last_event_id())
        self.world = World(self.bus)
        self.reconciler = Reconciler(bus=self.bus, store=self.store, observed=self.store.observed())
        self.reconciler.attach(cast(Executor, self.world))

    def want(self, *specs: InstanceSpec, renew: bool = False) -> float | None:
        desired: Desired = {one.name: one for one in specs}
        self.bus.post(NewDesired(desired, renew=renew))
        return self.step()

    def step(self) -> float | None:
        return self.reconciler.step()

    def post(self, kind: EventType, name: str, **more: object) -> None:
        self.bus.post(replace(Event(kind, name), **more))  # type: ignore[arg-type]

    def all_ready(self) -> None:
        for name in self.world.running:
            self.world.is_ready(name)
        self.step()

    def calls(self) -> list[tuple[str, str]]:
        """Since they were last asked for."""
        calls, self.world.calls = self.world.calls, []
        return calls

    def phase(self, name: str) -> Phase:
        return self.reconciler.observed[name].phase

    def stored(self) -> Observed:
        store = Store.open_to_read(self.path)
        assert store is not None
        with closing(store):
            return store.observed()

    def story(self) -> list[tuple[str, str]]:
        return [(event["type"], event["instance"]) for event in self.store.events()]


@contextmanager
def looping(folder: Path) -> Generator[Loop]:
    loop = Loop(str(folder / "state.db"))
    try:
        yield loop
    finally:
        loop.store.close()


@pytest.fixture
def loop(tmp_path: Path) -> Generator[Loop]:
    with looping(tmp_path) as made:
        yield made


# --- a pass ---------------------------------------------------------------------------------------


def test_a_life_pass_by_pass(loop: Loop) -> None:
    seen = loop.bus.subscribe()
    assert loop.want(A) is None
    assert (loop.phase("a"), loop.calls()) == (Phase.STARTING, [("start", "a")])
    assert not loop.reconciler.state.converged

    loop.all_ready()
    assert (loop.phase("a"), loop.calls()) == (Phase.READY, [])
    assert loop.reconciler.state.converged

    loop.want(spec(ctx=1024))
    assert (loop.phase("a"), loop.calls()) == (Phase.STOPPING, [("stop", "a")])
    loop.step()
    assert (loop.phase("a"), loop.calls()) == (Phase.STARTING, [("start", "a")])
    loop.all_ready()

    loop.want()
    assert loop.calls() == [("stop", "a")]
    loop.step()
    assert (loop.reconciler.observed, loop.stored()) == ({}, {})
    kinds = [kind for kind, _ in loop.story()]
    assert kinds == (
        [
            "starting",
            "spawned",
            "ready",
            "converged",
            "stopping",
            "exited",
            "starting",
            "spawned",
            "ready",
            "converged",
            "stopping",
            "exited",
            "forgotten",
            "converged",
        ]
    )
    assert seen.lost is False


def test_nothing_is_planned_until_it_is_known_what_is_applied(loop: Loop) -> None:
    loop.world.running["a"] = "s1"
    loop.world.specs["a"] = A
    loop.world.tell_the_truth({})
    assert loop.step() is None
    assert (loop.phase("a"), loop.calls()) == (Phase.READY, [])
    loop.want()
    assert loop.calls() == [("stop", "a")]


def test_passes_without_news_do_nothing_and_write_nothing(loop: Loop) -> None:
    loop.want(A, B)
    loop.all_ready()
    loop.calls()
    before = loop.store._db.total_changes
    for _ in range(5):
        loop.step()
    assert loop.calls() == []
    assert loop.store._db.total_changes == before


def test_what_is_submitted_is_on_record_before_it_is_done(loop: Loop) -> None:
    on_record: list[tuple[str, Phase, bool]] = []

    def look(verb: str, name: str) -> None:
        status = loop.stored()[name]
        same_run = loop.world.running.get(name, status.start_id) == status.start_id
        on_record.append((verb, status.phase, same_run))

    loop.world.at_call = look
    loop.want(A)
    loop.all_ready()
    loop.post(EventType.REDO, "a")
    loop.step()
    loop.step()
    assert on_record == [
        ("start", Phase.STARTING, True),
        ("stop", Phase.STOPPING, True),
        ("start", Phase.STARTING, True),
    ]


def test_each_start_has_an_id_of_its_own(loop: Loop) -> None:
    ids: set[str] = set()
    loop.want(A, B)
    for _ in range(5):
        loop.all_ready()
        ids |= set(loop.world.running.values())
        for name in "ab":
            loop.post(EventType.REDO, name)
        loop.step()
        loop.step()
    assert len(ids) == 10


def test_an_unchanged_neighbour_is_not_touched(loop: Loop) -> None:
    loop.want(A, B)
    loop.all_ready()
    loop.calls()
    before = dict(loop.world.running)
    loop.want(A, spec("b", port=8002, ctx=1), spec("c", port=8003))
    loop.step()
    assert ("stop", "a") not in loop.calls()
    assert loop.world.running["a"] == before["a"]
    assert loop.world.running["b"] != before["b"]


def test_needs_are_started_in_their_order(loop: Loop) -> None:
    first = spec("c", port=8003)
    second = spec("b", port=8002, needs=("c",))
    last = spec("a", needs=("b",))
    loop.want(last, second, first)
    order = loop.calls()
    for _ in range(2):
        assert set(loop.reconciler.plan.pending) == {"a", "b"} - {name for _, name in order}
        loop.all_ready()
        order += loop.calls()
    assert order == [("start", "c"), ("start", "b"), ("start", "a")]
    loop.all_ready()
    assert loop.reconciler.state.converged


def test_it_wants_to_be_woken_when_the_next_try_is_due(loop: Loop) -> None:
    loop.want(A)
    loop.world.ends("a", code=1)
    due = loop.step()
    status = loop.reconciler.observed["a"]
    assert due is not None
    assert due == status.retry_at
    assert 0.5 < due - boot_clock() <= 1.0
    assert loop.calls() == [("start", "a")]
    loop.reconciler.observed["a"] = replace(status, retry_at=boot_clock())
    assert loop.step() is None
    assert (loop.phase("a"), loop.calls()) == (Phase.STARTING, [("start", "a")])
    assert loop.reconciler.observed["a"].restarts == 1


def test_a_live_field_changes_in_place(loop: Loop) -> None:
    loop.want(A)
    loop.all_ready()
    loop.calls()
    loop.want(replace(A, description="new"))
    assert loop.calls() == []
    assert loop.reconciler.observed["a"].spec.description == "new"
    assert loop.stored()["a"].spec.description == "new"
    assert loop.reconciler.state.converged


def test_a_held_instance_stays_down_and_an_apply_releases_it(loop: Loop) -> None:
    loop.want(A)
    loop.all_ready()
    loop.post(EventType.HELD, "a", spec=A)
    loop.step()
    loop.step()
    assert (loop.phase("a"), loop.world.running) == (Phase.STOPPED, {})
    loop.want(A)
    assert loop.world.running == {}, "an edit does not release it"
    loop.want(A, renew=True)
    assert loop.phase("a") is Phase.STARTING


# --- events that do not come as they should -------------------------------------------------------

three = (A, B, spec("c", port=8003, needs=("a",)))


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_lost_doubled_and_late_events_cost_time_and_never_a_second_process(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    late: list[Event] = []

    def deliver(event: Event) -> bool:
        fate = data.draw(st.sampled_from(["comes", "is lost", "comes twice", "is late"]))
        if fate == "is late":
            late.append(event)
        if fate == "comes twice":
            loop.bus.post(event)
        return fate.startswith("comes")

    with looping(tmp_path_factory.mktemp("loop")) as loop:
        loop.world.deliver = deliver
        loop.want(*three)
        for _ in range(data.draw(st.integers(1, 12))):
            happens = data.draw(st.sampled_from(["ready", "dies", "edit", "redo", "late", "pass"]))
            names = sorted(loop.world.running)
            if happens == "edit":
                chosen = data.draw(st.sets(st.sampled_from("abc"), min_size=1))
                loop.want(*(one for one in three if one.name in chosen))
            elif happens == "redo":
                loop.post(EventType.REDO, data.draw(st.sampled_from("abc")))
            elif happens == "late" and late:
                loop.bus.post(late.pop(0))
            elif happens in ("ready", "dies") and names:
                name = data.draw(st.sampled_from(names))
                loop.world.is_ready(name) if happens == "ready" else loop.world.ends(name, code=1)
            loop.step()

        loop.world.deliver = lambda event: True
        converges(loop, late)


def converges(loop: Loop, late: list[Event]) -> None:
    """Once the truth has come it takes a few passes, whatever comes late in between."""
    loop.want(*three, renew=True)
    loop.world.tell_the_truth(loop.reconciler.observed)
    for _ in range(12):
        for event in late:
            loop.bus.post(event)
        now = boot_clock()
        for name, status in loop.reconciler.observed.items():
            if status.phase is Phase.BACKOFF:
                loop.reconciler.observed[name] = replace(status, retry_at=now)
            if status.phase is Phase.FAILED:
                loop.post(EventType.REDO, name)
        loop.all_ready()
    assert loop.reconciler.state.converged, loop.reconciler.state
    assert set(loop.world.running) == {"a", "b", "c"}
    observed = loop.reconciler.observed
    assert {name: status.start_id for name, status in observed.items()} == loop.world.running
    assert loop.stored() == observed


def test_events_of_an_earlier_run_say_nothing_of_this_one(loop: Loop) -> None:
    loop.want(A)
    first = loop.world.running["a"]
    loop.all_ready()
    loop.world.ends("a", code=1)
    loop.step()
    loop.reconciler.observed["a"] = replace(loop.reconciler.observed["a"], retry_at=0.0)
    loop.step()
    assert loop.phase("a") is Phase.STARTING
    loop.post(EventType.READY, "a", data={"start_id": first})
    loop.post(EventType.EXITED, "a", data={"start_id": first, "exit_code": 1})
    loop.step()
    assert loop.phase("a") is Phase.STARTING


# --- a store that fails ---------------------------------------------------------------------------


def refuse_writes(loop: Loop, refuse: bool) -> None:
    """As a disk does that was mounted anew, read-only, and later not."""
    loop.store._db.execute(f"PRAGMA query_only = {int(refuse)}")


def test_instances_go_on_though_nothing_can_be_saved_and_all_is_saved_later(loop: Loop) -> None:
    loop.want(A)
    loop.all_ready()
    refuse_writes(loop, True)
    loop.world.ends("a", code=1)
    loop.step()
    loop.want(A, B, renew=True)
    loop.step()
    loop.all_ready()
    assert (loop.phase("a"), loop.phase("b")) == (Phase.READY, Phase.READY)
    assert loop.reconciler.store_error
    assert loop.stored().keys() == {"a"}
    assert [kind for kind, _ in loop.story()].count("store-error") == 0

    refuse_writes(loop, False)
    loop.step()
    assert loop.reconciler.store_error == ""
    loop.step()
    assert loop.stored() == loop.reconciler.observed
    kinds = [kind for kind, _ in loop.story()]
    assert kinds.count("store-error") == kinds.count("store-ok") == 1, "said once each"
    assert kinds.count("exited") == 1, "what happened meanwhile is in the timeline"
    ids = [event["id"] for event in loop.store.events()]
    assert ids == sorted(set(ids))


def test_what_waits_to_be_saved_does_not_grow_for_ever(loop: Loop) -> None:
    loop.want(A)
    refuse_writes(loop, True)
    for _ in range(30):
        for _ in range(100):
            loop.post(EventType.UNREADY, "a")
        loop.step()
    assert len(loop.reconciler._unsaved) <= 1000
    refuse_writes(loop, False)
    loop.step()
    assert loop.reconciler._unsaved == []


def test_a_store_that_was_closed_is_no_end_of_the_loop(loop: Loop) -> None:
    loop.want(A)
    loop.store._db.close()
    loop.all_ready()
    assert loop.phase("a") is Phase.READY
    assert "closed" in loop.reconciler.store_error
    loop.store._db = sqlite3.connect(":memory:")


def test_a_new_daemon_begins_where_the_last_one_stopped(tmp_path: Path) -> None:
    with looping(tmp_path) as before:
        before.want(A)
        before.all_ready()
        last_id = before.bus.last_id
        running = dict(before.world.running)
    with looping(tmp_path) as after:
        assert after.bus.last_id == last_id
        after.world.running, after.world.specs = running, {"a": A}
        after.world.tell_the_truth(after.reconciler.observed)
        after.want(A)
        assert (after.phase("a"), after.calls()) == (Phase.READY, [])
        after.want(A)
        status: InstanceStatus = after.reconciler.observed["a"]
        assert (status.start_id, status.restarts) == (running["a"], 0)


def test_what_waits_says_so_once_and_its_tries_are_no_restarts(loop: Loop) -> None:
    # Nothing is ever spawned.
    loop.world.deliver = lambda _event: False
    loop.want(A)
    waits = {"waits": True, "permanent": False}

    def refused(why: str) -> None:
        start_id = loop.world.running.pop("a")
        data = {**waits, "start_id": start_id}
        loop.bus.post(Event(EventType.START_FAILED, "a", "port-taken", why, data))
        loop.step()
        waiting = loop.reconciler.observed["a"]
        loop.reconciler.observed["a"] = replace(waiting, retry_at=boot_clock())
        loop.step()

    for why in ("by one", "by one", "by one", "by another"):
        refused(why)
    kept = [(e["type"], e["message"]) for e in loop.store.events(instance="a")]
    assert [message for kind, message in kept if kind == "start-failed"] == ["by one", "by another"]
    assert [kind for kind, _ in kept].count("starting") == 1
    assert loop.reconciler.observed["a"].restarts == 0
