"""The applied set on real files: what an edit changes, what it must not, and who is to blame."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import yaml

from orchestrator.control import in_between
from orchestrator.control.applied import Rejected
from orchestrator.core.event import EventType
from orchestrator.runtime.state import AppliedSource
from tests.applied_story import Story, built, ctx, run


@pytest.fixture
def believed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that is seen is taken for the middle of a save."""
    monkeypatch.setattr(in_between, "GONE_AFTER", 0.0)


# --- one file -------------------------------------------------------------------------------------


def test_an_edit_is_taken_up_and_is_no_apply(story: Story) -> None:
    async def steps() -> None:
        path = story.write("p", {"a": ctx(512)})
        first = await story.accepted(path)
        assert first.as_json()["profiles"] == ["p"]
        assert [action["action"] for action in first.as_json()["actions"]] == ["start"]
        story.write("p", {"a": ctx(1024)})
        (news,) = await story.refresh()
        assert story.ctx("a") == "1024"
        assert (news.renew, news.number) == (False, first.number)
        assert story.events[-1].reason == "edited"
        assert await story.refresh() == [], "nothing changed since"

    run(story, steps)


@pytest.mark.usefixtures("believed_at_once")
def test_an_edit_of_a_modelfile_is_an_edit_of_the_profile(story: Story, ollama_help: str) -> None:
    async def steps() -> None:
        modelfile = story.folder / "m.Modelfile"
        modelfile.write_text("FROM tiny\nSYSTEM one\n")
        models = [{"name": "m", "modelfile": "./m.Modelfile"}]
        instance = {"engine": "ollama", "binary": ollama_help, "models": models}
        text = yaml.safe_dump({"instances": {"o": instance}})
        path = story.write("p", text)
        await story.accepted(path)
        (report,) = story.set.reports()
        assert report.revision == f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
        assert str(modelfile) in story.set.paths, "it is watched"
        assert await story.refresh() == [], "nothing changed"

        modelfile.write_text("FROM tiny\nSYSTEM two\n")
        (news,) = await story.refresh()
        assert not news.renew
        assert built(story) == "FROM tiny\nSYSTEM two\n"
        assert story.set.reports() == [report], "the profile itself is what it was"

        modelfile.write_text("FROM tiny\nSYSTEN three\n")
        assert await story.refresh() == []
        assert f"{modelfile}:2: expected one of" in story.errors()["p"][0]
        assert built(story) == "FROM tiny\nSYSTEM two\n", "the last good state stays in force"
        await story.refresh()
        assert len(story.said(EventType.PROFILE_ERROR)) == 1

        modelfile.unlink()
        assert await story.refresh() == []
        assert story.errors()["p"] == [f"{modelfile} does not exist"]
        modelfile.write_text("FROM tiny\nSYSTEM three\n")
        assert len(await story.refresh()) == 1
        assert (built(story), story.errors()) == ("FROM tiny\nSYSTEM three\n", {})

        story.store.close()
        story.begin()
        modelfile.write_text("FROM tiny\nSYSTEM four\n")
        assert len(await story.refresh()) == 1, "what was read is remembered across daemons"

    run(story, steps)


@pytest.mark.usefixtures("believed_at_once")
@pytest.mark.parametrize(
    ("broken", "says"),
    [
        ("", "the file is empty"),
        ("instances: {a: {mod", "is never closed"),
        ("instances: {a: {model: x, prot: 1}}", "unknown key 'prot'"),
        ("instances: {a: {model: nowhere}}", "unknown model 'nowhere'"),
    ],
)
def test_an_invalid_edit_changes_nothing_until_it_is_mended(
    story: Story, broken: str, says: str
) -> None:
    async def steps() -> None:
        await story.accepted(story.write("p", {"a": ctx(512)}))
        story.write("p", broken)
        assert await story.refresh() == []
        assert any(says in message for message in story.errors()["p"]), story.errors()
        assert len(story.said(EventType.PROFILE_ERROR)) == 1
        assert "its last good state stays in force" in story.said(EventType.PROFILE_ERROR)[0]
        await story.refresh()
        assert len(story.said(EventType.PROFILE_ERROR)) == 1, "said once, not at each look"

        story.write("p", {"a": ctx(512)})
        assert await story.refresh() == [], "it says again what is in force"
        assert story.errors() == {}
        assert len(story.said(EventType.PROFILE_OK)) == 1

    run(story, steps)


def test_a_rejected_apply_changes_nothing(story: Story) -> None:
    async def steps() -> None:
        await story.accepted(story.write("p", {"a": ctx(512)}))
        number = story.set.number
        good, bad = story.write("good", {"b": None}), story.write("bad", "instances: 1")
        outcome = await story.apply(good, bad)
        assert isinstance(outcome, Rejected)
        assert [Path(p.place.file).stem for p in outcome.problems] == ["bad"]
        assert (story.set.number, list(story.desired)) == (number, ["a"])
        assert story.set.paths == [str(story.path("p"))]

    run(story, steps)


@pytest.mark.usefixtures("believed_at_once")
def test_a_file_that_was_named_and_is_gone_keeps_its_last_good_state(story: Story) -> None:
    async def steps() -> None:
        path = story.write("p", {"a": ctx(512)})
        await story.accepted(path)
        path.unlink()
        assert await story.refresh() == []
        assert await story.refresh() == []
        assert story.errors() == {"p": ["the file does not exist"]}
        assert story.set.look_within is None
        story.write("p", {"a": ctx(1024)})
        assert len(await story.refresh()) == 1
        assert (story.errors(), story.ctx("a")) == ({}, "1024")

    run(story, steps)


def test_the_number_counts_applies_and_not_edits(story: Story) -> None:
    async def steps() -> None:
        p, q = story.write("p", {"a": ctx(1)}), story.write("q", {"b": None})
        numbers = [(await story.accepted(p)).number, (await story.accepted(p)).number]
        story.write("p", {"a": ctx(2)})
        (news,) = await story.refresh()
        assert news.number == numbers[-1]
        numbers.append((await story.accepted(q, add=True)).number)
        await story.set.remove(["q"])
        (removed,) = story.look()
        await story.set.clear()
        (cleared,) = story.look()
        numbers += [removed.number, cleared.number]
        assert numbers == sorted(set(numbers))
        assert (list(removed.desired), cleared.desired) == (["a"], {})

    run(story, steps)


# --- what outlives the daemon ---------------------------------------------------------------------


def test_a_new_daemon_goes_on_with_what_was_meant_though_the_file_is_broken(story: Story) -> None:
    async def steps() -> None:
        assert not story.set.known
        await story.accepted(story.write("p", {"a": ctx(512)}))
        before = story.desired
        story.store.close()
        story.write("p", "half writ")
        story.begin()
        assert story.set.known
        story.set.resume(nothing_runs=False)
        (news,) = story.look()
        assert (news.desired, news.renew) == (before, False)
        assert await story.refresh() == []
        assert list(story.errors()) == ["p"]

    run(story, steps)


def test_nothing_applied_is_known_too(story: Story) -> None:
    async def steps() -> None:
        await story.accepted(story.write("p", {"a": None}))
        await story.set.clear()
        story.store.close()
        story.begin()
        assert story.set.known
        story.set.resume(nothing_runs=False)
        (news,) = story.look()
        assert news.desired == {}
        await story.refresh()

    run(story, steps)


def test_a_preview_touches_nothing(story: Story) -> None:
    async def steps() -> None:
        p = story.write("p", {"a": ctx(512)})
        source = AppliedSource(str(p), False, {"ORCHESTRATE_LLAMA_SERVER": story._binary}, "/")
        actions, resolution = await story.set.preview([source], add=False)
        assert [(a.verb, a.instance) for a in actions] == [("start", "a")]
        assert resolution.problems == ()
        assert (story.look(), story.set.paths, story.store.ports()) == ([], [], {})

    run(story, steps)
