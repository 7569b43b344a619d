"""The models of an instance, decided: what is lacking, what is due, who belongs in memory."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from orchestrator.core.provision import Do, Ground, Tag, dropped, due, lacking, present
from orchestrator.core.refusal import TRIES, Trial, after_failure, build_refusal, refusal
from orchestrator.core.residency import (
    FOREVER,
    SETTLE,
    SLACK,
    Absence,
    Loaded,
    Outlook,
    Resident,
    Tenure,
    outlook,
    residents,
)
from orchestrator.core.spec import Built, Copied, Imported, ModelSet, ModelSpec, Pulled
from orchestrator.core.status import ModelState, ModelStatus

PULLED = ModelSpec("p:latest", Pulled())
BUILT = ModelSpec("b:latest", Built("/x/Modelfile", "FROM p"))
MADE = ModelSpec("i:latest", Imported(()))
ALIAS = ModelSpec("c:latest", Copied("p:latest"))


def tags(*models: ModelSpec, **digests: str) -> dict[str, Tag]:
    return {m.name: Tag(m.name, digests.get(m.name[0], m.name)) for m in models}


def steps(
    models: list[ModelSpec], there: dict[str, Tag], grounds: dict[str, Ground]
) -> list[tuple[str, str]]:
    by_name = {model.name: grounds[model.name[0]] for model in models if model.name[0] in grounds}
    return [(step.do.value, step.model.name) for step in due(models, there, by_name, 0.0).steps]


# --- what is due -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("models", "there", "grounds", "expected"),
    [
        ([PULLED], {}, {}, [("pull", "p:latest")]),
        ([PULLED], tags(PULLED), {}, []),
        ([PULLED], {}, {"p": Ground(busy=True)}, []),
        ([MADE], {}, {}, [("import", "i:latest")]),
        ([MADE], tags(MADE), {}, [("import", "i:latest")]),
        ([MADE], tags(MADE), {"i": Ground(made=True)}, []),
        ([BUILT], {}, {"b": Ground(base="p:latest")}, [("build", "b:latest")]),
        ([BUILT, PULLED], {}, {"b": Ground(base="p:latest")}, [("pull", "p:latest")]),
        ([BUILT, PULLED], {}, {"b": Ground(base="p:latest"), "p": Ground(busy=True)}, []),
        ([BUILT, PULLED], tags(PULLED), {"b": Ground(base="P:latest")}, [("build", "b:latest")]),
        ([ALIAS, PULLED], {}, {"c": Ground(base="p:latest")}, [("pull", "p:latest")]),
        ([ALIAS, PULLED], tags(PULLED), {"c": Ground(base="p:latest")}, [("copy", "c:latest")]),
        ([ALIAS, PULLED], tags(PULLED, ALIAS, c="x"), {}, [("copy", "c:latest")]),
        ([ALIAS, PULLED], tags(PULLED, ALIAS, p="x", c="x"), {}, []),
        ([ALIAS], tags(ALIAS), {}, []),
    ],
)
def test_what_is_due(
    models: list[ModelSpec],
    there: dict[str, Tag],
    grounds: dict[str, Ground],
    expected: list[tuple[str, str]],
) -> None:
    assert steps(models, there, grounds) == expected


def test_what_failed_is_due_when_its_time_has_come() -> None:
    failed = {"p:latest": Ground(retry_at=10.0)}
    assert due([PULLED], {}, failed, 9.0).wake_at == 10.0
    assert not due([PULLED], {}, failed, 9.0).steps
    assert [step.do for step in due([PULLED], {}, failed, 10.0).steps] == [Do.PULL]
    assert not due([PULLED], {}, {"p:latest": Ground(retry_at=math.inf)}, 1e9).steps


def test_what_waits_is_told_for_what() -> None:
    grounds = {"b:latest": Ground(base="p:latest"), "p:latest": Ground(retry_at=math.inf)}
    assert due([BUILT, PULLED], {}, grounds, 0.0).waits == {"b:latest": "p:latest"}


def test_names_are_the_same_whatever_their_case() -> None:
    waits = due([BUILT, PULLED], {}, {"b:latest": Ground(base="P:LATEST")}, 0.0).waits
    assert waits == {"b:latest": "p:latest"}, "under the name that its row has"
    there = {"p:latest": Tag("P:latest", "d")}
    assert present(PULLED, there, {})
    assert dropped([PULLED], ["P:LATEST", "other:latest"]) == ["other:latest"]


# --- what is lacking ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (None, [("missing:", True)]),
        (ModelStatus("p:latest", ModelState.PULLING, message="1 of 2 MB"), [("pulling", True)]),
        (ModelStatus("p:latest", ModelState.FAILED, message="no"), [("failed", False)]),
        (ModelStatus("p:latest", ModelState.PRESENT), [("loading", True)]),
        (ModelStatus("p:latest", ModelState.PRESENT, loaded=True), []),
        (ModelStatus("p:latest", ModelState.PRESENT, rested=True), []),
        (ModelStatus("p:latest", ModelState.PRESENT, reason="evicted"), [("evicted", False)]),
    ],
)
def test_what_is_lacking(status: ModelStatus | None, expected: list[tuple[str, bool]]) -> None:
    holds = ModelSet((replace(PULLED, preload=True),))
    found = lacking(holds, [status] if status else [])
    assert [(lack.what.split(" ")[0], lack.moving) for lack in found] == expected


# --- refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "reason", "outlook"),
    [
        ("pull model manifest: file does not exist", "not-found", "never"),
        ("unauthorized: access denied", "unauthorized", "never"),
        ("write /x/blobs/sha256-1: no space left on device", "disk-full", "later"),
        ("http: server gave HTTP response to HTTPS client", "no-tls", "never"),
        ("dial tcp 127.0.0.1:5000: connect: connection refused", "pull-failed", "soon"),
        ("503: upstream is away", "pull-failed", "soon"),
        ("unexpected EOF", "pull-failed", "soon"),
        ("403: Forbidden", "unauthorized", "never"),
        # The end of a port is no status.
        ("dial tcp 127.0.0.1:21403: connect: connection refused", "pull-failed", "soon"),
    ],
)
def test_what_a_refusal_means(text: str, reason: str, outlook: str) -> None:
    meaning = refusal(text)
    assert (meaning.reason, meaning.outlook) == (reason, outlook)


def test_a_build_that_is_refused_is_not_tried_again_but_for_the_disk() -> None:
    assert build_refusal("invalid file magic").outlook == "never"
    assert build_refusal("no space left on device").outlook == "later"
    assert build_refusal("blob not found for x").outlook == "soon"
    assert build_refusal("digest mismatch, expected a, got b").outlook == "soon"


def test_what_may_pass_has_failed_after_five_tries_without_a_byte() -> None:
    trial: Trial | None = None
    pauses: list[float] = []
    for _ in range(TRIES):
        trial = after_failure(trial, refusal("EOF"), moved=False, now=0.0)
        pauses.append(trial.retry_at)
    assert pauses == [1.0, 2.0, 4.0, 8.0, 60.0]
    assert trial is not None
    assert trial.gave_up
    assert not after_failure(trial, refusal("EOF"), moved=True, now=0.0).gave_up


# --- memory ------------------------------------------------------------------------------------

HELD = Resident("x", ("x:latest",), preload=True, keep_alive=FOREVER)
HOUR = Resident("x", ("x:latest",), preload=True, keep_alive=3600.0)
NOW = 1_000_000.0


def look(
    wanted: Resident,
    loaded: list[Loaded],
    before: Tenure | None = None,
    *,
    now: float = NOW,
    limit: int | None = 3,
    dead: tuple[str, ...] = (),
    busy: tuple[str, ...] = (),
    arrived: Mapping[str, float] | None = None,
) -> Outlook:
    tenures = {wanted.blob: before} if before else {}
    return outlook(
        [wanted], loaded, tenures, now=now, limit=limit, dead=dead, busy=busy, arrived=arrived or {}
    )


def there(expires_at: float, blob: str = "x") -> Loaded:
    return Loaded(f"{blob}:latest", blob, expires_at)


def held(expires_at: float, looked_at: float = NOW - 5.0) -> Tenure:
    return Tenure(was=True, since=NOW - 60.0, expires_at=expires_at, looked_at=looked_at)


def test_what_is_to_be_in_memory_is_loaded_whoever_else_is_there() -> None:
    strangers = [there(NOW, blob) for blob in "abc"]
    assert look(HELD, strangers).load == (HELD,)
    assert look(HELD, [there(FOREVER)]).load == ()
    assert look(HELD, [], busy=("x",)).load == ()


def test_models_of_one_blob_are_one_resident_that_stays_for_the_longest_time() -> None:
    models = [
        ModelSpec("a:latest", keep_alive=60.0),
        ModelSpec("b:latest", preload=True, keep_alive=3600.0),
        ModelSpec("c:latest"),
    ]
    blobs = {"a:latest": "x", "b:latest": "x", "c:latest": "y"}
    assert residents(models, blobs) == [
        Resident("x", ("b:latest", "a:latest"), preload=True, keep_alive=3600.0),
        Resident("y", ("c:latest",), preload=False, keep_alive=None),
    ]


def test_preloaded_without_a_time_stays_for_ever() -> None:
    assert residents([ModelSpec("a:latest", preload=True)], {"a:latest": "x"})[0] == Resident(
        "x", ("a:latest",), preload=True, keep_alive=FOREVER
    )


def test_a_shortened_stay_is_set_right() -> None:
    assert look(HELD, [there(NOW + 300.0)], held(FOREVER)).hold
    assert not look(HELD, [there(FOREVER)], held(FOREVER)).hold
    assert look(HOUR, [there(NOW + 300.0)], held(NOW + 3000.0)).hold


def test_a_stay_that_runs_out_by_itself_is_left_alone() -> None:
    assert not look(HOUR, [there(NOW + 300.0)], held(NOW + 300.0)).hold
    # A request of its own kind begins it anew.
    assert not look(HOUR, [there(NOW - 3.0 + 3600.0)], held(NOW + 300.0)).hold


def test_what_was_just_told_is_not_told_again() -> None:
    told = held(FOREVER).told(NOW)
    assert not look(HOUR, [there(NOW + 3600.0)], told, now=NOW + 4.0).hold


def test_what_expired_as_declared_rests() -> None:
    gone = look(HOUR, [], held(NOW + 0.5))
    assert gone.tenures["x"].absence is Absence.RESTED
    assert gone.lost == (HOUR,)
    later = look(HOUR, [], gone.tenures["x"], now=NOW + 1e5)
    assert (later.load, later.lost) == ((), ())


def test_what_was_evicted_waits_for_room_and_ever_longer() -> None:
    others = [there(NOW, blob) for blob in "abc"]
    gone = look(HELD, others, held(FOREVER)).tenures["x"]
    assert gone.absence is Absence.EVICTED
    assert not look(HELD, others, gone, now=NOW + 1e5).load
    assert not look(HELD, [], gone, now=NOW + 1.0).load
    assert look(HELD, [], gone, now=NOW + 60.0).load == (HELD,)
    again = look(HELD, others, replace(gone, since=NOW)).tenures["x"]
    assert again.load_at > gone.load_at


def test_what_was_unloaded_comes_back_once_it_is_clear_that_nobody_pushed_it_out() -> None:
    out = look(HELD, [], held(FOREVER))
    assert out.load == ()
    assert out.wake_at == NOW + SETTLE
    assert look(HELD, [], out.tenures["x"], now=NOW + SETTLE).load == (HELD,)
    pushed = look(HELD, [there(NOW, "a")], out.tenures["x"], now=NOW + 1.0)
    assert pushed.tenures["x"].absence is Absence.EVICTED
    assert pushed.lost == (HELD,)


def test_what_was_killed_comes_back_at_once() -> None:
    gone = look(HELD, [there(NOW, "a")], held(FOREVER), dead=("x",))
    assert gone.load == (HELD,)
    assert gone.tenures["x"].absence is Absence.KILLED


@pytest.mark.parametrize("dead", [(), ("x",)])
@pytest.mark.parametrize("limit", [1, 2])
def test_whose_place_was_taken_waits_for_room_and_says_so(
    dead: tuple[str, ...], limit: int
) -> None:
    """Whoever waits for it is told that it is not under way."""
    gone = look(HELD, [], held(FOREVER), dead=dead, limit=limit).tenures["x"]
    assert gone.absence in (Absence.UNLOADED, Absence.KILLED)
    others = [there(NOW, blob) for blob in "ab"[:limit]]
    # They were there before: nothing else says that it had to make way for them.
    arrived = {one.blob: NOW - 100.0 for one in others}
    told = look(HELD, others, gone, now=NOW + 60.0, limit=limit, arrived=arrived)
    assert (told.load, told.lost) == ((), (HELD,))
    assert told.tenures["x"].absence is Absence.EVICTED
    again = look(HELD, others, told.tenures["x"], now=NOW + 90.0, limit=limit, arrived=arrived)
    assert (again.load, again.lost) == ((), ())
    assert look(HELD, [], told.tenures["x"], now=NOW + 600.0, limit=limit).load == (HELD,)


def test_where_nothing_says_how_many_fit_what_came_meanwhile_pushed_it_out() -> None:
    others = [there(NOW, blob) for blob in "abcdefgh"]
    before = {one.blob: NOW - 100.0 for one in others}
    beside = look(HELD, [*others, there(FOREVER)], held(FOREVER), limit=None, arrived=before)
    assert beside.arrived == {**before, "x": NOW}
    stopped = look(
        HELD, others, beside.tenures["x"], now=NOW + 5, limit=None, arrived=beside.arrived
    ).tenures["x"]
    assert stopped.absence is Absence.UNLOADED, "all of them were there before it left"
    assert look(HELD, others, stopped, now=NOW + 60.0, limit=None, arrived=beside.arrived).load == (
        HELD,
    )
    came = [*others, there(NOW, "new")]
    pushed = look(
        HELD, came, beside.tenures["x"], now=NOW + 5.0, limit=None, arrived=beside.arrived
    )
    assert pushed.tenures["x"].absence is Absence.EVICTED
    late = look(HELD, came, stopped, now=NOW + 6.0, limit=None, arrived=beside.arrived)
    assert late.tenures["x"].absence is Absence.EVICTED


def test_where_nothing_says_how_many_fit_there_is_room_once_fewer_are_there() -> None:
    others = [there(NOW, blob) for blob in "ab"]
    gone = look(HELD, others, held(FOREVER), limit=None).tenures["x"]
    assert gone.absence is Absence.EVICTED
    for crowd in (others, [there(NOW, "c"), there(NOW, "d")], [*others, there(NOW, "c")]):
        seen = look(HELD, crowd, gone, now=NOW + 1e4, limit=None)
        assert (seen.load, seen.lost) == ((), ())
    assert not look(HELD, others[:1], gone, now=NOW + 1e4, limit=None, busy=("c",)).load
    assert look(HELD, others[:1], gone, now=NOW + 1e4, limit=None).load == (HELD,)


def test_what_an_earlier_daemon_saw_evicted_waits_for_those_that_are_there_now() -> None:
    known = Tenure(was=True, absence=Absence.EVICTED)
    assert look(HELD, [], known, limit=None).load == (HELD,)
    crowded = look(HELD, [there(NOW, "a")], known, limit=None)
    assert (crowded.load, crowded.lost) == ((), ())
    later = look(HELD, [], crowded.tenures["x"], now=NOW + 5.0, limit=None)
    assert later.load == (HELD,)


def test_of_preloaded_ones_that_do_not_fit_together_the_last_ones_stay() -> None:
    """More than Ollama keeps: each is loaded once, and nobody is reloaded for ever."""
    wanted = [
        Resident(blob, (f"{blob}:latest",), preload=True, keep_alive=FOREVER) for blob in "abcd"
    ]
    first = outlook(wanted, [], {}, now=NOW, limit=None)
    assert first.load == tuple(wanted)
    tenures = {
        one.blob: replace(Tenure().told(NOW + at), since=NOW + at) for at, one in enumerate(wanted)
    }
    now, arrived = NOW + 10.0, first.arrived
    for _ in range(50):
        loaded = [there(FOREVER, blob) for blob in "bcd"]
        seen = outlook(wanted, loaded, tenures, now=now, limit=None, arrived=arrived)
        assert not seen.load
        tenures, arrived, now = dict(seen.tenures), seen.arrived, now + 60.0
    assert tenures["a"].absence is Absence.EVICTED


@given(
    st.lists(
        st.tuples(
            st.floats(0.1, 120.0),
            st.booleans(),
            st.lists(st.sampled_from("abc"), unique=True),
            st.booleans(),
        ),
        max_size=30,
    ),
    st.integers(1, 3),
)
def test_it_never_fights(looks: list[tuple[float, bool, list[str], bool]], limit: int) -> None:
    """Whatever comes and goes: once lost to others, nothing is loaded where there is no room, and
    of one resident there is never more than one thing to do."""
    now, tenures, lost_before = NOW, {}, False
    arrived: Mapping[str, float] = {}
    for pause, here, others, is_dead in looks:
        now += pause
        loaded = [there(now, blob) for blob in others] + ([there(FOREVER)] if here else [])
        seen = outlook(
            [HELD],
            loaded,
            tenures,
            now=now,
            limit=limit,
            dead=("x",) if is_dead and not here else (),
            arrived=arrived,
        )
        arrived = seen.arrived
        assert len(seen.load) + len(seen.hold) <= 1
        if seen.load and lost_before:
            assert len(loaded) < limit
        tenures = dict(seen.tenures)
        lost_before = lost_before or here
        assert set(tenures) == {"x"}
        assert SLACK < SETTLE
        # What is neither there nor evicted is on its way: who waits for it does not wait for ever.
        waits = here or tenures["x"].absence is Absence.EVICTED
        assert waits or seen.load or seen.wake_at is not None
