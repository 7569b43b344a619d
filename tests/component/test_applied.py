"""The applied set on real files: what an edit changes, what it must not, and who is to blame."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.control import applied
from orchestrator.control.applied import Accepted, AppliedSet, Rejected
from orchestrator.control.bus import Bus, NewDesired
from orchestrator.control.reconciler import Reconciler
from orchestrator.control.resolution import Machine
from orchestrator.control.toolchain import Toolchain
from orchestrator.core.event import Event, EventType
from orchestrator.core.spec import Built, Desired
from orchestrator.errors import InputError
from orchestrator.runtime.state import AppliedSource, Store
from tests.unit.test_flags import HELP
from tests.unit.test_ollama_engine import HELP as OLLAMA_HELP

PATIENCE = 20.0


@pytest.fixture(scope="module")
def toolchain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Toolchain, str]:
    """A program with llama-server's help; nothing here is ever started."""
    folder = tmp_path_factory.mktemp("engine")
    binary = folder / "llama-server"
    binary.write_text(f"#!/bin/sh\ncat {HELP}\n")
    binary.chmod(0o755)
    return Toolchain(str(folder / "cache")), str(binary)


@pytest.fixture
def ollama_help(tmp_path: Path) -> str:
    """A program with Ollama's help; nothing here is ever started."""
    binary = tmp_path / "ollama"
    binary.write_text(f"#!/bin/sh\ncat {OLLAMA_HELP}\n")
    binary.chmod(0o755)
    return str(binary)


class Story:
    """An applied set, its folder of profiles, and what it posts."""

    def __init__(self, folder: Path, model: Path, toolchain: tuple[Toolchain, str]) -> None:
        self.folder = folder / "profiles"
        self.folder.mkdir()
        self._state = folder
        self._model = model
        self._toolchain, self._binary = toolchain
        self.taken: set[int] = set()
        self.begin()

    def begin(self) -> None:
        """What a daemon does when it starts."""
        self.store = Store.open(str(self._state / "state.db"))
        self.bus = Bus(last_id=self.store.last_event_id())
        self.reconciler = Reconciler(bus=self.bus, store=self.store, observed={})
        self.set = AppliedSet(
            bus=self.bus, store=self.store, reconciler=self.reconciler, machine=self._machine
        )
        self.desired: Desired = {}
        self.events: list[Event] = []

    def _machine(self) -> Machine:
        return Machine(
            toolchain=self._toolchain,
            cache_dir=str(self._state / "cache"),
            run_dir="/",
            held_ports=self.store.ports(),
            taken_ports=frozenset(self.taken),
            ephemeral=(32768, 60999),
        )

    def path(self, name: str) -> Path:
        return self.folder / f"{name}.yaml"

    def write(self, stem: str, instances: Mapping[str, Any] | str, **more: Any) -> Path:
        """A profile: instances by name, or text as it is."""
        if isinstance(instances, str):
            text = instances
        else:
            whole = {
                key: {"model": str(self._model), **(value or {})}
                for key, value in instances.items()
            }
            text = yaml.safe_dump({**more, "instances": whole}, sort_keys=False)
        self.path(stem).write_text(text)
        return self.path(stem)

    async def apply(self, *paths: Path, add: bool = False, **env: str) -> Accepted | Rejected:
        shell = {"ORCHESTRATE_LLAMA_SERVER": self._binary, "PATH": os.environ["PATH"], **env}
        sources = [AppliedSource(str(path), path.is_dir(), shell, "/") for path in paths]
        outcome = await self.set.apply(sources, add=add)
        self.look()
        return outcome

    async def accepted(self, *paths: Path, add: bool = False) -> Accepted:
        outcome = await self.apply(*paths, add=add)
        assert isinstance(outcome, Accepted), outcome
        return outcome

    async def refresh(self) -> list[NewDesired]:
        await self.set.refresh()
        return self.look()

    def look(self) -> list[NewDesired]:
        """Take in what was posted."""
        news: list[NewDesired] = []
        for item in self.bus.drain():
            if isinstance(item, NewDesired):
                news.append(item)
                self.desired = item.desired
                self.events += [item.event] if item.event is not None else []
            else:
                self.events.append(item)
        return news

    def said(self, kind: EventType) -> list[str]:
        return [event.message for event in self.events if event.type is kind]

    def errors(self) -> dict[str, list[str]]:
        """Messages by file, of those that are not in force as they are."""
        return {
            Path(report.file).stem: [error["message"] for error in report.errors]
            for report in self.set.reports()
            if not report.ok
        }

    def ctx(self, name: str) -> str:
        argv = self.desired[name].command.argv
        return argv[argv.index("--ctx-size") + 1]

    def ports(self) -> dict[str, int]:
        return {name: spec.endpoint.port for name, spec in self.desired.items()}


@pytest.fixture
def story(tmp_path: Path, model: Path, toolchain: tuple[Toolchain, str]) -> Story:
    return Story(tmp_path, model, toolchain)


def run(story: Story, steps: Callable[[], Awaitable[None]]) -> None:
    async def all_of_it() -> None:
        try:
            await steps()
        finally:
            story.store.close()

    asyncio.run(all_of_it())


def ctx(size: int, **more: Any) -> dict[str, Any]:
    return {"flags": {"ctx-size": size}, **more}


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


def built(story: Story) -> str:
    holds = story.desired["o"].holds
    assert holds is not None
    origin = holds.models[0].origin
    assert isinstance(origin, Built)
    return origin.text


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


def test_a_file_that_was_named_and_is_gone_keeps_its_last_good_state(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(applied, "GONE_AFTER", 0.0)

    async def steps() -> None:
        path = story.write("p", {"a": ctx(512)})
        await story.accepted(path)
        path.unlink()
        assert await story.refresh() == []
        assert await story.refresh() == []
        assert story.errors() == {"p": ["the file does not exist"]}
        assert not story.set.waits_for_files
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


# --- a folder -------------------------------------------------------------------------------------


async def until_news(story: Story) -> None:
    end = time.monotonic() + PATIENCE
    while not await story.refresh():
        assert time.monotonic() < end, "it never came"
        assert story.set.waits_for_files


def test_members_come_and_go(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(applied, "GONE_AFTER", 0.3)

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
        assert story.set.waits_for_files
        story.write("two", {"b": ctx(512)})
        assert await story.refresh() == []
        assert not story.set.waits_for_files

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
    monkeypatch.setattr(applied, "GONE_AFTER", 0.1)

    async def steps() -> None:
        story.write("one", {"a": ctx(512)}, name="same")
        await story.accepted(story.folder)
        before = story.desired["a"]
        story.path("one").rename(story.path("other"))
        seen = [news.desired.get("a") for news in await story.refresh()]
        while story.set.waits_for_files:
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
    monkeypatch.setattr(applied, "GONE_AFTER", 0.0)

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


def test_what_is_no_file_is_said_and_costs_nothing(story: Story) -> None:
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


# --- several files --------------------------------------------------------------------------------


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
