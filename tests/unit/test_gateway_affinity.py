"""Who serves alike requests again, and that everybody gets the share that weights say."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from orchestrator.gateway.affinity import WORTHWHILE, Key, key_of, rank
from orchestrator.gateway.choice import Choice, Turns
from orchestrator.gateway.table import Aim, Target

names = st.lists(
    st.text("abcdef-0123", min_size=1, max_size=8), min_size=2, max_size=8, unique=True
)


def key(text: str, **more: bool) -> Key:
    return Key(text.encode().ljust(16, b"\0")[:16], **more)


def target(name: str) -> Target:
    return Target(name, "llama-server", ("127.0.0.1", 1), slots=4)


def alike(*each: str) -> list[Choice]:
    return [(Aim(name), target(name)) for name in each]


def sided(weights: dict[str, int]) -> list[Choice]:
    return [(Aim(n, weight=w, side=n), target(n)) for n, w in weights.items()]


def idle(_target: Target) -> float:
    return 0.0


def chat(*messages: tuple[str, Any], **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": text} for role, text in messages], **more}


def first(one: Key, each: list[str]) -> str:
    return min(each, key=lambda name: rank(one, name))


@given(names, st.text(max_size=16))
def test_when_one_goes_only_what_was_its_own_moves(each: list[str], text: str) -> None:
    before = first(key(text), each)
    for gone in each:
        left = [name for name in each if name != gone]
        assert (first(key(text), left) == before) is (gone != before)


def test_keys_are_spread_by_weight() -> None:
    weights = {"a": 7, "b": 2, "c": 1}
    served = Counter(
        min(weights, key=lambda name: rank(key(str(number)), name, weights[name]))
        for number in range(10_000)
    )
    assert {name: round(count / 1000) for name, count in served.items()} == weights


@given(st.dictionaries(st.text("abcd", min_size=1, max_size=3), st.integers(1, 20), min_size=2))
def test_shares_are_exact_in_the_long_run_and_never_far_off(weights: dict[str, int]) -> None:
    turns, served = Turns(), Counter[str]()
    whole = sum(weights.values())
    for number in range(1, 2 * whole + 1):
        chosen = turns.choose(sided(weights), idle, None)
        assert chosen is not None
        served[chosen[0].side] += 1
        for side, weight in weights.items():
            assert abs(served[side] - number * weight / whole) <= len(weights)
    assert served == {side: 2 * weight for side, weight in weights.items()}


@given(st.dictionaries(st.text("abcd", min_size=1, max_size=3), st.integers(1, 20), min_size=2))
def test_a_session_stays_with_its_side_and_counts_for_nobody(weights: dict[str, int]) -> None:
    turns = Turns()
    one = key("session", session=True, firm=True)
    chosen = {turns.choose(sided(weights), idle, one) for _ in range(5)}
    assert len(chosen) == 1
    assert turns.choose(sided(weights), idle, None) == Turns().choose(sided(weights), idle, None)


@given(names, st.text(max_size=16), st.data())
def test_what_is_worth_it_waits_for_no_idle_one(
    each: list[str], text: str, data: st.DataObject
) -> None:
    busy = {name: data.draw(st.integers(0, 4)) / 4 for name in each}
    assume(min(busy.values()) < 1)
    served = Turns().choose(alike(*each), lambda one: busy[one.name], key(text, firm=True))
    assert served is not None
    home = first(key(text), each)
    if busy[home] < 1:
        assert served[1].name == home
    else:
        assert busy[served[1].name] == min(busy.values())
    short = Turns().choose(alike(*each), lambda one: busy[one.name], key(text))
    assert short is not None
    assert busy[short[1].name] == min(busy.values()), "a short one goes to the least busy"


def test_with_no_slot_free_nothing_is_chosen_and_nobody_has_had_a_turn() -> None:
    turns = Turns()
    both = sided({"a": 1, "b": 1})
    assert turns.choose(both, lambda _: 1.0, None) is None
    served = [turns.choose(both, idle, None) for _ in range(4)]
    assert Counter(one[0].side for one in served if one) == {"a": 2, "b": 2}


def test_a_side_that_is_full_is_served_by_the_other() -> None:
    turns = Turns()
    served = [
        turns.choose(sided({"a": 99, "b": 1}), lambda one: float(one.name == "a"), None)
        for _ in range(9)
    ]
    assert {one[0].side for one in served if one} == {"b"}


SAID = "You are terse. " * 40


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        ({"user": "me", "prompt": "x"}, []),
        ({"prompt_cache_key": "me"}, []),
        ({"metadata": {"user_id": "me"}, "messages": []}, []),
        ({"prompt": "whatever"}, [(b"x-session-id", b"me")]),
        (None, [(b"x-session-id", b"me")]),
    ],
)
def test_a_session_is_known_however_it_is_said(body: Any, headers: Any) -> None:
    found, other = key_of(headers, body), key_of([], {"user": "me"})
    assert found == other
    assert found is not None
    assert found.session
    assert found.firm


def test_a_conversation_is_known_by_how_it_began() -> None:
    begun = key_of([], chat(("system", SAID), ("user", "one")))
    later = chat(("system", SAID), ("user", "one"), ("assistant", "yes"), ("user", "two"))
    assert begun == key_of([], later)
    assert begun != key_of([], chat(("system", SAID), ("user", "two")))
    assert begun is not None
    assert begun.firm
    assert not begun.session


def test_other_protocols_begin_as_well() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "image_url", "image_url": {"url": "data:"}}]
    assert key_of([], chat(("user", parts), system=SAID)) == key_of(
        [], chat(("user", "one"), ("assistant", "yes"), system=SAID)
    )
    assert key_of([], {"prompt": "a" * 3000}) == key_of([], {"prompt": "a" * 4000})
    assert key_of([], {"instructions": SAID, "input": "x"}) is not None


def test_what_is_short_is_not_worth_waiting_for() -> None:
    short, long = (key_of([], {"prompt": "a" * size}) for size in (WORTHWHILE - 1, WORTHWHILE))
    assert short is not None
    assert long is not None
    assert (short.firm, long.firm) == (False, True)


json_like = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(
    st.dictionaries(
        st.sampled_from(["messages", "system", "prompt", "input", "user", "metadata"]), json_like
    )
)
def test_no_body_is_too_odd(body: dict[str, Any]) -> None:
    found = key_of([], body)
    assert found is None or len(found.digest) == 16
