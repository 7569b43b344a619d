"""A folder that is applied: its members come and go, and are missing for a moment."""

from __future__ import annotations

import os
import time

import pytest

from orchestrator.control import in_between
from orchestrator.core.event import EventType
from tests.applied_story import PATIENCE, Story, ctx, run


async def until_news(story: Story) -> None:
    end = time.monotonic() + PATIENCE
    while not await story.refresh():
        assert time.monotonic() < end, "it never came"
        assert story.set.look_within is not None


def test_members_come_and_go(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_between, "GONE_AFTER", 0.3)

    async def steps() -> None:
        story.write("one", {"a": ctx(512)})
        story.write("README", "no profile").rename(story.folder / "README.md")
        story.write("hidden", "no profile").rename(story.folder / ".hidden.yaml")
        await story.accepted(story.folder)
        story.write("two", {"b": ctx(512)})
        await story.refresh()
        assert list(story.desired) == ["a", "b"]

        story.path("two").unlink()
        assert await story.refresh() == [], "an editor may be about to write it again"
        assert story.set.look_within is not None
        story.write("two", {"b": ctx(512)})
        assert await story.refresh() == []
        assert story.set.look_within is None

        story.path("two").unlink()
        began = time.monotonic()
        await until_news(story)
        assert time.monotonic() - began >= 0.3
        assert list(story.desired) == ["a"]
        assert story.said(EventType.APPLIED)[-1] == f"without {story.path('two')}"

    run(story, steps)


def test_a_member_that_is_renamed_takes_its_instance_along(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_between, "GONE_AFTER", 0.1)

    async def steps() -> None:
        story.write("one", {"a": ctx(512)}, name="same")
        await story.accepted(story.folder)
        before = story.desired["a"]
        story.path("one").rename(story.path("other"))
        seen = [news.desired.get("a") for news in await story.refresh()]
        while story.set.look_within is not None:
            seen += [news.desired.get("a") for news in await story.refresh()]
        assert all(spec is not None and spec.command == before.command for spec in seen)
        assert story.desired["a"] == before
        assert story.errors() == {}
        assert story.said(EventType.PROFILE_ERROR) == [], "its port is not another's meanwhile"
        assert story.set.paths[1:] == [str(story.path("other"))]

    run(story, steps)


def test_a_folder_that_is_away_takes_nothing_along(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_between, "GONE_AFTER", 0.0)

    async def steps() -> None:
        story.write("one", {"a": ctx(512)})
        await story.accepted(story.folder)
        elsewhere = story.folder.rename(story.folder.with_name("unmounted"))
        for _ in range(3):
            assert await story.refresh() == []
        assert story.errors() == {"profiles": ["cannot be read: No such file or directory"]}
        elsewhere.rename(story.folder)
        assert await story.refresh() == []
        assert story.errors() == {}

    run(story, steps)


def test_a_new_member_that_is_invalid_is_watched_and_forgotten_when_it_goes(story: Story) -> None:
    async def steps() -> None:
        story.write("one", {"a": ctx(512)})
        await story.accepted(story.folder)
        story.write("two", "instances: 1")
        assert await story.refresh() == []
        assert list(story.errors()) == ["two"]
        assert str(story.path("two")) in story.set.paths, "it may be mended in place"
        story.path("two").unlink()
        assert await story.refresh() == []
        assert story.errors() == {}

    run(story, steps)


def test_what_is_no_file_is_said_and_costs_nothing(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_between, "GONE_AFTER", 0.0)

    async def steps() -> None:
        story.write("one", {"a": ctx(512)})
        await story.accepted(story.folder)
        story.path("folder").mkdir()
        os.mkfifo(story.path("pipe"))
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(5):
            assert await story.refresh() == []
        assert story.errors().keys() == {"folder", "pipe"}
        assert len(os.listdir("/proc/self/fd")) == before

    run(story, steps)
