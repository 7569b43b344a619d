"""Who may start with the memory that there is, and what is said to those who may not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from orchestrator.core.admission import DOUBT, HOST, LOOK_AGAIN, Budget, Ledger, Room, excesses
from orchestrator.core.plan import Verb, make_plan
from orchestrator.core.spec import Demand, Desired, InstanceSpec
from orchestrator.core.status import Observed, Phase
from tests.unit.test_plan import spec, status

GIB = 1 << 30


def needs(gib: float, name: str = "a", *, port: int = 8001, **more: object) -> InstanceSpec:
    demand = Demand(host=int(gib * GIB), declared=True)
    return spec(name, port=port, demand=replace(demand, **more))  # type: ignore[arg-type]


def budget(total: float, free: float | None = None, **taken: float) -> Budget:
    left = total if free is None else free
    room = Room(int(total * GIB), int(left * GIB))
    return Budget({HOST: room}, {name: int(gib * GIB) for name, gib in taken.items()})


def objection(one: InstanceSpec, observed: Observed, there_is: Budget) -> str | None:
    return Ledger(observed, there_is).objection(one)


CODER = needs(8.2, "coder", port=9000)


def test_the_arithmetic_is_shown() -> None:
    running = {"coder": status(CODER)}
    said = objection(needs(6), running, budget(16, 4.1, coder=8.2))
    assert said == "needs 6GiB of memory, 4.1GiB of 16GiB are free: coder has 8.2GiB"


def test_what_fits_starts_and_what_is_unknown_is_never_held_up() -> None:
    running = {"coder": status(CODER)}
    assert objection(needs(6), running, budget(16, 7, coder=8.2)) is None
    assert objection(spec("a"), running, budget(16, 0)) is None
    assert Ledger(running, None).objection(needs(100)) is None
    assert objection(needs(0), running, budget(16, 0)) is None


def test_an_estimate_counts_only_as_far_as_it_is_beyond_doubt() -> None:
    guess = needs(6, declared=False)
    assert objection(guess, {}, budget(16, 6 * (1 - DOUBT) + 0.01)) is None
    said = objection(guess, {}, budget(16, 5))
    assert said == "needs about 6GiB of memory, 5GiB of 16GiB are free"


def test_what_one_that_loads_has_not_taken_yet_is_not_free() -> None:
    loading = {"coder": status(CODER, Phase.STARTING)}
    assert objection(needs(6), loading, budget(16, 13)) is not None
    assert objection(needs(6), loading, budget(16, 12.9, coder=1.2)) is not None
    assert objection(needs(6), loading, budget(16, 14, coder=1.2)) is None


def test_a_cap_counts_what_is_promised_though_more_is_free() -> None:
    running = {"coder": status(CODER)}
    assert objection(needs(6), running, budget(16, 100, coder=0.1)) is None
    assert objection(needs(6), running, budget(14, 100, coder=0.1)) is not None


def test_a_replacement_waits_until_the_old_one_is_gone() -> None:
    going = {"coder": status(CODER, Phase.STOPPING)}
    assert objection(needs(9), going, budget(16, 7.5, coder=8.2)) is not None
    gone = {"coder": status(CODER, Phase.STOPPED)}
    assert objection(needs(9), gone, budget(16, 7.5)) is not None, "its memory is not free yet"
    assert objection(needs(9), gone, budget(16, 15.5)) is None


def test_what_somebody_else_runs_holds_nothing_of_ours() -> None:
    from orchestrator.core.status import AttachedTo

    theirs = {"coder": status(CODER, attached=AttachedTo())}
    assert objection(needs(9), theirs, budget(16, 10)) is None


def test_one_file_is_mapped_once() -> None:
    mapped = {"/m/a.gguf": 6 * GIB}
    first = needs(1, "coder", port=9000, mapped=mapped)
    running = {"coder": status(first)}
    # The kernel says that mapped pages are free; they are needed all the same.
    there_is = budget(10, 9, coder=1)
    assert objection(needs(2, mapped=mapped), running, there_is) is None
    assert objection(needs(2, mapped={"/m/b.gguf": 2 * GIB}), running, there_is) is not None


def test_a_server_that_shrinks_its_context_waits_for_no_more_than_there_is() -> None:
    elastic = needs(30, least=5 * GIB, declared=False)
    assert objection(elastic, {}, budget(16, 15)) is None
    assert objection(elastic, {}, budget(16, 10)) is not None


def test_starts_of_one_plan_count_for_each_other() -> None:
    ledger = Ledger({}, budget(16))
    assert ledger.objection(needs(9, "a")) is None
    said = ledger.objection(needs(9, "b"))
    assert said == "needs 9GiB of memory, 7GiB of 16GiB are free: a has 9GiB"
    assert ledger.objection(needs(7, "c")) is None


def test_gpus_have_rooms_of_their_own() -> None:
    rooms = {HOST: Room(64 * GIB, 64 * GIB), 0: Room(24 * GIB, 20 * GIB), 1: Room(8 * GIB, 8 * GIB)}
    one = needs(1, gpus={0: 18 * GIB})
    ledger = Ledger({}, Budget(rooms))
    assert ledger.objection(one) is None
    said = ledger.objection(needs(1, "b", gpus={0: 6 * GIB}))
    assert said == "needs 6GiB of memory on GPU 0, 2GiB of 24GiB are free: a has 18GiB"
    assert ledger.objection(needs(1, "c", gpus={1: 6 * GIB})) is None


def test_two_that_share_out_a_gpu_by_themselves_start_one_after_the_other() -> None:
    rooms = {HOST: Room(64 * GIB, 64 * GIB), 0: Room(24 * GIB, 24 * GIB)}
    first = needs(1, "coder", port=9000, gpus={0: 20 * GIB}, fits_itself=True)
    second = needs(1, gpus={0: 20 * GIB}, fits_itself=True)
    loading = {"coder": status(first, Phase.STARTING)}
    said = objection(second, loading, Budget(rooms))
    assert said == "coder is choosing its share of GPU 0: one after the other"
    assert objection(second, {"coder": status(first)}, Budget(rooms)) is None


# --- the plan -------------------------------------------------------------------------------------


def test_a_plan_starts_what_fits_and_looks_again_for_the_rest() -> None:
    desired = {"a": needs(9, "a"), "b": needs(9, "b", port=8002), "c": needs(5, "c", port=8003)}
    plan = make_plan(desired, {}, 100.0, budget(16))
    assert [(one.verb, one.instance) for one in plan.actions] == [
        (Verb.START, "a"),
        (Verb.START, "c"),
    ]
    assert plan.pending["b"].reason == "blocked"
    assert "needs 9GiB" in plan.pending["b"].message
    assert plan.wake_at == 100.0 + LOOK_AGAIN


def test_an_instance_that_failed_for_want_of_memory_waits_for_room() -> None:
    one = needs(9)
    failed = {"a": status(one, Phase.BACKOFF, retry_at=50.0)}
    assert make_plan({"a": one}, failed, 100.0, budget(16, 4)).pending["a"].reason == "blocked"
    assert make_plan({"a": one}, failed, 100.0, budget(16, 10)).actions


# --- what can never fit ---------------------------------------------------------------------------


def test_one_that_is_larger_than_all_there_is() -> None:
    (excess,) = excesses({"a": needs(20)}, budget(16, 16))
    assert excess.message == "a needs 20GiB of memory, more than the 16GiB of this machine"
    assert excess.instance == "a"
    assert "--force" in excess.hint


def test_each_that_is_larger_than_all_there_is_is_named() -> None:
    desired = {"a": needs(20), "b": needs(1, "b"), "c": needs(17, "c")}
    assert [one.instance for one in excesses(desired, budget(16, 16))] == ["a", "c"]


def test_several_that_are_too_much_together_name_each_other() -> None:
    desired = {"a": needs(9), "b": needs(4, "b"), "c": needs(5, "c")}
    (excess,) = excesses(desired, budget(16, 1))
    assert excess.instance == "c"
    assert excess.message == (
        "together these instances need 18GiB of memory, more than the 16GiB of this machine: "
        "a 9GiB, c 5GiB, b 4GiB"
    )


def test_free_memory_does_not_matter_for_what_can_never_fit() -> None:
    assert excesses({"a": needs(15)}, budget(16, 0.1)) == []


@pytest.mark.parametrize(
    ("one", "too_much"),
    [
        (needs(18, declared=False), False),
        (needs(19, declared=False), True),
        (needs(30, least=5 * GIB, declared=False), False),
        (needs(30, least=25 * GIB, declared=False), True),
        (spec("a"), False),
    ],
)
def test_only_what_is_clearly_too_much_is_refused(one: InstanceSpec, too_much: bool) -> None:
    assert bool(excesses({"a": one}, budget(16))) is too_much


def test_a_gpu_that_is_too_small() -> None:
    rooms = {HOST: Room(64 * GIB, 64 * GIB), 0: Room(8 * GIB, 8 * GIB)}
    (excess,) = excesses({"a": needs(1, gpus={0: 9 * GIB})}, Budget(rooms))
    assert excess.message == "a needs 9GiB of memory, more than the 8GiB of GPU 0"
    fitting = needs(1, gpus={0: 9 * GIB}, fits_itself=True)
    assert excesses({"a": fitting}, Budget(rooms)) == []


# --- whatever the numbers -------------------------------------------------------------------------

sizes = st.integers(0, 20)
demands = st.builds(
    Demand,
    host=sizes,
    mapped=st.dictionaries(st.sampled_from(["x", "y"]), sizes),
    least=st.none() | sizes,
    declared=st.booleans(),
)
sets = st.dictionaries(st.sampled_from("abcdef"), st.none() | demands)


def named(wanted: dict[str, Demand | None]) -> Desired:
    return {
        name: spec(name, port=8000 + at, demand=demand)
        for at, (name, demand) in enumerate(wanted.items())
    }


@given(sets, sizes)
def test_what_is_accepted_can_be_started(wanted: dict[str, Demand | None], total: int) -> None:
    """The check beforehand and the gate count alike: nothing that is accepted waits for ever."""
    desired = named(wanted)
    there_is = Budget({HOST: Room(total, total)})
    if excesses(desired, there_is):
        return
    for name, one in desired.items():
        alone = make_plan({name: one}, {}, 0.0, there_is)
        assert alone.actions, f"{name} could never start: {alone.pending}"
    if not any(demand and demand.least is not None for demand in wanted.values()):
        assert not make_plan(desired, {}, 0.0, there_is).pending


@given(sets, sizes, sizes)
def test_more_memory_never_refuses_what_less_accepted(
    wanted: dict[str, Demand | None], total: int, more: int
) -> None:
    desired = named(wanted)
    if not excesses(desired, Budget({HOST: Room(total, total)})):
        assert not excesses(desired, Budget({HOST: Room(total + more, total)}))


@given(sets, sizes)
def test_what_is_declared_is_never_promised_twice(
    wanted: dict[str, Demand | None], total: int
) -> None:
    sure = {
        name: replace(demand, declared=True, least=None, mapped={}) if demand else None
        for name, demand in wanted.items()
    }
    plan = make_plan(named(sure), {}, 0.0, Budget({HOST: Room(total, total)}))
    starts = [sure[one.instance] for one in plan.actions]
    assert sum(demand.host for demand in starts if demand) <= total


def test_what_runs_is_not_stopped_for_a_successor_that_does_not_fit() -> None:
    """What it would give back counts; what others have does not."""
    want = {"a": replace(needs(10), description="more")}
    running = {"a": status(needs(4))}
    want["a"] = replace(want["a"], command=spec(ctx=9).command)
    short = make_plan(want, running, 0.0, budget(16, 5, a=4))
    assert (short.actions, short.wake_at) == ((), LOOK_AGAIN)
    assert short.pending["a"].message == "needs 10GiB of memory, 9GiB of 16GiB are free"
    enough = make_plan(want, running, 0.0, budget(16, 6, a=4))
    assert [action.verb for action in enough.actions] == [Verb.REPLACE]
