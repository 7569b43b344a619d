"""Plan, fold and loop in a simulated world where everything happens, in every order.

Hypothesis looks for a story that breaks one of the laws in `core_laws`, and tells the shortest.
`MACHINE_EXAMPLES` is how many stories it tries (they are few by default), `MACHINE_STEPS` how long
each may be.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    precondition,
    rule,
    run_state_machine_as_test,
)

from orchestrator.core.event import EventType
from orchestrator.core.spec import OnDemand
from orchestrator.core.successor import base_of, next_of, old_of
from tests import core_laws
from tests.core_wishes import BAD, GOOD, MEMORY, MODELS, NAMES, OLLAMA, OTHER, PORTS, Wish
from tests.core_world import World

EXAMPLES = int(os.environ.get("MACHINE_EXAMPLES", "100"))
STEPS = int(os.environ.get("MACHINE_STEPS", "40"))

TURNS = 400
"""In which a world that is left alone has to come to rest."""

names = st.sampled_from(NAMES)
anybody = st.sampled_from([*NAMES, *map(next_of, NAMES), *map(old_of, NAMES)])
instants = st.sampled_from([0.0, 0.3, 1.0, 4.0, 11.0, 700.0, 1e5])
nth = st.integers(0, 5)


class Story(RuleBasedStateMachine):
    """What may happen next. Where it cannot just now, nothing does."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()

    def teardown(self) -> None:
        try:
            if sys.exc_info()[0] is None:
                self.world.settle(TURNS)
                self.world.declare(renew=True)
                self.world.settle(TURNS)
                core_laws.all_well(self.world)
        finally:
            self.world.close()

    # --- people -----------------------------------------------------------------------------------

    @rule(
        name=names,
        port=st.sampled_from(PORTS),
        needs=st.sampled_from([(), ("a",), ("o",), ("a", "b")]),
        attach=st.sampled_from(["auto", "never", "only"]),
        models=st.sampled_from([(), MODELS[:1], MODELS]),
        borrows=st.booleans(),
        memory=st.sampled_from([None, None, 20, 60]),
        on_demand=st.sampled_from(
            [None, OnDemand(), OnDemand(9.0), OnDemand(9.0, pin=True), OnDemand(9.0, preload=True)]
        ),
        strategy=st.sampled_from(["stop-first", "start-first"]),
        renew=st.booleans(),
    )
    def declares(
        self,
        name: str,
        port: int,
        needs: tuple[str, ...],
        attach: str,
        models: tuple[str, ...],
        borrows: bool,
        memory: int | None,
        on_demand: OnDemand | None,
        strategy: str,
        renew: bool,
    ) -> None:
        ollama = name == OLLAMA
        wish = Wish(
            port,
            needs=tuple(need for need in needs if need < name or need == OLLAMA) * (not ollama),
            attach=attach if ollama else "never",  # type: ignore[arg-type]
            models=models * ollama,
            borrows=borrows and name == "c",
            memory=memory,
            on_demand=None if ollama else on_demand,
            strategy=strategy,  # type: ignore[arg-type]
            auto_port=strategy == "start-first",
        )
        self._wish(name, wish, renew=renew)

    @precondition(lambda self: self.world.wishes)
    @rule(
        name=names,
        change=st.sampled_from(
            [
                {"ctx": GOOD},
                {"ctx": OTHER},
                {"ctx": BAD},
                {"description": "x"},
                {"description": ""},
                {"policy": "never"},
                {"policy": "always"},
                {"policy": "on-failure"},
                {"on_failure": "keep"},
                {"on_failure": "rollback"},
                {"auto_port": True},
                {"auto_port": True, "strategy": "start-first"},
                {"auto_port": True, "strategy": "start-first", "on_failure": "keep"},
                {"strategy": "stop-first"},
                {"needs": ()},
                {"preload": True},
                {"models": MODELS},
                {"models": ()},
                {"memory": 20},
                {"memory": 60},
                {"memory": None},
                {"on_demand": None},
                {"on_demand": OnDemand(9.0)},
                *({"port": port} for port in PORTS[:3]),
            ]
        ),
        renew=st.booleans(),
    )
    def edits(self, name: str, change: dict[str, object], renew: bool) -> None:
        only = {"models": name == OLLAMA, "on_demand": name != OLLAMA}
        if name in self.world.wishes and all(only.get(key, True) for key in change):
            wish = replace(self.world.wishes[name], **change)  # type: ignore[arg-type]
            self._wish(name, wish, renew=renew)

    @precondition(lambda self: self.world.runs)
    @rule(index=nth, bad=st.booleans())
    def a_change_does_not_come_up(self, index: int, bad: bool) -> None:
        """For what is wrong with it, or by bad luck."""
        name = self.world.runs[index % len(self.world.runs)].name
        if name not in self.world.wishes:
            return
        was = self.world.wishes[name].ctx
        ctx = BAD if bad else GOOD if was == OTHER else OTHER
        self._wish(name, replace(self.world.wishes[name], ctx=ctx), renew=False)
        for _ in range(12):
            run = self.world.run_of(next_of(name)) or self.world.run_of(name)
            if run is not None and run.state == "loading":
                self.world.end(run, 1)
                break
            self.world.turn()

    @precondition(lambda self: self.world.runs)
    @rule(index=nth, changes=st.integers(1, 2), far=st.integers(0, 8), fits=st.booleans())
    def is_in_the_middle_of_being_followed(
        self, index: int, changes: int, far: int, fits: bool
    ) -> None:
        """By another process, or by the second one in a row."""
        name = base_of(self.world.runs[index % len(self.world.runs)].name)
        if name not in self.world.wishes or name == OLLAMA:
            return
        for _ in range(changes):
            wish = self.world.wishes[name]
            ctx = GOOD if wish.ctx == OTHER else OTHER
            memory = None if fits else wish.memory
            wish = replace(wish, strategy="start-first", auto_port=True, ctx=ctx, memory=memory)
            self._wish(name, wish, renew=False)
            for _ in range(far):
                self.world.turn()

    @precondition(lambda self: len(self.world.wishes) > 1)
    @rule(one=names, other=names)
    def swaps_ports(self, one: str, other: str) -> None:
        wishes = self.world.wishes
        if one in wishes and other in wishes:
            first, second = wishes[one], wishes[other]
            wishes[one] = replace(first, port=second.port)
            wishes[other] = replace(second, port=first.port)
            self.world.declare(renew=False)

    @precondition(lambda self: self.world.wishes)
    @rule(index=nth)
    def removes(self, index: int) -> None:
        del self.world.wishes[list(self.world.wishes)[index % len(self.world.wishes)]]
        self.world.declare(renew=False)

    @rule(renew=st.booleans())
    def saves(self, renew: bool) -> None:
        self.world.declare(renew=renew)

    @precondition(lambda self: self.world.wishes)
    @rule()
    def takes_all_down(self) -> None:
        self.world.wishes.clear()
        self.world.declare(renew=False)

    @rule(verb=st.sampled_from(["start", "stop", "restart", "kill"]), name=names)
    def asks(self, verb: str, name: str) -> None:
        self.world.ask(verb, name)  # type: ignore[arg-type]

    @rule(name=names)
    def a_request_comes(self, name: str) -> None:
        self.world.want(name)

    @rule(
        order=st.permutations(NAMES[:3]),
        pinned=st.sampled_from(NAMES[:3]),
        at_work=st.sampled_from(NAMES[:3]),
    )
    def more_is_asked_for_than_fits(self, order: list[str], pinned: str, at_work: str) -> None:
        for port, name in enumerate(order, 1):
            on_demand = OnDemand(9.0, pin=name == pinned)
            self._wish(name, Wish(port, memory=60, on_demand=on_demand), renew=False)
        for name in order:
            self.world.want(name)
            for _ in range(12):
                self.world.turn()
            run = self.world.run_of(name)
            if name == at_work and run is not None and run.serves:
                self.world.busy.add(name)

    @precondition(lambda self: self.world.runs)
    @rule(index=nth, busy=st.booleans())
    def one_is_at_work(self, index: int, busy: bool) -> None:
        run = self.world.runs[index % len(self.world.runs)]
        self.world.busy.discard(run.name)
        self.world.used[run.name] = self.world.clock
        if busy and run.serves:
            self.world.busy.add(run.name)

    @rule(name=names)
    def nobody_uses(self, name: str) -> None:
        self.world.idle(name)

    def _wish(self, name: str, wish: Wish, *, renew: bool) -> None:
        """Two on one port would be refused, and so would more than there is memory."""
        others = {other: w for other, w in self.world.wishes.items() if other != name}
        taken = {other.port for other in others.values()}
        if wish.port in taken:
            wish = replace(wish, port=next(port for port in PORTS if port not in taken))
        both = [*others.values(), wish]
        always = sum(one.memory or 0 for one in both if one.on_demand is None)
        if always + max((one.memory or 0 for one in both if one.on_demand), default=0) > MEMORY:
            wish = replace(wish, memory=None)
        self.world.wishes = {**others, name: wish}
        self.world.declare(renew=renew)

    # --- the loop ---------------------------------------------------------------------------------

    @rule()
    def passes(self) -> None:
        self.world.step()

    @rule(count=st.integers(1, 30))
    def goes_its_way(self, count: int) -> None:
        for _ in range(count):
            if not self.world.turn():
                break

    @rule(seconds=instants)
    def time_passes(self, seconds: float) -> None:
        self.world.pass_time(seconds)

    @precondition(lambda self: self.world.mail)
    @rule(index=nth, twice=st.booleans())
    def mail_arrives(self, index: int, twice: bool) -> None:
        self.world.arrive(index % len(self.world.mail), twice=twice)

    @precondition(lambda self: self.world.mail)
    @rule(index=nth)
    def mail_is_lost(self, index: int) -> None:
        self.world.lose(index % len(self.world.mail))

    @precondition(lambda self: self.world.history)
    @rule(index=st.integers(0, 50))
    def mail_of_an_earlier_run_arrives(self, index: int) -> None:
        event = self.world.history[-1 - index % len(self.world.history)]
        known = {status.start_id for status in self.world.loop.observed.values()}
        if event.data["start_id"] not in known:
            self.world.bus.deliver(event)

    @rule(reboot=st.booleans(), blind=st.booleans(), unwaited=st.booleans(), dead=st.sets(anybody))
    def the_daemon_dies(self, reboot: bool, blind: bool, unwaited: bool, dead: set[str]) -> None:
        ended = [run for run in self.world.runs if run.name in dead]
        self.world.runs = [run for run in self.world.runs if run not in ended]
        self.world.corpses += ended
        self.world.die_and_return(reboot=reboot, first_pass_blind=blind, unwaited=unwaited)

    @rule(full=st.booleans())
    def the_disk_fills(self, full: bool) -> None:
        self.world.disk_full = full

    @precondition(lambda self: self.world.runs)
    @rule(index=nth, unwaited=st.booleans())
    def one_begins_again_and_that_is_on_no_record(self, index: int, unwaited: bool) -> None:
        self.world.disk_full = True
        self.world.end(self.world.runs[index % len(self.world.runs)], 1)
        for _ in range(12):
            self.world.turn()
        self.world.die_and_return(reboot=False, first_pass_blind=False, unwaited=unwaited)
        self.world.disk_full = False

    @rule(memory=st.sampled_from([0, 50, 90]))
    def others_take_memory(self, memory: int) -> None:
        self.world.others_memory = memory

    # --- the world --------------------------------------------------------------------------------

    @precondition(lambda self: self.world.starts)
    @rule(
        index=nth,
        fault=st.sampled_from(["", "", "", "log-unwritable", "binary-missing", "bug", "bad-flag"]),
    )
    def a_start_ends(self, index: int, fault: str) -> None:
        starting = list(self.world.starts)
        self.world.carry_out(starting[index % len(starting)], fault)

    @precondition(lambda self: self.world.runs)
    @rule(index=nth, code=st.sampled_from([0, 1, 137, None]))
    def one_dies(self, index: int, code: int | None) -> None:
        self.world.end(self.world.runs[index % len(self.world.runs)], code)

    @precondition(lambda self: self.world.runs)
    @rule(index=nth)
    def one_is_loaded(self, index: int) -> None:
        run = self.world.runs[index % len(self.world.runs)]
        if run.state == "loading":
            self.world.load(run)

    @precondition(lambda self: self.world.runs)
    @rule(index=nth, hangs=st.booleans())
    def one_hangs(self, index: int, hangs: bool) -> None:
        run = self.world.runs[index % len(self.world.runs)]
        if hangs:
            run.state = "hung"
        elif run.state == "hung":
            run.state = "serving" if run.told else "loading"

    @precondition(lambda self: self.world.runs)
    @rule(index=nth)
    def one_is_probed(self, index: int) -> None:
        self.world.probe(self.world.runs[index % len(self.world.runs)])

    @rule(port=st.sampled_from(PORTS[:4]), who=st.sampled_from(["other", "ollama", ""]))
    def somebody_takes_a_port(self, port: int, who: str) -> None:
        if who and self.world.listener(port) != "ours":
            self.world.strangers[port] = who
        elif not who:
            self.world.strangers.pop(port, None)

    @precondition(lambda self: self.world.attached)
    @rule()
    def attached_servers_are_looked_at(self) -> None:
        for attached in list(self.world.attached.values()):
            self.world.look_at(attached)

    @precondition(lambda self: OLLAMA in self.world.loop.observed)
    @rule(outcome=st.sampled_from(["there", "failed", "evicted"]))
    def models_are_looked_at(self, outcome: str) -> None:
        self.world.provision(OLLAMA, outcome)

    @precondition(lambda self: self.world.models)
    @rule(model=st.sampled_from(MODELS))
    def somebody_removes_a_model(self, model: str) -> None:
        self.world.models.discard(model)

    @precondition(lambda self: self.world.loop.observed)
    @rule(index=nth)
    def a_cause_is_mended(self, index: int) -> None:
        known = list(self.world.loop.observed.values())
        status = known[index % len(known)]
        if status.phase == "failed" or (status.phase, status.reason) == ("backoff", "port-taken"):
            self.world.tell(EventType.MENDED, status.name, status.start_id)

    @rule()
    def all_is_resolved_anew_if_need_be(self) -> None:
        self.world.look_again()

    @rule(name=st.sampled_from(NAMES))
    def a_file_changes(self, name: str) -> None:
        path = f"/{name}.gguf"
        self.world.versions[path] = self.world.versions.get(path, 0) + 1

    @rule()
    def it_is_left_alone(self) -> None:
        self.world.settle(TURNS)


# A few seconds; but where it fails, the story is first made short.
@pytest.mark.timeout(0 if "MACHINE_EXAMPLES" in os.environ else 300)
def test_no_story_breaks_a_law() -> None:
    run_state_machine_as_test(
        Story,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            report_multiple_bugs=False,
            # To explain a failure, every line is traced: that takes minutes.
            phases=(Phase.reuse, Phase.generate, Phase.shrink),
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )


# --- stories that were found so, each as short as it gets -----------------------------------------


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.close()


def declared(world: World, **wishes: Wish) -> World:
    """These run, and nothing is on its way."""
    world.wishes.update(wishes)
    world.declare(renew=False)
    world.settle(TURNS)
    return world


def test_a_stop_that_meets_a_crash_neither_waits_nor_spins(world: World) -> None:
    declared(world, a=Wish(1))
    world.ask("stop", "a")
    world.end(world.runs[0], 1)
    world.arrive(0)
    world.step()
    held = world.loop.observed["a"]
    assert (held.phase, held.reason, world.wake_at) == ("stopped", "held", None)


def test_a_delay_of_before_the_machine_was_started_anew_is_over(world: World) -> None:
    world.clock = 1e6
    declared(world, a=Wish(1))
    world.end(world.runs[0], 1)
    world.settle(TURNS)
    world.end(world.runs[0], 1)
    world.arrive(0)
    world.step()
    assert world.loop.observed["a"].phase == "backoff"
    world.die_and_return(reboot=True, first_pass_blind=False, unwaited=False)
    assert "a" in world.starts


def test_a_change_that_waits_for_a_model_is_not_there_yet(world: World) -> None:
    declared(world, a=Wish(1), c=Wish(3), o=Wish(2, models=MODELS))
    world.models.clear()
    world.wishes["c"] = replace(world.wishes["c"], borrows=True)
    world.declare(renew=False)
    world.step()
    assert [run.name for run in world.runs] == ["a", "c", "o"], "it goes on as it was meanwhile"
    assert not world.loop.state.converged
    world.settle(TURNS)
    assert world.loop.state.converged


def test_who_brings_a_model_gets_the_port_of_who_waits_for_it(world: World) -> None:
    declared(world, c=Wish(1))
    declared(world, c=Wish(2, borrows=True), o=Wish(1, models=MODELS))
    assert world.loop.state.converged


def test_what_cannot_go_back_to_its_port_does_not_fight_for_it(world: World) -> None:
    declared(world, a=Wish(1))
    declared(world, a=Wish(2, ctx=BAD), c=Wish(1))
    assert [run.name for run in world.runs] == ["c"]
    for _ in range(2):
        # The second end is not followed by a start at once: the port is nobody's for a while.
        world.end(world.runs[0], 1)
        world.arrive(0)
        world.step()
        assert "a" not in world.starts
        world.turn()
    assert "port 1, which it had, is c's by now" in world.loop.plan.pending["a"].message


def test_a_model_that_vanished_where_it_could_not_be_read_is_waited_for(world: World) -> None:
    declared(world, o=Wish(1, models=MODELS))
    world.models.clear()
    declared(world, c=Wish(2, borrows=True))
    assert world.loop.state.converged


# --- on demand ------------------------------------------------------------------------------------

IDLE = OnDemand(9.0)


def test_what_runs_on_demand_is_down_until_it_is_asked_for_and_that_is_converged(
    world: World,
) -> None:
    declared(world, a=Wish(1), b=Wish(2, on_demand=IDLE))
    assert ([run.name for run in world.runs], world.loop.state.converged) == (["a"], True)
    for _ in range(10):
        world.want("b")
    world.settle(TURNS)
    assert [run.name for run in world.runs] == ["a", "b"]
    assert sum(event.type == EventType.SPAWNED for event in world.history) == 2
    world.idle("b")
    world.settle(TURNS)
    assert ([run.name for run in world.runs], world.loop.state.converged) == (["a"], True)


def test_what_is_asked_for_while_it_stops_comes_up_again(world: World) -> None:
    declared(world, b=Wish(2, on_demand=IDLE))
    world.want("b")
    world.settle(TURNS)
    world.idle("b")
    world.arrive(0)
    world.step()
    assert world.loop.observed["b"].phase == "stopping"
    world.want("b")
    world.settle(TURNS)
    assert [run.name for run in world.runs] == ["b"]


def test_a_daemon_that_dies_forgets_no_request(world: World) -> None:
    declared(world, b=Wish(2, on_demand=IDLE))
    world.want("b")
    world.step()
    world.die_and_return(reboot=False, first_pass_blind=False, unwaited=False)
    world.settle(TURNS)
    assert [run.name for run in world.runs] == ["b"]


def full(world: World, **more: Wish) -> World:
    """Two of three fit: `a` was used last, `b` before it."""
    wishes = {"a": Wish(1, memory=40, on_demand=IDLE), "b": Wish(2, memory=40, on_demand=IDLE)}
    declared(world, **{**wishes, "c": Wish(3, memory=40, on_demand=IDLE), **more})
    for name in "ba":
        world.pass_time(1)
        world.want(name)
        world.settle(TURNS)
    return world


def test_the_least_recently_used_makes_room(world: World) -> None:
    full(world).want("c")
    world.settle(TURNS)
    assert [run.name for run in world.runs] == ["a", "c"]
    assert world.loop.observed["b"].message == "makes room for c"
    assert world.loop.state.converged


def test_neither_what_is_at_work_nor_what_is_pinned_makes_room(world: World) -> None:
    full(world, b=Wish(2, memory=40, on_demand=OnDemand(9.0, pin=True)))
    world.busy.add("a")
    world.want("c")
    for _ in range(20):
        world.turn()
    assert [run.name for run in world.runs] == ["b", "a"]
    assert "of memory" in world.loop.plan.pending["c"].message
    world.busy.clear()
    world.settle(TURNS)
    assert [run.name for run in world.runs] == ["b", "c"]


def test_nobody_goes_for_what_is_only_loaded_in_advance(world: World) -> None:
    full(world, c=Wish(3, memory=40, on_demand=OnDemand(preload=True)))
    assert {run.name for run in world.runs} == {"a", "b"}, "it was there first, and went for them"
    declared(world, d=Wish(4, memory=40, on_demand=OnDemand(preload=True)))
    assert {run.name for run in world.runs} == {"a", "b"}
    assert "of memory" in world.loop.plan.pending["d"].message
    world.ask("start", "d")
    world.settle(TURNS)
    assert "d" in {run.name for run in world.runs}, "who asks for it by hand, asks for it"


def test_what_was_given_up_is_not_tried_for_each_request(world: World) -> None:
    declared(world, b=Wish(2, ctx=BAD, on_demand=IDLE))
    world.want("b")
    world.settle(TURNS)
    assert (world.loop.observed["b"].phase, world.runs) == ("failed", [])
    world.want("b")
    world.settle(TURNS)
    assert world.loop.observed["b"].phase == "failed"


# --- start-first ----------------------------------------------------------------------------------

TWICE = Wish(1, auto_port=True, strategy="start-first")


def edited(world: World, **changes: Wish) -> World:
    """The next processes are begun."""
    world.wishes.update(changes)
    world.declare(renew=False)
    world.step()
    return world


def test_what_waits_for_the_one_before_to_end_is_on_its_way(world: World) -> None:
    edited(declared(world, a=TWICE), a=replace(TWICE, ctx=OTHER))
    while old_of("a") not in world.loop.observed:
        world.turn()
    edited(world, a=TWICE)
    assert "held by the one before" in world.loop.plan.pending["a"].message
    assert not world.loop.state.settled, "`apply` and `restart` would say that it has failed"


def test_what_starts_is_on_its_way_though_its_change_waits(world: World) -> None:
    edited(world, a=Wish(1)).carry_out("a")
    edited(world, a=Wish(1, ctx=OTHER, needs=("b",)))
    assert "needs b" in world.loop.plan.pending["a"].message
    assert (world.loop.observed["a"].phase, world.loop.state.settled) == ("starting", False)


def test_what_crashes_while_its_successor_loads_is_not_all_there_is(world: World) -> None:
    once = replace(TWICE, policy="never")
    edited(declared(world, a=once), a=replace(once, ctx=OTHER))
    world.end(world.runs[0], 1)
    world.arrive(0)
    world.step()
    assert (world.loop.observed["a"].phase, world.loop.state.settled) == ("failed", False)
    world.settle(TURNS)
    assert world.loop.state.converged


def test_a_successor_that_loses_its_port_gets_another(world: World) -> None:
    declared(world, a=TWICE).strangers[11] = "other"
    edited(world, a=replace(TWICE, ctx=OTHER)).carry_out(next_of("a"))
    world.arrive(0)
    world.step()
    assert (world.loop.observed[next_of("a")].reason, world.loop.state.settled) == (
        "port-taken",
        False,
    )


def test_at_rest_it_is_once_nothing_is_left_beside_it(world: World) -> None:
    once = replace(TWICE, on_demand=IDLE)
    declared(world, a=once).want("a")
    world.settle(TURNS)
    edited(world, a=replace(once, ctx=OTHER)).carry_out(next_of("a"))
    world.step()
    world.end(world.runs[0], 0)
    while world.mail:
        world.arrive(0)
    world.step()
    assert world.loop.observed[next_of("a")].phase == "stopping"
    assert not world.loop.state.converged
    assert not world.loop.state.settled
    world.settle(TURNS)
    assert (world.loop.state.converged, world.runs) == (True, [])


def test_who_takes_over_does_not_go_for_what_the_one_before_had(world: World) -> None:
    once = replace(TWICE, memory=60, on_demand=IDLE)
    declared(world, a=once, b=Wish(3, memory=60, on_demand=IDLE)).want("a")
    world.settle(TURNS)
    edited(world, a=replace(once, memory=None, ctx=OTHER)).carry_out(next_of("a"))
    world.busy.add("a")
    world.want("b")
    world.step()
    assert "of memory" in world.loop.plan.pending["b"].message
    world.busy.clear()
    world.load(world.runs[-1])
    while world.mail:
        world.arrive(0)
    world.step()
    assert world.loop.observed["a"].phase == "ready"
    world.settle(TURNS)
    assert {run.name for run in world.runs} == {"a", "b"}
