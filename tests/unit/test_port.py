"""Automatic ports: sticky, unique, never somebody else's, never one that the kernel gives away."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.port import HIGH, LOW, PortChooser

names = st.text("abcdef-0", min_size=1, max_size=4)
near = st.integers(LOW - 50, LOW + 50) | st.integers(1024, 65535)
ranges = st.tuples(st.integers(1024, 60000), st.integers(0, 20_000)).map(
    lambda pair: (pair[0], min(pair[0] + pair[1], 65535))
)


@given(
    st.lists(names, max_size=20),
    st.dictionaries(names, near, max_size=10),
    st.sets(near, max_size=30),
    ranges,
)
def test_every_name_has_a_port_of_its_own_that_is_free(
    wanted: list[str], held: dict[str, int], taken: set[int], ephemeral: tuple[int, int]
) -> None:
    chooser = PortChooser(held, taken, ephemeral)
    given_out = {name: chooser.choose(name) for name in wanted}
    assert len(set(given_out.values())) == len(given_out)
    assert given_out == chooser.chosen
    for name, port in given_out.items():
        assert port not in taken
        assert chooser.choose(name) == port
        if port == held.get(name):
            continue
        assert not ephemeral[0] <= port <= ephemeral[1]
        assert port not in held.values(), "it may be wanted again by whom it was given to"


@given(st.sets(names, min_size=1, max_size=10), st.sets(near), ranges, st.randoms())
def test_what_was_given_is_kept_whatever_comes_beside_it(
    wanted: set[str], taken: set[int], ephemeral: tuple[int, int], random: object
) -> None:
    first = PortChooser({}, taken, ephemeral)
    held = {name: first.choose(name) for name in sorted(wanted)}
    again = PortChooser(held, taken, ephemeral)
    for name in ("new", *sorted(wanted, reverse=True)):
        again.choose(name)
    assert {name: again.chosen[name] for name in wanted} == held


@given(st.sets(names, min_size=2, max_size=6))
def test_a_port_depends_on_the_name_and_not_on_the_order(wanted: set[str]) -> None:
    def alone(name: str) -> int:
        return PortChooser({}, (), (32768, 60999)).choose(name)

    chooser = PortChooser({}, (), (32768, 60999))
    chosen = {name: chooser.choose(name) for name in sorted(wanted)}
    if len({alone(name) for name in wanted}) == len(wanted):
        assert chosen == {name: alone(name) for name in wanted}


def test_daemons_of_one_machine_choose_apart_for_the_same_name() -> None:
    chosen = {PortChooser({}, (), (32768, 60999), f"/state/{n}").choose("chat") for n in range(20)}
    assert len(chosen) == 20


def test_a_kept_port_that_is_taken_now_is_given_up() -> None:
    chooser = PortChooser({"a": 18001}, {18001}, (32768, 60999))
    port = chooser.choose("a")
    assert port != 18001
    assert LOW <= port < HIGH


def test_two_that_were_given_the_same_do_not_both_keep_it() -> None:
    chooser = PortChooser({"a": 18001, "b": 18001}, (), (32768, 60999))
    assert chooser.choose("a") == 18001
    assert chooser.choose("b") != 18001


def test_where_the_kernel_has_our_whole_range_another_is_found() -> None:
    port = PortChooser({}, (), (LOW, HIGH)).choose("a")
    assert not LOW <= port <= HIGH
