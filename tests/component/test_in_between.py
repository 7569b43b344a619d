"""A look at the worst moment of every save: half a file, an empty one, or none, is not believed.

Without `InBetween` the first half is taken up (it is a valid profile, with one instance less), and
what is away or empty is reported as a mistake.
"""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest
import yaml

from orchestrator.control import in_between
from orchestrator.control.bus import NewDesired
from orchestrator.core.event import EventType
from orchestrator.runtime.lease import held_still
from tests.applied_story import Story, built, ctx, run
from tests.saving import WAYS, Way, halves

ways = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())

LONG = "# a comment, so that the file is of some length\n" * 20


def both(story: Story, size: int) -> str:
    """A profile whose first half is one too: it has `a` alone."""
    path = story.write("aside", {"a": ctx(size), "b": ctx(1)})
    text = path.read_text()
    path.unlink()
    head, _, tail = text.partition("  b:")
    whole = f"{head}{LONG}  b:{tail}"
    assert set(yaml.safe_load(halves(whole)[0])["instances"]) == {"a"}
    return whole


@ways
def test_a_profile_is_taken_up_once_it_is_whole(story: Story, way: Way) -> None:
    async def steps() -> None:
        path = story.write("p", both(story, 512))
        await story.accepted(path)
        news: list[NewDesired] = []
        for _ in way(path, both(story, 1024)):
            news += await story.refresh()
            assert set(story.desired) == {"a", "b"}
        news += await story.refresh()
        assert story.ctx("a") == "1024"
        assert len(news) == 1, "one edit, however it was saved"
        assert story.said(EventType.PROFILE_ERROR) == []
        assert (story.errors(), story.set.look_within) == ({}, None)

    run(story, steps)


@ways
def test_so_is_a_member_of_a_folder(story: Story, way: Way) -> None:
    async def steps() -> None:
        path = story.write("p", both(story, 512))
        story.write("q", {"c": ctx(1)})
        await story.accepted(story.folder)
        news: list[NewDesired] = []
        for _ in way(path, both(story, 1024)):
            news += await story.refresh()
            assert set(story.desired) == {"a", "b", "c"}
        news += await story.refresh()
        assert (story.ctx("a"), len(news)) == ("1024", 1)
        assert story.said(EventType.PROFILE_ERROR) == []

    run(story, steps)


@ways
def test_so_is_a_modelfile(story: Story, ollama_help: str, way: Way) -> None:
    def text(word: str) -> str:
        return f'FROM tiny\n{LONG}SYSTEM """{word}\n{word}\n"""\nPARAMETER top_k 7\n'

    async def steps() -> None:
        path = story.folder / "m.Modelfile"
        path.write_text(text("one"))
        models = [{"name": "m", "modelfile": "./m.Modelfile"}]
        instance = {"engine": "ollama", "binary": ollama_help, "models": models}
        await story.accepted(story.write("p", yaml.safe_dump({"instances": {"o": instance}})))
        news: list[NewDesired] = []
        for _ in way(path, text("two")):
            news += await story.refresh()
            assert built(story) in (text("one"), text("two"))
        news += await story.refresh()
        assert (built(story), len(news)) == (text("two"), 1)
        assert story.said(EventType.PROFILE_ERROR) == []

    run(story, steps)


def test_what_is_in_the_middle_of_a_save_holds_up_nothing_else(story: Story) -> None:
    async def steps() -> None:
        p, q = story.write("p", both(story, 512)), story.write("q", {"c": ctx(512)})
        await story.accepted(p, q)
        with p.open("a") as writing:
            writing.write("  d: {model: none}\n")
            writing.flush()
            story.write("q", {"c": ctx(1024)})
            await story.refresh()
            assert (story.ctx("c"), story.errors()) == ("1024", {})
            assert str(p) in story.set.paths
            assert story.set.look_within == in_between.LOOK_AGAIN

    run(story, steps)


def test_a_new_member_is_waited_for_too(story: Story) -> None:
    """It is watched from its first byte: its folder tells of its coming, not of its growing."""

    async def steps() -> None:
        story.write("one", {"a": ctx(512)})
        await story.accepted(story.folder)
        text = both(story, 1).replace("  a:", "  c:").replace("  b:", "  d:")
        with story.path("two").open("w") as writing:
            writing.write(halves(text)[0])
            writing.flush()
            assert await story.refresh() == []
            assert str(story.path("two")) in story.set.paths
            writing.write(halves(text)[1])
        assert len(await story.refresh()) == 1
        assert set(story.desired) == {"a", "c", "d"}

    run(story, steps)


@pytest.mark.parametrize("what", ["away", "empty", "unreadable"])
def test_what_stays_so_is_reported(
    story: Story, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    async def steps() -> None:
        path = story.write("p", both(story, 512))
        await story.accepted(path)
        path.unlink()
        if what == "empty":
            path.touch()
        elif what == "unreadable":
            path.mkdir()
        assert await story.refresh() == []
        assert story.errors() == {}
        monkeypatch.setattr(in_between, "GONE_AFTER", 0.0)
        assert await story.refresh() == []
        assert list(story.errors()) == ["p"]
        assert story.set.look_within is None
        assert set(story.desired) == {"a", "b"}

    run(story, steps)


def test_a_file_that_somebody_keeps_open_counts_when_it_is_still(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def steps() -> None:
        path = story.write("p", both(story, 512))
        await story.accepted(path)
        with path.open("r+") as writing:
            writing.truncate()
            writing.write(both(story, 1024))
            writing.flush()
            assert await story.refresh() == []
            monkeypatch.setattr(in_between, "WRITTEN_AFTER", 0.0)
            assert len(await story.refresh()) == 1
            assert story.ctx("a") == "1024"

    run(story, steps)


def test_what_grows_is_waited_for_from_its_last_growth() -> None:
    waiting = in_between.InBetween()

    def look(revision: str, now: float) -> frozenset[str]:
        return waiting.sift([in_between.Glimpse("p", revision, written=True)], now)

    limit = in_between.WRITTEN_AFTER
    assert look("one", 0.0)
    assert look("one", limit - 1)
    assert look("two", limit)
    assert look("two", 2 * limit - 1)
    assert not look("two", 2 * limit)


# --- how a writer is seen -------------------------------------------------------------------------


def test_a_writer_is_seen_and_one_that_comes_waits_for_the_reader(tmp_path: Path) -> None:
    path = tmp_path / "p"
    path.write_text("whole")
    reading = os.open(path, os.O_RDONLY)
    opened = threading.Event()

    def write() -> None:
        with path.open("w"):
            opened.set()

    before = signal.getsignal(signal.SIGURG)
    with path.open("a"), held_still(reading) as still:
        assert not still
    with held_still(reading) as still:
        assert still
        writer = threading.Thread(target=write)
        writer.start()
        assert not opened.wait(0.1), "it would have cut what is read"
        assert os.read(reading, 10) == b"whole"
    assert opened.wait(20)
    writer.join()
    os.close(reading)
    assert signal.getsignal(signal.SIGURG) == before


def test_where_there_is_no_telling_a_file_counts_as_whole(tmp_path: Path) -> None:
    ours, theirs = os.pipe()
    with held_still(ours) as still:
        assert still
    os.close(ours)
    os.close(theirs)
