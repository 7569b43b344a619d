"""Edits of every kind, on a real file system: each is told, and a burst once.

In the stories of notices the slow timer is put off for an hour, so that it cannot stand in.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from orchestrator.runtime import inotify, watch
from orchestrator.runtime.places import places_of, stamp
from orchestrator.runtime.watch import Watch
from tests.saving import point

PATIENCE = 20.0


@pytest.fixture
def notices_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "RECHECK", 3600.0)


@pytest.fixture
def timer_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not notify: only the slow timer is left, and it is not slow."""
    monkeypatch.setattr(watch, "RECHECK", 0.02)
    monkeypatch.setattr(inotify, "_CHANGES", inotify._IGNORED)


@asynccontextmanager
async def watching(*paths: Path) -> AsyncGenerator[AsyncIterator[None]]:
    """Tells of changes; the first word, that it has begun, is past."""
    changes = Watch(lambda: [str(path) for path in paths]).changes()
    try:
        await heard(changes, lambda: True)
        yield changes
    finally:
        await changes.aclose()  # type: ignore[attr-defined]


async def heard(changes: AsyncIterator[None], what: Callable[[], object]) -> int:
    """Listen until a word comes at which `what` is so; how many came."""
    words = 0
    async with asyncio.timeout(PATIENCE):
        async for _ in changes:
            words += 1
            if what():
                break
    return words


def write_in_place(path: Path, text: str) -> None:
    with open(path, "r+") as file:
        file.truncate()
        file.write(text)


def truncate_then_write(path: Path, text: str) -> None:
    path.write_text("")
    path.write_text(text)


def rename_over(path: Path, text: str) -> None:
    aside = path.with_name(f".{path.name}.swp")
    aside.write_text(text)
    aside.replace(path)


def delete_and_recreate(path: Path, text: str) -> None:
    path.unlink()
    path.write_text(text)


def away_and_back(path: Path, text: str) -> None:
    path.rename(path.with_name("backup~"))
    path.write_text(text)


@pytest.mark.usefixtures("notices_alone")
@pytest.mark.parametrize(
    "edit", [write_in_place, truncate_then_write, rename_over, delete_and_recreate, away_and_back]
)
def test_every_way_to_edit_a_file_is_told_again_and_again(
    tmp_path: Path, edit: Callable[[Path, str], None]
) -> None:
    path = tmp_path / "p.yaml"
    path.write_text("0")

    async def story() -> None:
        async with watching(path) as changes:
            for text in ("one", "twotwo", "three and more"):
                edit(path, text)
                await heard(changes, lambda text=text: path.exists() and path.read_text() == text)

    asyncio.run(story())


@pytest.mark.usefixtures("timer_alone")
@pytest.mark.parametrize(
    "edit", [write_in_place, truncate_then_write, rename_over, delete_and_recreate, away_and_back]
)
def test_where_nothing_notifies_it_is_told_on_the_timer(
    tmp_path: Path, edit: Callable[[Path, str], None]
) -> None:
    path = tmp_path / "p.yaml"
    path.write_text("0")

    async def story() -> None:
        async with watching(path) as changes:
            for text in ("one", "twotwo"):
                edit(path, text)
                await heard(changes, lambda text=text: path.exists() and path.read_text() == text)

    asyncio.run(story())


@pytest.mark.usefixtures("notices_alone")
def test_a_file_that_goes_and_one_that_comes_are_told(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"

    async def story() -> None:
        async with watching(path) as changes:
            path.write_text("here")
            await heard(changes, path.exists)
            path.unlink()
            await heard(changes, lambda: not path.exists())

    asyncio.run(story())


@pytest.mark.usefixtures("notices_alone")
def test_a_file_is_also_written_under_another_name(tmp_path: Path) -> None:
    """A hard link, as a single bind-mounted file: its own folder hears nothing of that."""
    path, elsewhere = tmp_path / "here" / "p.yaml", tmp_path / "there" / "p.yaml"
    path.parent.mkdir()
    elsewhere.parent.mkdir()
    elsewhere.write_text("0")
    os.link(elsewhere, path)

    async def story() -> None:
        async with watching(path) as changes:
            for text in ("one", "two and more"):
                write_in_place(elsewhere, text)
                await heard(changes, lambda text=text: path.read_text() == text)

    asyncio.run(story())


@pytest.mark.usefixtures("notices_alone")
def test_what_file_times_do_not_tell_apart_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two writes within a tick of the clock, as long as each other: a change is told twice."""
    path = tmp_path / "p.yaml"
    path.write_text("0")

    async def story() -> None:
        async with watching(path) as changes:
            path.write_text("1")
            await heard(changes, lambda: path.read_text() == "1")
            monkeypatch.setattr(watch, "stamp", lambda _paths: last)
            path.write_text("2")
            await heard(changes, lambda: path.read_text() == "2")

    last = stamp([str(path)])
    asyncio.run(story())


def test_a_look_that_is_due_needs_no_change(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.touch()

    async def story() -> None:
        changes = Watch(lambda: [str(path)], lambda: 0.01).changes()
        words: list[int] = []
        await heard(changes, lambda: words.append(1) or len(words) == 5)
        await changes.aclose()  # type: ignore[attr-defined]

    asyncio.run(story())


@pytest.mark.usefixtures("notices_alone")
@pytest.mark.parametrize("pace", [0.0, 0.005])
@pytest.mark.parametrize("edit", [write_in_place, rename_over])
def test_of_200_saves_at_most_two_are_seen_and_the_last_is_one(
    tmp_path: Path, edit: Callable[[Path, str], None], pace: float
) -> None:
    """With a silence of 10 ms as the only end of a burst it would be ten for each second."""
    path = tmp_path / "p.yaml"
    path.write_text("before")
    stalls = 0

    def burst() -> None:
        nonlocal stalls
        for number in range(200):
            before = time.monotonic()
            edit(path, f"save {number:3}")
            time.sleep(pace)
            # Where the machine does not run us for so long, it is another burst.
            stalls += time.monotonic() - before > watch.SAME_BURST

    async def story() -> list[str]:
        seen: list[str] = []
        async with watching(path) as changes, asyncio.timeout(PATIENCE):
            writing = asyncio.create_task(asyncio.to_thread(burst))
            async for _ in changes:
                text = path.read_text()
                if text and text not in seen:
                    seen.append(text)
                if text == "save 199":
                    break
            await writing
        return seen

    seen = asyncio.run(story())
    assert len([text for text in seen if text != "before"]) <= 2 + stalls, seen
    assert seen[-1] == "save 199"


@pytest.mark.usefixtures("notices_alone")
def test_what_concerns_other_files_is_no_change(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text("0")

    async def story() -> None:
        async with watching(path) as changes:
            for number in range(20):
                (tmp_path / f"other{number}").write_text("x")
            path.chmod(0o600)
            path.write_text("mine")
            assert await heard(changes, lambda: path.read_text() == "mine") <= 2

    asyncio.run(story())


# --- folders --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("notices_alone")
def test_a_member_that_comes_to_a_folder_is_told_and_so_are_its_edits(tmp_path: Path) -> None:
    """Whoever watches a folder learns of its members, and then asks for them too."""
    members: list[Path] = []

    async def story() -> None:
        changes = Watch(lambda: [str(tmp_path), *map(str, members)]).changes()
        await heard(changes, lambda: True)
        member = tmp_path / "new.yaml"
        member.write_text("0")
        await heard(changes, member.exists)
        members.append(member)
        write_in_place(member, "edited in place")
        await heard(changes, lambda: member.read_text() == "edited in place")
        write_in_place(member, "and once more, in place")
        await heard(changes, lambda: member.read_text() == "and once more, in place")
        await changes.aclose()  # type: ignore[attr-defined]

    asyncio.run(story())


@pytest.mark.usefixtures("notices_alone")
def test_a_file_behind_links_that_are_swapped_as_a_cluster_does(tmp_path: Path) -> None:
    for version in ("v1", "v2"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "p.yaml").write_text(f"this is {version}")
    (tmp_path / "..data").symlink_to("v1")
    path = tmp_path / "p.yaml"
    path.symlink_to("..data/p.yaml")

    async def story() -> None:
        async with watching(path) as changes:
            (tmp_path / "..tmp").symlink_to("v2")
            os.replace(tmp_path / "..tmp", tmp_path / "..data")
            await heard(changes, lambda: path.read_text() == "this is v2")
            write_in_place(tmp_path / "v2" / "p.yaml", "edited behind the links")
            await heard(changes, lambda: path.read_text() == "edited behind the links")

    asyncio.run(story())


@pytest.mark.usefixtures("notices_alone")
def test_a_folder_that_is_a_link_to_another_now(tmp_path: Path) -> None:
    for version in ("v1", "v2"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "p.yaml").write_text(version)
    link = tmp_path / "link"
    link.symlink_to("v1")

    async def story() -> None:
        async with watching(link / "p.yaml") as changes:
            (tmp_path / "new").symlink_to("v2")
            os.replace(tmp_path / "new", link)
            await heard(changes, lambda: (link / "p.yaml").read_text() == "v2")
            (tmp_path / "v2" / "p.yaml").write_text("and its edits")
            await heard(changes, lambda: (link / "p.yaml").read_text() == "and its edits")

    asyncio.run(story())


@pytest.mark.usefixtures("notices_alone")
def test_a_file_behind_a_link_that_leads_to_another_link(tmp_path: Path) -> None:
    """Neither where the first link lies, nor where the file does, is what is changed."""
    far = tmp_path / "far"
    for version in ("v1", "v2"):
        (far / version).mkdir(parents=True)
        (far / version / "p.yaml").write_text(version)
    (far / "current").symlink_to("v1")
    path = tmp_path / "p.yaml"
    path.symlink_to(far / "current" / "p.yaml")

    async def story() -> None:
        async with watching(path) as changes:
            point(far / "current", "v2")
            await heard(changes, lambda: path.read_text() == "v2")
            write_in_place(far / "v2" / "p.yaml", "edited")
            await heard(changes, lambda: path.read_text() == "edited")

    asyncio.run(story())


@pytest.mark.usefixtures("notices_alone")
def test_a_folder_in_whose_place_there_is_another_now(tmp_path: Path) -> None:
    """What was watched goes on to exist, elsewhere."""
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "p.yaml").write_text(name)
    path = tmp_path / "old" / "p.yaml"

    async def story() -> None:
        async with watching(path) as changes:
            (tmp_path / "old").rename(tmp_path / "away")
            (tmp_path / "new").rename(tmp_path / "old")
            await heard(changes, lambda: path.read_text() == "new")
            rename_over(path, "and its edits")
            await heard(changes, lambda: path.read_text() == "and its edits")

    asyncio.run(story())


@pytest.mark.usefixtures("notices_alone")
def test_a_folder_that_is_not_there_yet_or_goes_and_comes_again(tmp_path: Path) -> None:
    path = tmp_path / "later" / "deep" / "p.yaml"

    async def story() -> None:
        async with watching(path) as changes:
            for text in ("one", "two and more"):
                path.parent.mkdir(parents=True)
                path.write_text(text)
                await heard(changes, lambda text=text: path.exists() and path.read_text() == text)
                path.write_text(f"{text}, edited")
                await heard(changes, lambda text=text: path.read_text() == f"{text}, edited")
                shutil.rmtree(path.parent)
                path.parent.parent.rmdir()
                await heard(changes, lambda: not path.exists())

    asyncio.run(story())


# --- what is watched ------------------------------------------------------------------------------


@pytest.mark.usefixtures("notices_alone")
def test_other_files_are_watched_as_soon_as_it_is_told_to_look_again(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        folder.mkdir()
        (folder / "p.yaml").write_text("0")
    now: list[Path] = []

    async def story() -> None:
        watched = Watch(lambda: [str(path) for path in now])
        changes = watched.changes()
        first = asyncio.ensure_future(heard(changes, lambda: bool(now)))
        for _ in range(3):
            await asyncio.sleep(0)
        for folder in folders:
            now[:] = [folder / "p.yaml"]
            watched.look_again()
            await first if not first.done() else await heard(changes, lambda: True)
            (folder / "p.yaml").write_text("edited")
            await heard(changes, lambda f=folder: (f / "p.yaml").read_text() == "edited")
        await changes.aclose()  # type: ignore[attr-defined]

    asyncio.run(story())


def test_ending_leaves_nothing_open(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").touch()

    async def story() -> None:
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(5):
            async with watching(tmp_path / "p.yaml"):
                pass
        listening = asyncio.create_task(_listen_for_ever(tmp_path / "p.yaml"))
        await asyncio.sleep(0)
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        assert len(os.listdir("/proc/self/fd")) == before

    asyncio.run(story())


async def _listen_for_ever(path: Path) -> None:
    async with watching(path) as changes:
        async for _ in changes:
            pass


def shown_in(*paths: Path) -> set[Path]:
    return {Path(place) for place, *_ in places_of(map(str, paths))}


def test_places_are_files_and_their_folders_with_links_followed(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.mkdir()
    file = real / "p.yaml"
    file.touch()
    (tmp_path / "link.yaml").symlink_to(file)
    assert shown_in(tmp_path / "link.yaml") == {tmp_path, real, file}
    assert shown_in(real) == {real}
    # A folder that is a link is swapped in the folder where that link lies.
    current = tmp_path / "current"
    current.symlink_to(real)
    assert shown_in(current) == {tmp_path, real}
    assert shown_in(current / "p.yaml") == {tmp_path, real, file}
    # And so is each link on the way to which another one leads.
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "relative").symlink_to("../current/p.yaml")
    assert shown_in(tmp_path / "far" / "relative") == {tmp_path / "far", tmp_path, real, file}


def test_of_what_does_not_exist_the_place_is_where_the_way_to_it_ends(tmp_path: Path) -> None:
    assert shown_in(tmp_path / "no" / "such.yaml") == {tmp_path}
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere" / "p.yaml")
    assert shown_in(tmp_path / "dangling") == {tmp_path}
    (tmp_path / "round").symlink_to("round")
    assert shown_in(tmp_path / "round") == {tmp_path}


def test_a_place_is_another_once_something_else_lies_there(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    before = places_of([str(folder)])
    folder.rename(tmp_path / "old")
    folder.mkdir()
    assert places_of([str(folder)]) != before


def test_a_stamp_changes_with_size_time_and_identity(tmp_path: Path) -> None:
    path = tmp_path / "p"
    seen = {stamp([str(path)])}
    path.write_text("x")
    seen.add(stamp([str(path)]))
    os.utime(path, ns=(1, 1))
    seen.add(stamp([str(path)]))
    other = tmp_path / "q"
    other.write_text("x")
    os.utime(other, ns=(1, 1))
    other.replace(path)
    seen.add(stamp([str(path)]))
    assert len(seen) == 4
    assert stamp([str(path)]) in seen


@pytest.mark.usefixtures("notices_alone")
def test_a_folder_that_is_made_again_is_watched_again_though_its_inode_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    # As on a disk that gives out the number again that was just freed.
    place = (str(folder), 1, 2)
    monkeypatch.setattr(watch, "places_of", lambda _paths: frozenset({place}))
    made: list[inotify.Notices] = []

    class Noted(inotify.Notices):
        def __init__(self, act: Callable[[], None]) -> None:
            super().__init__(act)
            made.append(self)

    monkeypatch.setattr(inotify, "Notices", Noted)

    async def story() -> None:
        async with watching(folder) as changes:
            (notices,) = made
            former = notices._watched[place]
            shutil.rmtree(folder)
            folder.mkdir()
            await heard(changes, lambda: notices._watched.get(place, former) != former)

    asyncio.run(story())


def test_the_end_of_a_watch_is_told_unless_it_was_asked_for(tmp_path: Path) -> None:
    gone, kept, left = (tmp_path / name for name in ("gone", "kept", "left"))
    for folder in (gone, kept, left):
        folder.mkdir()

    async def story() -> None:
        told = asyncio.Event()
        with inotify.Notices(told.set) as notices:
            notices.watch(places_of([str(gone), str(kept), str(left)]))
            notices.watch(places_of([str(gone), str(kept)]))
            assert not notices.lost
            gone.rmdir()
            async with asyncio.timeout(PATIENCE):
                await told.wait()
            assert notices.lost
            told.clear()
            gone.mkdir()
            notices.watch(places_of([str(gone), str(kept)]))
            assert not notices.lost
            (gone / "p.yaml").touch()
            async with asyncio.timeout(PATIENCE):
                await told.wait()
            assert not notices.lost

    asyncio.run(story())
