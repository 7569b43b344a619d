"""Several files that are applied together, and their ports."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.errors import InputError
from tests.applied_story import Story, ctx, run


def test_what_two_files_declare_alike_is_one_instance_of_both(story: Story) -> None:
    async def steps() -> None:
        alike = {"a": ctx(512, port=8001)}
        p, q = story.write("p", alike), story.write("q", {**alike, "b": ctx(512)})
        await story.accepted(p, q)
        assert story.desired["a"].profiles == ("p", "q")
        await story.set.remove([str(p)])
        story.look()
        assert story.desired["a"].profiles == ("q",)
        with pytest.raises(InputError, match="p is not applied"):
            await story.set.remove(["p"])

    run(story, steps)


@pytest.mark.parametrize(("edited", "other"), [("p", "q"), ("q", "p")])
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"a": ctx(1, port=8001)}, "is declared differently in"),
        ({"c": ctx(1, port=8002)}, "port 8002 of"),
        ({"c": ctx(1, port=8001)}, "port 8001 of"),
    ],
)
def test_of_two_files_that_contradict_each_other_the_edited_one_is_wrong(
    story: Story, edited: str, other: str, change: dict[str, Any], says: str
) -> None:
    async def steps() -> None:
        paths = [story.write(name, {"mine": ctx(1, port=9000)}) for name in (edited,)]
        paths.append(story.write(other, {"a": ctx(9, port=8001), "b": ctx(9, port=8002)}))
        await story.accepted(*sorted(paths))
        before = dict(story.desired)
        story.write(edited, change)
        assert await story.refresh() == []
        assert list(story.errors()) == [edited]
        assert any(says in message for message in story.errors()[edited])
        assert story.set.known_desired() == before

        story.write(other, {"x": ctx(9, port=8009)})
        await story.refresh()
        assert story.errors() == {}, "the other gave way"
        assert set(story.desired) == {"x", *change}

    run(story, steps)


def test_of_several_edits_at_once_only_the_one_in_conflict_is_refused(story: Story) -> None:
    async def steps() -> None:
        names = ("p", "q", "r")
        paths = [
            story.write(name, {name: ctx(1, port=8000 + n)}) for n, name in enumerate(names, 1)
        ]
        await story.accepted(*paths)
        story.write("p", {"p": ctx(2, port=8001)})
        story.write("q", {"q": ctx(2, port=8003)})
        await story.refresh()
        assert list(story.errors()) == ["q"]
        assert (story.ctx("p"), story.ctx("q")) == ("2", "1")
        assert story.ports() == {"p": 8001, "q": 8002, "r": 8003}

    run(story, steps)


def test_two_files_may_change_places(story: Story) -> None:
    async def steps() -> None:
        p, q = (
            story.write("p", {"a": ctx(1, port=8001)}),
            story.write("q", {"b": ctx(1, port=8002)}),
        )
        await story.accepted(p, q)
        story.write("p", {"a": ctx(1, port=8002)})
        story.write("q", {"b": ctx(1, port=8001)})
        await story.refresh()
        assert (story.errors(), story.ports()) == ({}, {"a": 8002, "b": 8001})

    run(story, steps)


# --- ports ----------------------------------------------------------------------------------------


def test_ports_stay_across_edits_applies_and_daemons(story: Story) -> None:
    async def steps() -> None:
        p = story.write("p", {"a": ctx(1), "b": ctx(1)})
        await story.accepted(p)
        before = story.ports()
        assert len(set(before.values())) == 2
        story.write("p", {"new": ctx(1), "b": ctx(2), "a": ctx(2)})
        await story.refresh()
        assert {name: story.ports()[name] for name in "ab"} == before
        q = story.write("q", {"c": ctx(1)})
        await story.accepted(q)
        await story.accepted(q, p)
        assert {name: story.ports()[name] for name in "ab"} == before
        story.store.close()
        story.begin()
        await story.accepted(p)
        assert {name: story.ports()[name] for name in "ab"} == before

    run(story, steps)


def test_a_port_that_a_stranger_took_is_given_up_when_it_is_looked_for_anew(story: Story) -> None:
    async def steps() -> None:
        p = story.write("p", {"a": ctx(1), "b": ctx(1)})
        await story.accepted(p)
        before = story.ports()
        story.taken.add(before["a"])
        assert await story.refresh() == []
        await story.set.refresh(anew=True)
        story.look()
        assert story.ports()["a"] not in (*before.values(), *story.taken)
        assert story.ports()["b"] == before["b"]

    run(story, steps)


def test_an_automatic_port_avoids_those_that_other_files_name(story: Story) -> None:
    async def steps() -> None:
        p = story.write("p", {"a": ctx(1)})
        await story.accepted(p)
        wanted = story.ports()["a"]
        await story.set.clear()
        story.look()
        q = story.write("q", {"b": ctx(1, port=wanted)})
        await story.accepted(q, p)
        assert story.ports()["b"] == wanted
        assert story.ports()["a"] != wanted

    run(story, steps)
